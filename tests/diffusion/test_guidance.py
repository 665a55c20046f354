"""Guidance: CFG with two terms, Loopy's with three, and sets that cancel are never predicted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from portraitgen.diffusion.guidance import Guidance, guided


def guide(predictions: dict[str, Tensor], terms: list[tuple[str, float]]) -> tuple[Tensor, list[str]]:
    asked = []

    def predict(name: str) -> Tensor:
        asked.append(name)
        return predictions[name]

    return guided(predict, Guidance(terms))(), asked


@pytest.fixture
def predictions() -> dict[str, Tensor]:
    return dict(zip(("base", "reference", "audio"), torch.randn(3, 2, 5), strict=True))


def test_loopy_golden(shared: Path) -> None:
    golden = {
        name: torch.from_numpy(array) for name, array in np.load(shared / "golden/loopy_cfg.npz").items()
    }
    predictions = {
        name: golden[f"e_{short}"]
        for name, short in (("base", "base"), ("reference", "ref"), ("audio", "audio"))
    }
    out, _ = guide(predictions, [("base", 1), ("reference", 3), ("audio", 5)])
    torch.testing.assert_close(out, golden["out_5_3"], atol=2e-6, rtol=0)
    out, _ = guide(predictions, [("base", 1), ("reference", 1), ("audio", 1)])
    torch.testing.assert_close(out, golden["out_1_1"], atol=1e-6, rtol=0)


def test_classifier_free_guidance(predictions: dict[str, Tensor]) -> None:
    out, _ = guide(predictions, [("base", 1), ("audio", 3.5)])
    base, full = predictions["base"], predictions["audio"]
    torch.testing.assert_close(out, base + 3.5 * (full - base))


@pytest.mark.parametrize(("scales", "expected"), [((1, 1), "audio"), ((0, 0), "base"), ((1, 0), "reference")])
def test_neutral_scales_predict_one_set_only(
    predictions: dict[str, Tensor], scales: tuple[float, float], expected: str
) -> None:
    out, asked = guide(predictions, [("base", 1), ("reference", scales[0]), ("audio", scales[1])])
    assert torch.equal(out, predictions[expected])
    assert asked == [expected]


def test_arguments_reach_the_network() -> None:
    def predict(name: str, noisy: Tensor, time: Tensor, *, pose: Tensor) -> Tensor:
        return noisy * time + pose * (name == "all")

    noisy, time, pose = torch.randn(3, 4)
    out = guided(predict, Guidance([("none", 1), ("all", 2)]))(noisy, time, pose=pose)
    torch.testing.assert_close(out, noisy * time + 2 * pose)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "starts at"),
        ([("none", 3.5), ("all", 1)], "starts at"),
        ([("all", 1), ("all", 2)], "twice"),
    ],
)
def test_bad_terms(terms: list[tuple[str, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Guidance(terms)
