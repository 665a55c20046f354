"""Timesteps: the union over the ranks is stratified, and each sample alone has the promised distribution."""

import math

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

from portraitgen.diffusion.timesteps import (
    EmpiricalShift,
    integer_steps,
    logit_normal,
    shift_time,
    stratified_uniform,
)


@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 1), (1, 8), (3, 1), (3, 5), (64, 2)])
def test_ranks_together_fill_every_stratum_once(batch_size: int, world_size: int) -> None:
    for step in range(20):
        drawn = torch.cat(
            [
                stratified_uniform(batch_size, step=step, device="cpu", rank=rank, world_size=world_size)
                for rank in range(world_size)
            ]
        )
        strata = (drawn.double() * batch_size * world_size).floor().long()
        assert strata.sort().values.tolist() == list(range(batch_size * world_size))


def test_each_sample_of_each_rank_is_uniform_over_the_steps() -> None:
    torch.manual_seed(0)
    drawn = torch.stack(
        [
            torch.stack(
                [stratified_uniform(2, step=step, device="cpu", rank=rank, world_size=3) for rank in range(3)]
            )
            for step in range(4000)
        ]
    )
    for column in drawn.flatten(1).T:
        distance = (column.sort().values - (torch.arange(4000) + 0.5) / 4000).abs().max()
        assert distance < 1.63 / math.sqrt(4000), "Kolmogorov-Smirnov test at 1 %"


def test_stratified_mean_varies_less_than_independent_draws() -> None:
    torch.manual_seed(0)
    means = torch.stack([stratified_uniform(8, step=step, device="cpu").mean() for step in range(500)])
    assert means.std() < 0.2 * math.sqrt(1 / 12 / 8)


def test_generator_repeats_the_draw() -> None:
    first, again = (
        stratified_uniform(4, step=3, device="cpu", generator=torch.Generator().manual_seed(7))
        for _ in range(2)
    )
    other = stratified_uniform(4, step=3, device="cpu", generator=torch.Generator().manual_seed(8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("rank", [-1, 2])
def test_rank_outside_the_world(rank: int) -> None:
    with pytest.raises(ValueError, match="not in"):
        stratified_uniform(4, step=0, device="cpu", rank=rank, world_size=2)


def test_integer_steps_are_equally_likely_and_in_range() -> None:
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    steps = integer_steps(uniform, 1000)
    assert torch.bincount(steps).tolist() == [10] * 1000
    assert integer_steps(torch.tensor([0.0, 1 - 2**-24, 1.0]), 1000).tolist() == [0, 999, 999]


def test_logit_normal_has_the_moments_asked_for() -> None:
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    time = logit_normal(uniform, mean=-0.5, std=1.2)
    logit = torch.logit(time)
    assert logit.mean() == pytest.approx(-0.5, abs=1e-3)
    assert logit.std() == pytest.approx(1.2, abs=1e-3)
    assert bool((time.diff() > 0).all()), "keeps the strata"
    assert logit_normal(torch.tensor([0.0, 1 - 2**-24])).isfinite().all()


def test_shift_keeps_the_ends_and_moves_towards_noise() -> None:
    time = torch.linspace(0, 1, 101)
    shifted = shift_time(time, 3.0)
    assert shifted[[0, -1]].tolist() == [0, 1]
    assert bool((shifted[1:-1] > time[1:-1]).all())
    assert shift_time(torch.tensor(0.5), 3.0).item() == pytest.approx(0.75)
    assert torch.equal(shift_time(time, 1.0), time)


@pytest.mark.parametrize("tokens", [256, 4096, 4300, 4301, 9216])
@pytest.mark.parametrize("steps", [4, 28, 50])
def test_the_empirical_shift_is_that_of_diffusers(tokens, steps):
    expected = compute_empirical_mu(image_seq_len=tokens, num_steps=steps)
    arguments = EmpiricalShift().schedule(steps, tokens)
    assert arguments["mu"] == pytest.approx(expected, rel=1e-12)
    assert arguments["sigmas"] == pytest.approx(np.linspace(1, 1 / steps, steps).tolist())
