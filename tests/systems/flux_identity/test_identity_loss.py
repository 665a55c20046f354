"""The identity loss on Flux: what it looks at, that it reaches every adapter and falls, what weight 0 is."""

import pytest
import torch

from portraitgen.diffusion.conditions import ConditionMasks
from portraitgen.runs.train.train import train
from portraitgen.training.weights import load_weights
from tests.losses.identity.glance import face_loss, points
from tests.systems.flux_identity import tiny

REGION = {"fill_diptych": [0.5, 0, 1, 1], "kontext": None, "klein": None, "none": None}


def with_faces(rows=2):
    """Smooth pictures whose face fills them."""
    batch = tiny.batch(rows)
    coarse = torch.rand(2, rows, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for name, each in zip(("result", "ref"), coarse, strict=True):
        batch[name] = torch.nn.functional.interpolate(each, (64, 64), mode="bilinear")
    batch["src"] = batch["result"] * (1 - batch["mask"])
    batch["key_points"] = points(64).expand(rows, 1, 5, 2).clone()
    return batch


def forward_pass(module, batch, *, prediction=None, time=(0.3, 0.5)):
    torch.manual_seed(2)
    encoded = module.encode(batch)
    noised = module.objective.noise(encoded.clean, torch.tensor(time))
    masks = ConditionMasks()
    denoised = module.denoise(noised.noisy, noised.time, encoded.conditions, masks)
    if prediction is not None:
        denoised = type(denoised)(prediction(noised))
    return module._forward_pass(batch, encoded.conditions, masks, noised, denoised)


def value(loss, seen):
    mean = loss(seen).loss
    return mean.total / mean.count


@pytest.mark.parametrize("way", tiny.WAYS)
def test_it_looks_at_the_result_and_nothing_else(way):
    """A true prediction is no loss; in a diptych, what is wrong on the left does not matter."""
    module, batch = tiny.build(way).eval(), with_faces()
    loss = face_loss(target_region=REGION[way])
    assert value(loss, forward_pass(module, batch, prediction=lambda n: n.target)).abs() < 1e-5

    def wrong(side):
        def predict(noised):
            made, half = noised.target.clone(), noised.target.shape[-1] // 2
            made[..., slice(half) if side == "left" else slice(half, None)] += 2
            return made

        return predict

    assert value(loss, forward_pass(module, batch, prediction=wrong("right"))) > 1e-3
    if way == "fill_diptych":
        assert value(loss, forward_pass(module, batch, prediction=wrong("left"))).abs() < 1e-5


@pytest.mark.parametrize("way", tiny.WAYS)
def test_it_reaches_every_adapter_and_falls_when_it_alone_is_minimised(way):
    module, batch = tiny.build(way), with_faces()
    loss = face_loss(target_region=REGION[way])
    module.requires_grad_(False)
    adapters = {n: p.requires_grad_() for n, p in module.network.named_parameters() if ".lora_" in n}
    optimizer, values = torch.optim.AdamW([*adapters.values()], lr=3e-3), []
    for _ in range(12):
        found = value(loss, forward_pass(module, batch))
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        values.append(found.item())
    assert all(p.grad.abs().sum() > 0 for p in adapters.values()), "lora_A too, once lora_B has left zero"
    assert all(p.grad is None for p in [*module.codec.parameters(), *loss.parameters()])
    assert values[-1] < 0.8 * values[0]


def test_samples_of_other_types_and_without_their_reference_do_not_count():
    module, batch = tiny.build("kontext").eval(), with_faces()
    loss = face_loss(needs_conditions=["ref"])
    both = loss(forward_pass(module, batch)).loss
    assert both.count == 2
    assert loss(forward_pass(module, batch | {"data_type": ["person_head", "object"]})).loss.count == 1
    seen = forward_pass(module, batch)
    seen.nonzero["ref"] = torch.tensor([False, True])
    assert loss(seen).loss.count == 1
    batch["people"][:] = False
    nobody = loss(forward_pass(module, batch)).loss
    assert nobody.count == 0
    nobody.total.backward()


def test_weight_zero_is_training_without_it(tmp_path):
    shards, made = tiny.write_pairs(tmp_path / "pairs"), {}
    words = [
        "trainer.max_steps=2",
        "callbacks.samples=null",
        "data.val_span=null",
        "model.condition_dropout=null",
    ]
    losses = {
        "without": ["losses=none", "~losses.identity"],
        "zero": ["losses.identity.face_loss_weight=0.0"],
        "with": ["losses.identity.face_loss_weight=1.0", "losses.identity.gate=null"],
    }
    for name, more in losses.items():
        config = tiny.config("kontext", *words, f"name={name}", *more, shards=shards, runs=str(tmp_path))
        train(config)
        made[name] = load_weights(tmp_path / name / "weights/last.safetensors")[0]
    torch.use_deterministic_algorithms(False)
    assert all(torch.equal(made["zero"][name], made["without"][name]) for name in made["zero"])
    assert not all(torch.equal(made["with"][name], made["without"][name]) for name in made["zero"])
