"""Parameter groups and learning-rate schedules."""

import itertools
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from portraitgen.training.optim import build_optimizer, warmup_constant, warmup_cosine, warmup_cosine_restarts


def network() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(2, 2, 3), nn.GroupNorm(1, 2))
    return nn.ModuleDict({"lora": nn.Linear(2, 2), "body": body})


ADAMW = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1)


def test_every_trained_parameter_is_in_one_group_with_its_rate_and_decay() -> None:
    module = network()
    module["body"][0].bias.requires_grad_(False)
    optimizer = build_optimizer(ADAMW, module.named_parameters(), lr_scale={"lora.*": 0.1, "*.weight": 5.0})
    settings = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 5
    expected = {
        "lora.weight": (1e-4, 0.1),  # the first pattern counts
        "lora.bias": (1e-4, 0.0),
        "body.0.weight": (5e-3, 0.1),
        "body.1.weight": (5e-3, 0.0),  # a norm
        "body.1.bias": (1e-3, 0.0),
    }
    named = dict(module.named_parameters())
    for name, setting in expected.items():
        assert settings[id(named[name])] == pytest.approx(setting), name


def test_schedules_keep_the_ratio_between_groups() -> None:
    optimizer = build_optimizer(ADAMW, network().named_parameters(), lr_scale={"lora.*": 0.1})
    schedule = warmup_constant(optimizer, warmup_steps=4)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    rates = {group["lr"] for group in optimizer.param_groups}
    assert max(rates) / min(rates) == pytest.approx(10)


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ValueError, match="no parameter trains"):
        build_optimizer(ADAMW, network().requires_grad_(False).named_parameters(), lr_scale={})


def rates(make: object, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_warmup_constant() -> None:
    assert rates(partial(warmup_constant, warmup_steps=3), 6) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert rates(partial(warmup_constant, warmup_steps=0), 2) == [1, 1]


def test_warmup_cosine_rises_falls_and_stays() -> None:
    seen = rates(partial(warmup_cosine, warmup_steps=4, total_steps=20, final_scale=0.1), 25)
    assert seen[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(a > b for a, b in itertools.pairwise(seen[4:21]))
    assert seen[12] == pytest.approx(0.55)  # half way
    assert seen[20:] == pytest.approx([0.1] * 5)


def test_warmup_longer_than_the_run_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"total_steps \(5\) must exceed warmup_steps \(5\)"):
        rates(partial(warmup_cosine, warmup_steps=5, total_steps=5), 1)


@pytest.mark.golden
def test_cosine_with_restarts_is_consisids(shared: Path) -> None:
    golden = json.loads((shared / "golden" / "consisid_lr_schedule.json").read_text())
    assert golden["scheduler"] == "cosine_with_restarts"
    make = partial(
        warmup_cosine_restarts,
        warmup_steps=golden["warmup"],
        total_steps=golden["total"],
        cycles=golden["num_cycles"],
    )
    found = rates(make, golden["total"] + 1)
    for step, rate in golden["points"].items():
        assert golden["lr"] * found[int(step)] == pytest.approx(rate, rel=1e-9, abs=1e-18)
