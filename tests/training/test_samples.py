"""Pictures drawn while training."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from torch import Tensor

from portraitgen.metrics.report.panels import panel_frames
from portraitgen.training.ema import EMA
from portraitgen.training.run_log import CsvLog
from portraitgen.training.samples import SampleLogger
from portraitgen.training.weights import load_weights
from tests.training import toy


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_drawing_does_not_change_the_training(tmp_path: Path) -> None:
    with_samples = toy.train(tmp_path / "with", samples=True, every_steps=1).state_dict()
    without = toy.train(tmp_path / "without", samples=False, every_steps=1).state_dict()
    assert all(torch.equal(with_samples[name], without[name]) for name in without)
    averages, _ = load_weights(tmp_path / "with/weights/last.safetensors")
    expected, _ = load_weights(tmp_path / "without/weights/last.safetensors")
    assert all(torch.equal(averages[name], expected[name]) for name in expected)


def test_a_picture_and_a_video_every_so_often_and_at_the_end(tmp_path: Path) -> None:
    toy.train(tmp_path, samples=True, every_steps=4)
    assert names(tmp_path / "samples") == [
        f"step_{step:08d}.{kind}" for step in (4, 6) for kind in ("mp4", "png")
    ]
    picture = np.asarray(Image.open(tmp_path / "samples/step_00000006.png"))
    with av.open(str(tmp_path / "samples/step_00000006.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == toy.CLIP_FRAMES
    # 2 clips, of each 2 frames below each other; 4 columns of frames of 16 pixels, enlarged.
    assert picture.shape == (2 * frames[0].shape[0], frames[0].shape[1], 3)
    assert picture.shape[1] > 4 * 10 * toy.SIZE
    assert len({frame.tobytes() for frame in frames}) == 2


class Constant(toy.ToyGenerator):
    """Shows what it is given: the batch's keys, the noise, and the weights that are in place."""

    def sample(self, batch: dict[str, Any], *, generator: Any = None) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        noise = [torch.randn((), generator=one).item() for one in generator]
        self.seen.append((tuple(batch["key"]), tuple(noise), self.network.denoiser.conv_in.weight.clone()))
        return torch.zeros_like(batch["frames"])


def test_same_clips_and_noise_every_time_and_averaged_weights(tmp_path: Path) -> None:
    generator = toy.make_generator()
    generator.__class__ = Constant
    generator.seen = []
    callbacks = toy.make_callbacks(tmp_path, samples=True, every_steps=2)
    toy.train(tmp_path, generator=generator, trainer={"callbacks": callbacks})
    keys, noise, weights = zip(*generator.seen, strict=True)
    assert set(keys) == {("clip-000000900", "clip-000000901")}
    assert len(keys) == 3
    assert len(set(noise)) == 1
    assert len(set(noise[0])) == 2
    averages = next(c for c in callbacks if isinstance(c, EMA)).state_dict()["averages"]
    assert torch.equal(weights[-1], averages["network.denoiser.conv_in.weight"])
    assert generator.training


class Images(toy.ToyGenerator):
    """One picture each, and something of its own to show; in the order in which it is shown."""

    def sample(self, batch: dict[str, Any], *, generator: Any = None) -> Tensor:
        return -batch["frames"][:, 0]

    def shown(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"truth": batch["frames"][:, 0], "face": batch["reference"]}


def test_images_are_shown_beside_what_their_system_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[list[str]] = []

    def spy(clips: dict[str, Tensor]) -> Any:
        labels.append([*clips])
        return panel_frames(clips)

    monkeypatch.setattr("portraitgen.training.samples.panel_frames", spy)
    generator = toy.make_generator()
    generator.__class__ = Images
    toy.train(tmp_path, generator=generator, samples=True, every_steps=6)
    assert labels == [["face", "generated", "truth"]] * 2
    assert names(tmp_path / "samples") == ["step_00000006.png"], "no video of images"
    height, width = np.asarray(Image.open(tmp_path / "samples/step_00000006.png")).shape[:2]
    assert width > 3 * 10 * toy.SIZE
    assert height > 2 * 10 * toy.SIZE, "two samples below each other"


def test_weights_and_biases_gets_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = WandbLogger(name="toy", save_dir=tmp_path, offline=True)
    toy.train(tmp_path, samples=True, every_steps=6, trainer={"logger": [CsvLog(tmp_path), wandb]})
    wandb.experiment.finish()
    media = {path.suffix for path in tmp_path.glob("wandb/offline-run-*/files/media/**/sample*")}
    assert media == {".png", ".mp4"}


@pytest.mark.parametrize("setting", ["every_steps", "num_clips", "frames_per_clip"])
def test_counts_must_be_positive(tmp_path: Path, setting: str) -> None:
    settings = {"every_steps": 1} | {setting: 0}
    with pytest.raises(ValueError, match=rf"callbacks\.samples\.{setting} is 0"):
        SampleLogger(tmp_path, **settings)
