"""Noise: a seed means the same numbers alone, in a batch and whatever the global generator did."""

import pytest
import torch

from portraitgen.diffusion.noise import draw_noise, seeded_generators


def test_a_sample_depends_on_its_seed_alone() -> None:
    together = draw_noise((3, 4, 2), device="cpu", generator=seeded_generators([5, 6, 5]))
    torch.randn(7)
    alone = draw_noise((1, 4, 2), device="cpu", generator=seeded_generators([6]))
    assert torch.equal(together[1], alone[0])
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])


def test_one_generator_draws_the_batch() -> None:
    drawn = draw_noise((3, 4), device="cpu", generator=torch.Generator().manual_seed(5))
    assert torch.equal(drawn, torch.randn(3, 4, generator=torch.Generator().manual_seed(5)))


def test_without_generator_the_global_one_is_used() -> None:
    torch.manual_seed(3)
    drawn = draw_noise((100, 100), device="cpu", dtype=torch.float64)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.randn(100, 100, dtype=torch.float64))


def test_one_generator_for_each_sample() -> None:
    with pytest.raises(ValueError, match="2 generators for a batch of 3"):
        draw_noise((3, 4), device="cpu", generator=seeded_generators([1, 2]))
