"""Training through the real Trainer: what trains, accumulated gradients, extra losses."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from omegaconf import OmegaConf
from torch import Tensor

from portraitgen.data.clip_examples import ClipExamples
from portraitgen.data.datamodule import ShardDataModule
from portraitgen.data.shards import ShardWriter
from portraitgen.diffusion.conditions import ConditionDropout
from portraitgen.diffusion.objective import DiffusionObjective, Noised
from portraitgen.losses.loss import ForwardPass, Loss, LossValue
from portraitgen.losses.mean import Mean
from portraitgen.systems.aniportrait.module import AniPortrait
from portraitgen.systems.aniportrait.network import AniPortraitNetwork
from portraitgen.training.stage import TrainingStage
from tests.synthetic import synthetic_clip
from tests.systems.aniportrait.tiny_network import GUIDER, MOTION, UNET
from tests.systems.aniportrait.tiny_training import fit, make_batch, make_module, scheduler


class Gradients(Callback):
    """Keeps what the optimizer was about to use."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.found = {
            n: p.grad.clone() for n, p in pl_module.network.named_parameters() if p.grad is not None
        }


class FixedObjective(DiffusionObjective):
    """Time and noise of a sample depend on the sample, not on the batch that it comes in."""

    def sample_time(self, batch_size: int, *, step: int, **where: Any) -> Tensor:
        return torch.tensor([30, 300, 600, 900])[step * batch_size : (step + 1) * batch_size]

    def noise(self, clean: Tensor, time: Tensor, **given: Any) -> Noised:
        return super().noise(clean, time, noise=torch.sin(50 * clean.roll(1, dims=-1)))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_accumulated_gradients_are_those_of_the_whole_batch(checkpointing: bool) -> None:
    """Upstream runs through its graph a second time here: its reference features outlive the step."""
    whole = make_batch(4)
    singles = [{name: value[i : i + 1] for name, value in whole.items()} for i in range(4)]
    found = []
    for batches in ([whole], singles):
        gradients = Gradients()
        module = make_module(
            objective=FixedObjective(scheduler(), min_snr_gamma=5.0), gradient_checkpointing=checkpointing
        )
        fit(module, batches, gradients, accumulate=len(batches))
        found.append(gradients.found)
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    assert any(gradient.abs().max() > 1e-3 for gradient in found[0].values())


def test_an_extra_loss_sees_the_clean_frames_and_trains_the_network() -> None:
    """The way of an identity loss: the clean estimate as pictures, differentiable down to the pose guider."""

    class Pixels(Loss):
        def forward(self, seen: ForwardPass) -> LossValue:
            frames = seen.decode(seen.clean_estimate)
            assert frames.shape == seen.batch["frames"].shape
            return LossValue(Mean.over((frames - seen.batch["frames"]).abs()))

    class Losses(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
            self.found = outputs["losses"]

    losses, gradients, plain = Losses(), Gradients(), Gradients()
    batch = make_batch(2)
    module = make_module(objective=FixedObjective(scheduler()))
    module.use_losses({"pixels": Pixels(weight=1.0)})
    fit(module, [batch], losses, gradients)
    fit(make_module(objective=FixedObjective(scheduler())), [batch], plain)

    assert {*losses.found} == {"loss", "loss_diffusion", "loss_pixels"}
    moved = [name for name, each in gradients.found.items() if not torch.equal(each, plain.found[name])]
    # The maps behind a pose projection that is still zero see no gradient yet, with or without the loss.
    assert len(moved) > 0.5 * len(plain.found)
    for part in ("denoising_unet.conv_in.weight", "reference_unet.conv_in.weight", "pose_guider.scale"):
        assert part in gradients.found
    assert "denoising_unet.conv_in.weight" in moved


def test_the_clean_estimate_of_the_target_is_the_clean_clip() -> None:
    module, batch = make_module(), make_batch(2)
    encoded = module.encode(batch)
    noised = module.objective.noise(encoded.clean, torch.tensor([10, 700]))
    estimate = module.objective.clean_estimate(noised.target, noised)
    torch.testing.assert_close(module.codec.decode(estimate), batch["frames"], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    with ShardWriter(root, "train") as writer:
        for seed in range(2):
            writer.write(synthetic_clip(f"face{seed}", num_frames=24, size=64, seed=seed))
    return root / "shards" / "train-000000.tar"


def test_thirty_steps_lower_the_loss_of_unseen_frames(faces: Path) -> None:
    data = ShardDataModule(
        str(faces),
        examples=ClipExamples(clip_frames=1, pose_size=128),
        batch_size=4,
        samples_per_epoch=120,
        train_span=(0.0, 0.75),
        val_span=(0.75, 1.0),
        val_samples=4,
    )
    torch.manual_seed(0)
    network = AniPortraitNetwork(denoising_unet=UNET, reference_unet=UNET, pose_guider=GUIDER)
    dropout = ConditionDropout({"unconditional": {"probability": 0.1, "drop": ["reference", "image"]}})
    module = make_module(network=network, lr=3e-3, condition_dropout=dropout)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=30,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1,
        use_distributed_sampler=False,
    )
    (before,) = trainer.validate(module, datamodule=data, verbose=False)
    trainer.fit(module, datamodule=data)
    (after,) = trainer.validate(module, datamodule=data, verbose=False)
    assert after["val/loss"] < 0.8 * before["val/loss"]


@pytest.fixture(scope="module")
def full_size() -> AniPortrait:
    unet = {"attention_head_dim": 8, "cross_attention_dim": 768}
    with torch.device("meta"):
        network = AniPortraitNetwork(denoising_unet=unet, reference_unet=unet, pose_guider={}, motion={})
    return make_module(network=network)


def count(named: Mapping[str, Tensor], *patterns: str) -> float:
    """Parameters whose names start with one of `patterns`, in millions."""
    return round(sum(each.numel() for name, each in named.items() if name.startswith(patterns)) / 1e6, 2)


def trained(module: AniPortrait, stage: TrainingStage) -> dict[str, Tensor]:
    module = copy.deepcopy(module)
    stage.setup(Trainer(logger=False, enable_checkpointing=False), module, "fit")
    return {name: each for name, each in module.network.named_parameters() if each.requires_grad}


def test_what_the_stages_train_at_full_size(repository: Path, full_size: AniPortrait) -> None:
    """Upstream's sets of 859.5 + 840.7 + 167.5 and 453.2 million, less what can never get a gradient.

    Upstream freezes the reference U-Net's last block as unused. In truth 20 tensors of it are; the others do
    train here.
    """
    everything = dict(full_size.network.named_parameters())
    spatial = {name: each for name, each in everything.items() if "motion_modules" not in name}
    motion = {name: each for name, each in everything.items() if "motion_modules" in name}
    assert count(spatial, "denoising_unet") == 859.52
    assert count(spatial, "reference_unet") - count(spatial, "reference_unet.up_blocks.3") == 840.7
    assert count(spatial, "pose_guider") == 167.52
    assert count(motion, "denoising_unet") == 453.21

    queries = (".norm2.", ".attn2.to_q.", ".attn2.to_k.")
    unread = {
        n: e
        for n, e in spatial.items()
        if "unet" in n and ".attentions." in n and any(part in n for part in queries)
    }
    assert (count(unread, "denoising_unet"), count(unread, "reference_unet")) == (22.0, 22.0)
    stages = {
        name: OmegaConf.load(repository / f"conf/stage/aniportrait/{name}.yaml")
        for name in ("image", "temporal")
    }
    image = trained(full_size, TrainingStage("image", train=stages["image"].train))
    image = {name: each for name, each in image.items() if "motion_modules" not in name}
    assert count(image, "denoising_unet") == pytest.approx(859.52 - 22.0, abs=0.02)
    frozen = {name: each for name, each in spatial.items() if name not in image}
    tail = {name: each for name, each in frozen.items() if name not in unread}
    assert len(tail) + 4 == 20, "its norm2 and the query side of its cross attention are among the unread"
    assert count(image, "reference_unet") == pytest.approx(
        859.51 - 22.0 - count(tail, "reference_unet"), abs=0.02
    )
    assert count(image, "pose_guider") == 167.52

    temporal = trained(full_size, TrainingStage("temporal", train=stages["temporal"].train))
    assert temporal.keys() == motion.keys()


def test_a_frozen_pose_guider_keeps_its_statistics() -> None:
    parts = {"denoising_unet": UNET, "reference_unet": UNET, "pose_guider": GUIDER | {"norm": "batch"}}
    network = AniPortraitNetwork(**parts, motion=MOTION)
    before = {name: each.clone() for name, each in network.pose_guider.state_dict().items()}
    stage = TrainingStage("temporal", train=["denoising_unet.*motion_modules.*"])
    fit(make_module(network=network), [make_batch(2)] * 2, stage, steps=2)
    after = network.pose_guider.state_dict()
    assert all(torch.equal(after[name], each) for name, each in before.items())


def test_shown_are_reference_landmarks_and_truth() -> None:
    module, batch = make_module(), make_batch(1)
    shown = module.shown(batch)
    assert [*shown] == ["reference", "landmarks", "truth"]
    assert shown["landmarks"] is batch["pose"]
    assert "truth" not in module.shown({name: value for name, value in batch.items() if name != "frames"})
