"""Condition dropout: rates, exclusive choices and conditions that go together, over 100 000 draws."""

from typing import Any

import pytest
import torch

from portraitgen.diffusion.conditions import ConditionDropout, ConditionMasks, constant_masks, zero_conditions

DRAWS = 100_000
# Four standard deviations of a rate of 1/2.
TOLERANCE = 4 * 0.5 / DRAWS**0.5

ANIPORTRAIT = {"unconditional": {"probability": 0.1, "zero": ["image_embeds"], "drop": ["reference"]}}
LOOPY = {
    "audio": {"probability": 0.10, "zero": ["audio"]},
    "latents": {"probability": 0.10, "zero": ["motion_latents"]},
    "reference": {"probability": 0.15, "drop": ["reference", "motion"]},
    "motion": {"probability": 0.40, "zero": ["motion"]},
    "one_of_four": [
        {"probability": 0.25, "drop": [name for name in "abcd" if name != kept]} for kept in "abcd"
    ],
}
UNIPORTRAIT = {
    "faces": {"probability": 0.05, "zero": ["intrinsic", "structure"]},
    "structure": [
        {"probability": 0.33, "drop": ["structure"]},
        {"probability": 0.33, "zero": ["structure_tokens"]},
    ],
}


def draw(table: dict[str, Any], seed: int = 0) -> ConditionMasks:
    generator = torch.Generator().manual_seed(seed)
    return ConditionDropout(table).draw(DRAWS, device="cpu", generator=generator)


def rate(mask: torch.Tensor) -> float:
    return mask.float().mean().item()


def test_aniportrait_drops_embedding_and_reference_together() -> None:
    masks = draw(ANIPORTRAIT)
    assert rate(~masks.keep["reference"]) == pytest.approx(0.1, abs=TOLERANCE)
    assert torch.equal(masks.keep["reference"], masks.nonzero["image_embeds"])
    assert bool(masks.nonzero["reference"].all())
    assert bool(masks.keep["image_embeds"].all())


def test_loopy_rates_and_motion_following_the_reference() -> None:
    masks = draw(LOOPY)
    assert rate(~masks.nonzero["audio"]) == pytest.approx(0.10, abs=TOLERANCE)
    assert rate(~masks.keep["reference"]) == pytest.approx(0.15, abs=TOLERANCE)
    assert torch.equal(masks.keep["motion"], masks.keep["reference"])
    assert rate(~masks.nonzero["motion"]) == pytest.approx(0.40, abs=TOLERANCE)
    unusable = ~(masks.keep["motion"] & masks.nonzero["motion"])
    assert rate(unusable) == pytest.approx(0.15 + 0.85 * 0.40, abs=TOLERANCE)
    both = ~masks.nonzero["audio"] & ~masks.nonzero["motion_latents"]
    assert rate(both) == pytest.approx(0.01, abs=TOLERANCE), "rows are independent"


def test_exclusive_choices_leave_exactly_one() -> None:
    masks = draw(LOOPY)
    kept = torch.stack([masks.keep[name] for name in "abcd"])
    assert bool((kept.sum(0) == 1).all())
    for one in kept:
        assert rate(one) == pytest.approx(0.25, abs=TOLERANCE)


def test_thirds_always_choose() -> None:
    third = 1 / 3
    masks = draw({"row": [{"probability": third, "drop": [name]} for name in "abc"]})
    assert bool((torch.stack([masks.keep[name] for name in "abc"]).sum(0) == 2).all())


def test_uniportrait_structure_branch() -> None:
    masks = draw(UNIPORTRAIT)
    dropped, thinned = ~masks.keep["structure"], ~masks.nonzero["structure_tokens"]
    assert not bool((dropped & thinned).any())
    assert rate(dropped) == pytest.approx(0.33, abs=TOLERANCE)
    assert rate(thinned) == pytest.approx(0.33, abs=TOLERANCE)
    assert rate(~masks.nonzero["intrinsic"]) == pytest.approx(0.05, abs=TOLERANCE)
    assert torch.equal(masks.nonzero["intrinsic"], masks.nonzero["structure"])


def test_rows_on_one_condition_add_up() -> None:
    masks = draw({label: {"probability": 0.5, "zero": ["audio"], "drop": ["face"]} for label in "ab"})
    assert rate(~masks.nonzero["audio"]) == pytest.approx(0.75, abs=TOLERANCE)
    assert rate(~masks.keep["face"]) == pytest.approx(0.75, abs=TOLERANCE)


def test_samples_are_drawn_one_by_one_and_repeatable() -> None:
    masks, again, other = draw(ANIPORTRAIT), draw(ANIPORTRAIT), draw(ANIPORTRAIT, seed=1)
    keep = masks.keep["reference"]
    assert torch.equal(keep, again.keep["reference"])
    assert not torch.equal(keep, other.keep["reference"])
    neighbours = (~keep[1:] & ~keep[:-1]).float().mean().item()
    assert neighbours == pytest.approx(0.01, abs=TOLERANCE)


def test_zeroing_leaves_the_rest_untouched_even_beside_nan() -> None:
    clip = torch.randn(3, 2, 4)
    clip[1] = float("nan")
    other = torch.randn(3)
    masks = ConditionMasks(
        {"clip": torch.ones(3, dtype=torch.bool)}, {"clip": torch.tensor([1, 0, 1]).bool()}
    )
    zeroed = zero_conditions({"clip": clip, "other": other}, masks)
    assert torch.equal(zeroed["clip"][[0, 2]], clip[[0, 2]])
    assert torch.equal(zeroed["clip"][1], torch.zeros(2, 4))
    assert zeroed["other"] is other
    assert bool(clip[1].isnan().all()), "the input is not changed"


def test_zeroed_samples_get_no_gradient() -> None:
    condition = torch.randn(2, 3, requires_grad=True)
    masks = constant_masks(2, ["x"], device="cpu", zero=["x"])
    zero_conditions({"x": condition}, masks)["x"].sum().backward()
    assert condition.grad is not None
    assert torch.equal(condition.grad, torch.zeros(2, 3))


def test_misspelt_condition_is_an_error() -> None:
    masks = ConditionDropout({"row": {"probability": 0.1, "drop": ["refrence"]}}).draw(2, device="cpu")
    with pytest.raises(ValueError, match=r"refrence.*reference"):
        zero_conditions({"reference": torch.zeros(2)}, masks)
    with pytest.raises(ValueError, match="refrence"):
        constant_masks(2, ["reference"], device="cpu", drop=["refrence"])


def test_constant_masks_of_a_condition_set() -> None:
    masks = constant_masks(2, ["audio", "reference"], device="cpu", zero=["audio"], drop=["reference"])
    assert masks.keep["reference"].tolist() == [False, False]
    assert masks.keep["audio"].tolist() == [True, True]
    assert masks.nonzero["audio"].tolist() == [False, False]
    assert masks.nonzero["reference"].tolist() == [True, True]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (0.1, "outcome or a list"),
        ([], "outcome or a list"),
        ([0.1], "an outcome has"),
        ({"probability": 0.1, "zeros": ["audio"]}, "zeros"),
        ({"zero": ["audio"]}, "probability must be in"),
        ({"probability": 1.1, "zero": ["audio"]}, "probability must be in"),
        ({"probability": "often", "zero": ["audio"]}, "often"),
        ({"probability": 0.1}, "name the conditions"),
        ({"probability": 0.1, "zero": "audio"}, "list of condition names"),
        ({"probability": 0.1, "zero": None}, "list of condition names"),
        ([{"probability": 0.6, "zero": ["a"]}, {"probability": 0.5, "zero": ["b"]}], "sum to 1.1"),
    ],
)
def test_bad_rows_are_named(row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"'broken'.*{message}"):
        ConditionDropout({"good": {"probability": 0.1, "zero": ["audio"]}, "broken": row})
