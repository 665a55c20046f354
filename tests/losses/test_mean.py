"""Means in two parts, zeros on the graph, and gates."""

import pytest
import torch

from portraitgen.losses.by_products import attached_zero
from portraitgen.losses.gate import NoiseGate
from portraitgen.losses.mean import Mean


def test_a_mean_over_chosen_elements() -> None:
    values = torch.tensor([1.0, float("inf"), 3.0], requires_grad=True)
    mean = Mean.over(values, torch.tensor([True, False, True]))
    assert (mean.total.item(), mean.count.item()) == (4.0, 2.0)
    mean.total.backward()
    assert values.grad.tolist() == [1.0, 0.0, 1.0]
    assert Mean.over(torch.tensor([True, False])).pair().tolist() == [1.0, 2.0]
    assert Mean.over(values, torch.zeros(3, dtype=torch.bool)).pair().tolist() == [0.0, 0.0]
    assert Mean.of_nothing(values).pair().tolist() == [0.0, 0.0]


def test_a_zero_is_attached_to_all_that_it_is_made_of() -> None:
    parts = [torch.tensor([1.0, float("nan")], requires_grad=True) for _ in range(3)]
    zero = attached_zero(parts[0], {"one": parts[1], "layers": {"a": parts[2]}})
    zero.backward()
    assert zero == 0
    assert all(part.grad.tolist() == [0.0, 0.0] for part in parts)


def test_gates_weigh_by_noise() -> None:
    level = torch.tensor([0.0, 0.4, 0.5, 1.0])
    assert NoiseGate("squared")(level).tolist() == pytest.approx([1.0, 0.36, 0.25, 0.0])
    assert NoiseGate("linear", least=0.55)(level).tolist() == pytest.approx([1.0, 0.6, 0.55, 0.55])
    assert NoiseGate("below", limit=0.5)(level).tolist() == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "cubed"}, "gate.kind is 'cubed': use one of squared, linear, below"),
        ({"kind": "linear", "least": 2}, "gate.least is 2"),
        ({"kind": "below", "limit": -1}, "gate.limit is -1"),
    ],
)
def test_impossible_gates(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseGate(**settings)
