"""Frames between frames: none is lost, moving pictures move, and FILM is asked in upstream's order."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from portraitgen.media.decode import iter_frames
from portraitgen.media.interpolation import (
    BlendBetween,
    FilmBetween,
    FlowBetween,
    fill_between,
    film_order,
    key_positions,
)


class Fade(torch.nn.Module):
    """Called as FILM is; what the goldens were made with."""

    def forward(self, first: Tensor, second: Tensor, time: Tensor) -> Tensor:
        return first * (1 - time) + second * time


@pytest.fixture(scope="module")
def film_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.pt"
    torch.jit.trace(Fade(), (torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4), torch.ones(1, 1))).save(path)
    return path


@pytest.fixture(scope="module")
def goldens(shared: Path) -> list[tuple[dict, Tensor, Tensor]]:
    with np.load(shared / "golden/aniportrait_frame_interp.npz") as file:
        cases = json.loads(str(file["meta"]))
        return [
            (case, torch.from_numpy(file[f"{i}_in"][0]), torch.from_numpy(file[f"{i}_out"][0]))
            for i, case in enumerate(cases)
        ]


def test_film_is_asked_in_upstreams_order(goldens):
    for case, _, _ in goldens:
        times = [time for *_, time in film_order(case["inter_frames"])]
        expected = case["dts"][: case["inter_frames"]] or times
        assert times == pytest.approx(expected, abs=1e-3)  # theirs are float16


def test_film_gives_upstreams_frames(goldens, film_file):
    between = FilmBetween(film_file)
    for case, given, expected in goldens:
        frames = [2 * frame - 1 for frame in given.unbind(1)]
        step = case["inter_frames"] + 1
        made = list(fill_between(frames, range(0, step * len(frames), step), between))
        assert len(made) == case["out_frames"]
        torch.testing.assert_close(torch.stack(made, 1) / 2 + 0.5, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_no_frame_is_lost(every):
    for num_frames in range(1, 30):
        positions = key_positions(num_frames, every)
        assert positions[0] == 0
        assert positions[-1] == num_frames - 1
        assert max((b - a for a, b in itertools.pairwise(positions)), default=1) <= every
        frames = [torch.full((3, 2, 2), float(position)) for position in positions]
        filled = list(fill_between(iter(frames), positions, BlendBetween()))
        torch.testing.assert_close(torch.stack(filled)[:, 0, 0, 0], torch.arange(float(num_frames)))


def test_upstream_loses_the_tail():
    assert key_positions(12, 3, with_last=False) == [0, 3, 6, 9]
    assert key_positions(12, 3) == [0, 3, 6, 9, 11]
    with pytest.raises(ValueError, match=r"interpolation\.every=0 must be 1 or more"):
        key_positions(12, 0)


def test_frames_are_passed_on_one_by_one():
    taken = []

    def source():
        for number in range(100):
            taken.append(number)
            yield torch.zeros(3, 2, 2)

    frames = fill_between(source(), range(0, 300, 3), BlendBetween())
    list(itertools.islice(frames, 7))
    assert taken == [0, 1, 2]


def test_flow_moves_what_moves():
    texture = torch.rand(1, 3, 12, 18, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(texture, (96, 144), mode="bicubic")[0].clamp(0, 1) * 2 - 1
    scene = [wide[:, :, 24 - shift : 120 - shift] for shift in (0, 4, 8, 12)]
    made = FlowBetween()(scene[0], scene[3], 2)
    faded = BlendBetween()(scene[0], scene[3], 2)
    inner = (slice(None), slice(16, -16), slice(16, -16))
    for flow, blend, truth in zip(made, faded, scene[1:3], strict=True):
        error = (flow[inner] - truth[inner]).abs().mean()
        assert error < 0.2 * (blend[inner] - truth[inner]).abs().mean()
    assert made[0].dtype == scene[0].dtype


def test_flow_beats_fading_and_copying_on_a_real_face(shared: Path):
    """Two of three frames are made: in PSNR, means over them."""
    source = shared / "testdata/clips/pose_ref_video.mp4"
    clip = [
        torch.from_numpy(frame.image).movedim(-1, 0) / 127.5 - 1
        for frame in itertools.islice(iter_frames(source), 19)
    ]
    positions = key_positions(len(clip), 3)
    keys = [clip[position] for position in positions]

    def psnr(between) -> float:
        filled = fill_between(keys, positions, between)
        errors = [(made - true).square().mean() for made, true in zip(filled, clip, strict=True)]
        return float(np.mean([10 * np.log10(4 / error) for error in errors if error > 0]))

    def copy(first: Tensor, second: Tensor, count: int) -> list[Tensor]:
        return [first if 2 * (index + 1) < count + 1 else second for index in range(count)]

    flow, blend, copied = (psnr(between) for between in (FlowBetween(), BlendBetween(), copy))
    assert flow > blend + 2 > copied + 2


def test_files_that_are_no_film(tmp_path):
    with pytest.raises(ValueError, match=r"film_net_fp16\.pt of ZJYang.*or take interpolation=flow"):
        FilmBetween(tmp_path / "film.pt")
    (tmp_path / "film.pt").write_bytes(b"no program")
    with pytest.raises(ValueError, match="is no TorchScript"):
        FilmBetween(tmp_path / "film.pt")
