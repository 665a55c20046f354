"""The sound of a window begins and ends with its frames; clips without sound are left out."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from portraitgen.data.sample import DataError
from portraitgen.data.shards import ShardWriter
from portraitgen.faces.measure import mouth_opening
from portraitgen.media.audio import encode_wav, frame_audio_window
from tests.data.modules import clip_module
from tests.synthetic import synthetic_clip, synthetic_landmarks

FRAMES = 40


def counting_sound(fps: Fraction) -> bytes:
    """Each sample says which frame it sounds in: frame 7 is 0.07 loud."""
    _, total = frame_audio_window(0, FRAMES, fps=fps)
    borders = [frame_audio_window(frame, 1, fps=fps)[0] for frame in range(FRAMES)]
    frames = np.searchsorted(borders, np.arange(total), side="right") - 1
    return encode_wav(frames / 100)


def write(root, fps: Fraction = Fraction(25), *, silent: int = 1, split: str = "train"):
    with ShardWriter(root, split) as writer:
        for number in range(3):
            clip = synthetic_clip(f"{split}{number}", num_frames=FRAMES, size=32, seed=number)
            sound = None if number < silent else counting_sound(fps)
            writer.write(replace(clip, fps=fps, audio=sound))
    return str(root / "shards" / f"{split}-*.tar")


def first_batch(shards, **settings) -> dict:
    defaults = {"clip_frames": 8, "batch_size": 4, "samples_per_epoch": 4, "snap_keyframes": False}
    module = clip_module(shards, **{**defaults, "audio": True, **settings})
    return module.on_after_batch_transfer(next(iter(module.train_dataloader())), 0)


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(30)])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_sound_is_that_of_the_frames(tmp_path, fps, stride):
    batch = first_batch(write(tmp_path, fps), stride=stride)
    length = frame_audio_window(0, 8 * stride, fps=fps)[1]
    assert batch["audio"].shape == (4, length)
    assert all(key.startswith(("train1-", "train2-")) for key in batch["key"])
    for sound, frames in zip(batch["audio"], batch["frame_index"].tolist(), strict=True):
        heard = np.rint(100 * sound.numpy()).astype(int)
        inside = heard[heard < FRAMES]
        assert inside[0] == frames[0]
        # Windows of one length: the last sample may be the next frame's, where rates do not divide.
        assert frames[-1] + stride - 1 <= inside[-1] <= frames[-1] + stride
        _, counts = np.unique(inside, return_counts=True)
        assert abs(counts[1:-1] - 16000 / fps).max() < 1


def test_silence_after_the_end_of_the_sound(tmp_path):
    clip = synthetic_clip("short", num_frames=FRAMES, size=32)
    with ShardWriter(tmp_path, "train") as writer:
        writer.write(replace(clip, audio=encode_wav(np.full(16_000, 0.5))))
    batch = first_batch(str(tmp_path / "shards/*.tar"), clip_frames=FRAMES)
    assert (batch["audio"][:, :16_000] > 0.49).all()
    assert not batch["audio"][:, 16_000:].any()


def test_without_pictures_nothing_is_decoded(tmp_path):
    batch = first_batch(write(tmp_path), pictures=False)
    assert set(batch) == {
        *("key", "frame_index", "landmarks", "reference_index", "reference_landmarks", "audio"),
    }


def test_the_neutral_reference_has_the_most_closed_mouth(tmp_path):
    batch = first_batch(write(tmp_path), reference="neutral", pictures=False)
    for key, frame in zip(batch["key"], batch["reference_index"].tolist(), strict=True):
        landmarks = synthetic_landmarks(FRAMES, 32, seed=int(key[5]))
        assert frame == mouth_opening(landmarks).argmin()


def test_data_without_any_sound(tmp_path):
    with pytest.raises(DataError, match=r"none of 3 samples .* has sound, and data\.examples\.audio is set"):
        first_batch(write(tmp_path, silent=3))


def test_clips_of_different_rates_have_no_common_length(tmp_path):
    write(tmp_path, Fraction(25), split="a")
    write(tmp_path, Fraction(30), split="b")
    with pytest.raises(DataError, match=r"differ in frame rate \(2 of 25/1, 2 of 30/1\)"):
        first_batch(str(tmp_path / "shards/*.tar"))


def test_sound_needs_one_stride(tmp_path):
    with pytest.raises(DataError, match=r"examples\.stride=\[1, 4\]: windows with sound need one stride"):
        first_batch(write(tmp_path), stride=[1, 4])


def test_sound_around_the_window_comes_too(tmp_path):
    """Silent before the clip begins and after it ends."""
    shards = write(tmp_path)
    batch = first_batch(shards, sound_margin=16)
    assert batch["audio"].shape == (4, 40 * 640)
    for sound, frames in zip(batch["audio"], batch["frame_index"].tolist(), strict=True):
        heard = np.rint(100 * sound.numpy()).astype(int)
        around = np.arange(frames[0] - 16, frames[-1] + 17).repeat(640)
        expected = np.where((around >= 0) & (around < FRAMES), around, 0)
        assert (heard == expected).mean() > 0.999
    with pytest.raises(DataError, match=r"sound_margin=2: give 0 or more, and windows of stride 1"):
        first_batch(shards, sound_margin=2, stride=2)
