"""The identity loss in a training: with several processes, in no file, named in the weights."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from portraitgen.diffusion.sampling import sample
from portraitgen.losses.gate import NoiseGate
from portraitgen.training.weights import load_facts, load_weights
from tests.losses.identity.glance import ToyFaces, glance
from tests.training import toy
from tests.training.test_extra_losses import PlainGenerator, make_plain, rows_of


@pytest.fixture(autouse=True)
def _importable_in_processes(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.syspath_prepend(str(repository))


def make_with_faces(**changes: Any) -> PlainGenerator:
    """Of 4 clips the first alone has a face; all of its frames are looked at."""
    settings: dict[str, Any] = {
        "of": (0,),
        "recognizer": glance(),
        "face_loss_weight": 5.0,
        "face_latents": None,
        "gate": NoiseGate("squared"),
    }
    return make_plain({"identity": ToyFaces(**(settings | changes))})


def test_two_processes_of_which_one_has_no_face_learn_what_one_does(tmp_path: Path) -> None:
    options: dict[str, Any] = {"make": make_with_faces, "every_steps": 1, "trainer": {"max_steps": 3}}
    options["train"] = ["body.*"]  # nobody asks for the rest
    one, two = tmp_path / "one", tmp_path / "two"
    assert toy.finish(toy.start(one, world_size=1, batch_size=4, **options)) == [0]
    assert toy.finish(toy.start(two, world_size=2, batch_size=2, **options)) == [0, 0]
    expected, _ = load_weights(one / "weights/last.safetensors")
    found, _ = load_weights(two / "weights/last.safetensors")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)
    for single, double in zip(rows_of(one), rows_of(two), strict=True):
        assert double == pytest.approx(single, rel=1e-4)
        assert single["train/identity_coverage"] == 0.25
        assert single["train/loss_identity"] > 0


def test_the_loss_changes_what_is_learnt_and_without_weight_nothing(tmp_path: Path) -> None:
    def learnt(name: str, **changes: Any) -> torch.Tensor:
        made = make_with_faces(of=(0, 1, 2, 3), **changes) if changes else make_plain()
        run = toy.train(tmp_path / name, generator=made, trainer={"max_steps": 2})
        return run.network.body[0].weight.detach().clone()

    plain = learnt("plain")
    assert torch.equal(learnt("weightless", face_loss_weight=0.0), plain)
    assert not torch.allclose(learnt("with", face_loss_weight=5.0), plain, atol=1e-5)


def test_the_recogniser_is_in_no_file_but_named_in_the_weights_also_of_later_stages(tmp_path: Path) -> None:
    trainer = {"max_steps": 1, "limit_val_batches": 0}
    made = make_with_faces()
    toy.train(tmp_path / "one", generator=made, trainer=trainer)
    weights = tmp_path / "one/weights/last.safetensors"
    (digest,) = load_facts(weights)["recognizers"].items()
    assert digest == (glance().digest, "glance")
    assert glance(6).digest != glance().digest
    checkpoint = torch.load(tmp_path / "one/checkpoints/last.ckpt", weights_only=True)
    assert not [name for name in checkpoint["state_dict"] if "recognizer" in name or "fc" in name]
    assert {*load_weights(weights)[0]} == {*made.network.state_dict()}

    toy.train(tmp_path / "two", generator=make_plain(), trainer=trainer, init_from=str(weights))
    assert load_facts(tmp_path / "two/weights/last.safetensors")["recognizers"] == dict([digest])
    toy.train(tmp_path / "three", generator=make_plain(), trainer=trainer)
    assert "recognizers" not in load_facts(tmp_path / "three/weights/last.safetensors")


def test_what_a_few_steps_draw_is_looked_at_with_the_gradient_of_the_last(tmp_path: Path) -> None:
    """PuLID's accurate loss: k steps from pure noise, whatever the gate says of this step."""
    calls: list[bool] = []

    class Watched(PlainGenerator):
        def denoise(self, *args: Any) -> Any:
            calls.append(torch.is_grad_enabled())
            return super().denoise(*args)

    steps = DDIMScheduler(prediction_type="sample", timestep_spacing="trailing")
    rollout = partial(sample, scheduler=steps, num_steps=4, gradients=1)
    made = make_with_faces(of=(0, 1), rollout=rollout, gate=NoiseGate("below", limit=0.0))
    made.__class__ = Watched
    before = made.network.body[0].weight.detach().clone()
    toy.train(tmp_path, generator=made, every_steps=1, trainer={"max_steps": 1, "limit_val_batches": 0})
    assert calls == [True, False, False, False, True]
    (row,) = rows_of(tmp_path)
    assert row["train/identity_coverage"] == 1
    assert row["train/loss_identity"] > 0
    alone = make_plain()
    toy.train(tmp_path / "plain", generator=alone, trainer={"max_steps": 1, "limit_val_batches": 0})
    moved = [each.network.body[0].weight.detach() - before for each in (made, alone)]
    assert not torch.allclose(*moved, atol=1e-6)


def test_validation_draws_nothing_and_logs_the_same_figures(tmp_path: Path) -> None:
    made = make_with_faces(of=(0, 1, 2, 3), face_latents=1)
    toy.train(tmp_path, generator=made, every_steps=2, trainer={"max_steps": 2, "val_check_interval": 2})
    (row,) = rows_of(tmp_path)
    for name in ("coverage", "time", "similarity"):
        assert f"val/identity_{name}" in row
        assert f"train/identity_{name}" in row
    assert row["val/identity_coverage"] == 1
    buckets = [name for name in row if name.startswith("val/identity_loss_")]
    assert buckets
