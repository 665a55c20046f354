"""The routing loss, by hand and on a router that learns."""

from types import SimpleNamespace

import pytest
import torch

from portraitgen.losses.gate import NoiseGate
from portraitgen.losses.routing import RoutingLoss, region_iou, routing_error

# Two faces on 4x4 places: the upper left quarter and the lower right one; W has 8 places.
FACES = torch.zeros(1, 2, 4, 4)
FACES[0, 0, :2, :2] = 1
FACES[0, 1, 2:, 2:] = 1
BOTH = torch.tensor([[True, True]])


def pass_of(logits, boxes, people, *, side=32, latents=4, level=0.25):
    batch = {
        "image": torch.zeros(len(people), 3, side, side),
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "people": people,
    }
    return SimpleNamespace(
        batch=batch,
        by_products={"router_logits": logits},
        prediction=torch.zeros(len(people), 4, latents, latents),
        noised=SimpleNamespace(noisy=torch.zeros(len(people), 4, latents, latents)),
        noise_level=torch.full((len(people),), level),
    )


BOXES = [[[0, 0, 16, 16], [16, 16, 32, 32]]]


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 2.0), ("mean", 2 / 16), ("masked_mean", 0.25)])
def test_by_hand(reduction, expected):
    """Equal shares of a half: 8 places x 2 people x (1/2)^2 = 4; N = 2, h·w = 16, ΣW = 8."""
    logits = torch.zeros(1, 2, 4, 4)
    assert routing_error(logits, FACES, BOTH, reduction).item() == expected
    seen = pass_of({"a": logits}, BOXES, BOTH)
    value = RoutingLoss(reduction=reduction)(seen)
    assert (value.loss.total / value.loss.count).item() == expected
    # ψ = (3/4, 1/4) everywhere: 4 places at (1/4)² twice, 4 at (3/4)² twice: 5.
    uneven = torch.tensor([3.0, 1.0]).log().view(1, 2, 1, 1).expand(1, 2, 4, 4)
    assert routing_error(uneven, FACES, BOTH, reduction).item() == pytest.approx(expected * 5 / 4)


def test_shares_that_are_the_maps_cost_nothing_and_places_outside_have_no_gradient():
    logits = torch.where(FACES > 0, 50.0, -50.0).requires_grad_()
    assert routing_error(logits, FACES, BOTH, "sum").item() == 0
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    routing_error(logits, FACES, BOTH, "sum").sum().backward()
    outside = (FACES.amax(1, keepdim=True) == 0).expand_as(FACES)
    assert logits.grad is not None
    assert not logits.grad[outside].any()
    assert logits.grad[~outside].all()


def test_only_samples_of_several_people_count_and_padding_has_no_say():
    lowest = torch.finfo(torch.float32).min
    logits = torch.zeros(3, 3, 4, 4)
    people = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    logits[0, 2] = logits[1, 1:] = logits[2] = lowest
    logits.requires_grad_()
    boxes = [[*BOXES[0], [float("nan")] * 4]] * 3
    value = RoutingLoss()(pass_of({"a": logits}, boxes, people))
    assert value.loss.count == 1
    assert value.loss.total.item() == 0.25
    value.loss.total.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[1:].any()
    assert not logits.grad[0, 2].any()
    none = RoutingLoss()(pass_of({}, BOXES, BOTH))
    assert none.loss.count == 0
    assert none.figures.keys() == {*RoutingLoss.figures}


def test_layers_have_one_weight_each_and_figures_tell_levels_apart():
    sharp = torch.where(FACES > 0, 50.0, -50.0)
    seen = pass_of({"a": torch.zeros(1, 2, 4, 4), "b": sharp, "c": torch.zeros(1, 2, 2, 2)}, BOXES, BOTH)
    value = RoutingLoss(gate=NoiseGate("squared"))(seen)
    assert value.loss.total.item() == pytest.approx((0.25 + 0 + 0.25) / 3 * 0.75**2)
    means = {name: (each.total / each.count).item() for name, each in value.figures.items() if each.count}
    assert means == pytest.approx({"iou": (0.25 + 1 + 0.25) / 3, "loss_1": 0.125, "loss_2": 0.25})


def test_iou_of_what_was_given_away():
    logits = torch.where(FACES > 0, 1.0, 0.0)
    assert region_iou(logits, FACES, BOTH).item() == 1
    logits[0, :, :2, 1] = torch.tensor([0.0, 1.0])[:, None]  # half of the first face to the second
    assert region_iou(logits, FACES, BOTH).item() == pytest.approx((2 / 4 + 4 / 6) / 2)


@pytest.mark.parametrize("setting", ["reduction", "cover", "overlap"])
def test_unknown_settings_are_refused(setting):
    with pytest.raises(ValueError, match=f"losses: {setting} is 'other': use one of"):
        RoutingLoss(**{setting: "other"})
