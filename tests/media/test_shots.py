"""Cuts are found, motion is not taken for one."""

from pathlib import Path

import numpy as np
import pytest

from portraitgen.media.decode import iter_frames, read_video
from portraitgen.media.shots import scene_cuts


def test_a_talking_head_has_no_cut(carphone: Path) -> None:
    assert scene_cuts(frame.image for frame in iter_frames(carphone)) == []


def test_joined_pieces_are_told_apart(carphone: Path) -> None:
    frames = read_video(carphone)
    other = frames[:, ::-1, ::-1] // 2 + 60
    assert scene_cuts([*frames[:10], *other[:12], *frames[50:53], *other[60:80]]) == [10, 22, 25]


def test_steady_motion_is_no_cut() -> None:
    noise = np.kron(np.random.default_rng(0).integers(0, 256, (8, 60, 3)), np.ones((16, 16, 1))).astype(
        np.uint8
    )
    panned = [noise[:, 16 * place : 16 * place + 128] for place in range(40)]
    assert scene_cuts(panned) == []


@pytest.mark.parametrize("rate", [8, 5, 2, 1])
@pytest.mark.parametrize("coded", [False, True], ids=["the same pictures", "coded anew"])
def test_few_pictures_a_second_brought_to_many_are_no_cuts(carphone: Path, rate: int, coded: bool) -> None:
    """Between repeats of a picture, each new one would stand out."""
    frames = read_video(carphone)
    held = [frames[int(number * rate / 25) * 25 // rate] for number in range(90)]
    if coded:
        rng = np.random.default_rng(0)
        held = [image ^ (rng.random(image.shape) < 0.01).astype(np.uint8) for image in held]
    assert scene_cuts(held) == []
    other = [image[::-1, ::-1] // 2 + 60 for image in held[:50]]
    assert scene_cuts([*held[:50], *other]) == [50]


def test_short_input() -> None:
    black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    assert scene_cuts([]) == []
    assert scene_cuts([black]) == []
    assert scene_cuts([black, white]) == [1]


def test_broadcast_cuts(shared: Path) -> None:
    """A concert with three cuts, one of them into a moving camera."""
    clip = shared / "testdata" / "clips" / "multi_face_hamilton.mp4"
    assert scene_cuts(frame.image for frame in iter_frames(clip)) == [20, 82, 211]
