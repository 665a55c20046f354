"""Guidance: predictions pushed from weaker to stronger sets of conditions, each step with its own scale."""

from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec

from torch import Tensor

P = ParamSpec("P")


class Guidance:
    """An ordered list of condition sets, weakest first, with a scale for each step from one set to the next.

    prediction = p₀ + Σᵢ scaleᵢ·(pᵢ − pᵢ₋₁). Classifier-free guidance (Ho & Salimans 2022) has two terms, the
    unconditional and the conditional prediction; Loopy has three (base, reference at 3, audio at 5).

    Args:
        terms: (condition set, scale) pairs as read from YAML. Guidance starts at the first; its scale is 1.

    Raises:
        ValueError: no terms, a condition set twice, or a first scale other than 1.
    """

    def __init__(self, terms: Sequence[tuple[str, float]]) -> None:
        names = [name for name, _ in terms]
        scales = [float(scale) for _, scale in terms]
        if not terms or scales[0] != 1:
            raise ValueError(
                f"guidance starts at a set of scale 1, as in [[none, 1], [all, 3.5]]; got {list(terms)}"
            )
        if len({*names}) < len(names):
            raise ValueError(f"guidance names a condition set twice: {', '.join(names)}")
        coefficients = [now - after for now, after in zip(scales, [*scales[1:], 0.0], strict=True)]
        self.coefficients = {
            name: coefficient for name, coefficient in zip(names, coefficients, strict=True) if coefficient
        }
        """Condition set → factor of its prediction in the sum. Sets that cancel out (scale 1 above them) are
        left out: they need not be predicted at all."""


def guided(predict: Callable[Concatenate[str, P], Tensor], guidance: Guidance) -> Callable[P, Tensor]:
    """Turns `predict(condition_set, …)` into a guided `predict(…)`, calling it once a set that counts."""

    def predict_guided(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        parts = [
            coefficient * predict(name, *args, **kwargs)
            for name, coefficient in guidance.coefficients.items()
        ]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    return predict_guided
