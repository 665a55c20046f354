"""Which conditions a sample goes without, in training and guidance: by mask, never by skipping a module."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ConditionMasks:
    """Per-sample masks, bool `[B]`, for every condition by name.

    `keep[name]` is False where the condition is dropped: the network must not see it (masked attention keys,
    a branch scaled by 0). `nonzero[name]` is False where its features become zeros, which the network does
    see: of inputs by `zero_conditions`, of what a network makes of them by `zeroed`. Both are False where one
    draw zeroes and another drops. A name that is not there is kept as it is by all samples.
    """

    keep: dict[str, Tensor] = field(default_factory=dict)
    nonzero: dict[str, Tensor] = field(default_factory=dict)

    def zeroed(self, name: str, features: Tensor) -> Tensor:
        """`features` `[B, …]`, zero in the samples where `nonzero[name]` is False, even if they are NaN."""
        nonzero = self.nonzero.get(name)
        if nonzero is None:
            return features
        return features.masked_fill(~nonzero.view(-1, *[1] * (features.ndim - 1)), 0)


class ConditionDropout:
    """Drops conditions at random, sample by sample, from a table of independent draws.

    Each row of the table is one draw and its key a free label. A row has one outcome or a list of exclusive
    ones; with the probability left over nothing happens. What one condition drags along is named in the same
    outcome. Loopy's table, with a row of exclusive choices added (exactly one of two is left)::

        audio:     {probability: 0.10, zero: [audio]}
        reference: {probability: 0.15, drop: [reference, motion]}
        motion:    {probability: 0.40, zero: [motion]}
        control:
          - {probability: 0.5, drop: [landmarks]}
          - {probability: 0.5, drop: [movement]}

    Args:
        table: label → outcome or list of outcomes, as read from YAML.

    Raises:
        ValueError: names the row: unknown key, missing or impossible probability, nothing to zero or drop, or
            probabilities of one row that exceed 1.
    """

    def __init__(self, table: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]) -> None:
        self._rows = [_read_row(label, row) for label, row in table.items()]
        self.names = sorted({name for row in self._rows for one in row for name in (*one.zero, *one.drop)})

    def draw(
        self, batch_size: int, *, device: torch.device | str, generator: torch.Generator | None = None
    ) -> ConditionMasks:
        """Masks of all conditions in the table, each sample on its own."""
        masks = constant_masks(batch_size, self.names, device=device)
        source = device if generator is None else generator.device
        for row in self._rows:
            uniform = torch.rand(batch_size, generator=generator, device=source).to(device)
            for outcome in row:
                elsewhere = (uniform < outcome.start) | (uniform >= outcome.stop)
                for name in outcome.zero:
                    masks.nonzero[name] &= elsewhere
                for name in outcome.drop:
                    masks.keep[name] &= elsewhere
        return masks


def constant_masks(
    batch_size: int,
    names: Iterable[str],
    *,
    device: torch.device | str,
    zero: Collection[str] = (),
    drop: Collection[str] = (),
) -> ConditionMasks:
    """The same masks for every sample: of a condition set in guidance, or all conditions where none is named.

    Raises:
        ValueError: `zero` or `drop` holds a name that is not in `names`.
    """
    names = list(names)
    unknown = sorted({*zero, *drop} - {*names})
    if unknown:
        raise ValueError(f"no condition {', '.join(unknown)}: there are {', '.join(sorted(names))}")
    return ConditionMasks(
        keep={name: torch.full((batch_size,), name not in drop, device=device) for name in names},
        nonzero={name: torch.full((batch_size,), name not in zero, device=device) for name in names},
    )


def zero_conditions(
    conditions: Mapping[str, Tensor], masks: ConditionMasks, *, inside: Collection[str] = ()
) -> dict[str, Tensor]:
    """The conditions (batch first), set to zero in the samples where `masks.nonzero` is False.

    Args:
        inside: names that the network zeroes itself, as features (`ConditionMasks.zeroed`); they need not be
            conditions, and those that are stay as they are here.

    Raises:
        ValueError: the masks name a condition that is not there, which would silently drop nothing.
    """
    known = {*conditions, *inside}
    unknown = sorted({*masks.nonzero} - known)
    if unknown:
        raise ValueError(
            f"condition dropout names {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )
    return {
        name: condition if name in inside else masks.zeroed(name, condition)
        for name, condition in conditions.items()
    }


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Happens to a sample whose uniform number is in [start, stop)."""

    start: float
    stop: float
    zero: tuple[str, ...]
    drop: tuple[str, ...]


def _read_row(label: str, row: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[_Outcome]:
    outcomes: list[_Outcome] = []
    start = 0.0
    listed = [row] if isinstance(row, Mapping) else row
    if not isinstance(listed, Sequence) or not listed:
        raise ValueError(f"condition dropout {label!r}: give an outcome or a list of them, not {row!r}")
    for outcome in listed:
        if not isinstance(outcome, Mapping) or not {*outcome} <= {"probability", "zero", "drop"}:
            raise ValueError(
                f"condition dropout {label!r}: an outcome has probability, zero and drop, not {outcome!r}"
            )
        probability = outcome.get("probability")
        if not isinstance(probability, int | float) or not 0 <= probability <= 1:
            raise ValueError(
                f"condition dropout {label!r}: probability must be in [0, 1], not {probability!r}"
            )
        zero, drop = (_read_names(label, effect, outcome.get(effect, [])) for effect in ("zero", "drop"))
        if not zero and not drop:
            raise ValueError(f"condition dropout {label!r}: name the conditions to zero or to drop")
        outcomes.append(_Outcome(start, start + probability, zero, drop))
        start += probability
    if start > 1 + 1e-9:
        raise ValueError(
            f"condition dropout {label!r}: the probabilities of its outcomes sum to {start:g} > 1"
        )
    return outcomes


def _read_names(label: str, effect: str, names: Any) -> tuple[str, ...]:
    if (
        isinstance(names, str)
        or not isinstance(names, Sequence)
        or not all(isinstance(name, str) for name in names)
    ):
        raise ValueError(
            f"condition dropout {label!r}: {effect} must be a list of condition names, not {names!r}"
        )
    return tuple(names)
