"""The identity loss against guangzhaoli/face (seed 003), and what it counts."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from portraitgen.faces.recognition.iresnet import IResNet
from portraitgen.faces.recognition.recognizer import FaceRecognizer
from portraitgen.losses.gate import NoiseGate
from portraitgen.losses.identity.distance import FaceDistance
from portraitgen.losses.identity.face_loss import DifferentiableFaceLoss
from tests.losses.identity.glance import face_loss, points

SIDE = 48
POINTS = points(SIDE)


def pass_of(estimate, batch, *, level=None, **more):
    """A forward pass of a network whose latents are pixels."""
    decoded = []

    def decode(latents):
        decoded.append(len(latents))
        return latents * 1.0

    fields = {
        "batch": {"key": [str(number) for number in range(len(estimate))], **batch},
        "prediction": estimate,
        "noised": SimpleNamespace(clean=torch.zeros(estimate.shape), noise=torch.zeros(estimate.shape)),
        "clean_estimate": estimate,
        "noise_level": torch.zeros(len(estimate)) if level is None else torch.tensor(level),
        "decode": decode,
        "decoded": decoded,
        "keep": {},
        "nonzero": {},
    }
    return SimpleNamespace(**(fields | more))


def photos(count=4, **more):
    """Pictures, and a batch of photos in which each shows a face."""
    torch.manual_seed(0)
    drawn, true = (
        torch.nn.functional.interpolate(torch.rand(count, 3, 6, 6) * 2 - 1, (SIDE, SIDE), mode="bilinear")
        for _ in range(2)
    )
    batch = {
        "image": true,
        "people": torch.ones(count, 1, dtype=torch.bool),
        "key_points": POINTS.expand(count, 1, 5, 2).clone(),
    }
    return drawn.requires_grad_(), batch | more


def mean(value):
    return (value.loss.total / value.loss.count).item()


def figures(value):
    return {name: (each.total / each.count).item() for name, each in value.figures.items() if each.count}


@pytest.fixture(scope="module")
def golden(shared):
    return load_file(shared / "golden/faceloss_seed003.safetensors")


@pytest.fixture(scope="module")
def arcface(key_seeded):
    """r50 with weights by rule, as the golden has it."""
    network = IResNet(50)
    network.load_state_dict(key_seeded({name: t.shape for name, t in network.state_dict().items()}))
    return FaceRecognizer(network, name="arcface_r50", identity_threshold=0.35)


@pytest.mark.golden
@pytest.mark.parametrize(("mode", "kind"), [("bbox", "multiscale"), ("kps", "cosine")])
def test_the_loss_and_its_gradient_are_the_seeds(golden, arcface, mode, kind, monkeypatch):
    """Of three samples the second has no face; the seed's pictures are in [0, 1]."""
    place, stored = {"bbox": ("boxes", "boxes"), "kps": ("key_points", "kps")}[mode]
    where = {name: golden[f"{name}_{stored}"].float() for name in ("gen", "ref")}
    where["gen"][1] = torch.nan
    distances = []
    plain = FaceDistance.__call__

    def noted(self, drawn, true):
        found = plain(self, drawn, true)
        distances.append(
            (found, [1 - torch.cosine_similarity(*both) for both in zip(drawn, true, strict=True)])
        )
        return found

    monkeypatch.setattr(FaceDistance, "__call__", noted)
    pixels = golden["gen"].clone().requires_grad_()
    loss = DifferentiableFaceLoss(
        recognizer=arcface, face_align_mode=mode, face_target="reference", face_loss_type=kind
    )
    batch = {
        "image": torch.zeros_like(golden["gen"]),
        place: where["gen"],
        "ref": golden["ref"] * 2 - 1,
        f"ref_{place}": where["ref"],
    }
    value = loss(pass_of(pixels * 2 - 1, batch))
    valid = golden[f"{mode}_valid"]
    assert value.loss.count == valid.sum()
    ((_, cosine), scales) = distances[0]
    per = golden[f"{mode}_per"][valid]
    torch.testing.assert_close(1 - cosine, per, rtol=0, atol=1e-5 if mode == "bbox" else 1e-4)
    found = value.loss.total / value.loss.count
    if kind == "cosine":
        torch.testing.assert_close(found, golden["kps_loss"][0], rtol=0, atol=1e-4)
        return
    torch.testing.assert_close(found, golden["bbox_ms_total"][0], rtol=0, atol=1e-4)
    for name, scale in zip(["layer1", "layer2", "layer3", "layer4", "embedding"], scales, strict=True):
        torch.testing.assert_close(scale.mean(), golden[f"bbox_ms_{name}"][0], rtol=0, atol=1e-4)
    single = scales[-1].mean()
    torch.testing.assert_close(single, golden["bbox_loss"][0], rtol=0, atol=1e-5)
    single.backward()
    assert not pixels.grad[1].any()
    expected = golden["bbox_grad"]
    assert (pixels.grad - expected).abs().max() <= 1e-3 * expected.abs().max()


@pytest.mark.parametrize("kind", ["cosine", "multiscale"])
def test_the_same_face_costs_nothing_and_its_opposite_two(kind):
    estimate, batch = photos(2)
    loss = face_loss(face_loss_type=kind)
    assert mean(loss(pass_of(batch["image"], batch))) == pytest.approx(0, abs=1e-6)
    value = loss(pass_of(estimate, batch))
    value.loss.total.backward()
    assert estimate.grad.isfinite().all()
    assert estimate.grad.flatten(1).any(1).all()
    assert 0 < mean(value) <= 2 * (1 if kind == "cosine" else 2)


def test_one_face_weighs_what_the_gate_says_and_rows_without_weight_are_not_decoded():
    """Each row by its own noise level, not by the batch's mean (seed 003 took that)."""
    estimate, batch = photos(4)
    level = [0.0, 0.9, 0.3, 0.6]
    alone = [
        mean(face_loss()(pass_of(estimate[i : i + 1], photos(1)[1] | {"image": batch["image"][i : i + 1]})))
        for i in range(4)
    ]
    seen = pass_of(estimate, batch, level=level)
    squared = face_loss(gate=NoiseGate("squared"))(seen)
    assert squared.loss.count == 4
    expected = sum((1 - t) ** 2 * each for t, each in zip(level, alone, strict=True))
    assert squared.loss.total.item() == pytest.approx(expected, rel=1e-5)
    assert seen.decoded == [1, 1, 1, 1]

    seen = pass_of(estimate, batch, level=level)
    below = face_loss(gate=NoiseGate("below", limit=0.5), decode_samples=2)(seen)
    assert seen.decoded == [2]
    assert below.loss.count == 4, "the expectation over all noise levels, whatever the batch holds"
    assert below.loss.total.item() == pytest.approx(alone[0] + alone[2], rel=1e-5)
    below.loss.total.backward()
    assert estimate.grad.flatten(1).any(1).tolist() == [True, False, True, False]
    assert figures(below) == pytest.approx(
        {
            "coverage": 0.5,
            "time": 0.15,
            "similarity": 1 - (alone[0] + alone[2]) / 2,
            "loss_0": alone[0],
            "loss_1": alone[2],
        },
        rel=1e-4,
    )


def test_only_people_count_in_a_mixed_batch():
    """Seed 003 turned the loss on for all rows as soon as one was a person."""
    estimate, batch = photos(4, data_type=["person", "object", "person_head", "dress"])
    seen = pass_of(estimate, batch)
    value = face_loss()(seen)
    assert value.loss.count == 2
    value.loss.total.backward()
    assert estimate.grad.flatten(1).any(1).tolist() == [True, False, True, False]
    assert len(seen.decoded) == 2


def test_a_batch_without_a_face_gives_a_zero_on_the_graph_and_seldom_a_warning(caplog):
    loss = face_loss()
    for count in range(1, 13):
        estimate, batch = photos(2)
        batch["people"][:] = False
        seen = pass_of(estimate, batch)
        value = loss(seen)
        assert (value.loss.total.item(), value.loss.count.item()) == (0, 0)
        assert figures(value) == {"coverage": 0}
        assert not seen.decoded
        value.loss.total.backward()
        assert estimate.grad is not None
        assert not estimate.grad.any()
        assert len(caplog.records) == (1 if count < 10 else 2)
    assert "no sample of the batch has a face for the identity loss (10 such" in caplog.text


def test_degenerate_key_points_are_no_face_and_break_no_gradient():
    estimate, batch = photos(3)
    batch["key_points"][0] = 7.0
    batch["key_points"][1] = torch.nan
    value = face_loss()(pass_of(estimate, batch))
    assert value.loss.count == 1
    value.loss.total.backward()
    assert estimate.grad.isfinite().all()
    assert estimate.grad.flatten(1).any(1).tolist() == [False, False, True]


def test_a_face_at_the_edge_is_cut_out_with_black_beside_it():
    """Seed 003 repeated the picture's border: a smear of skin where the network was trained on black."""
    estimate, batch = photos(1)
    batch["key_points"] = batch["key_points"] - SIDE * 0.4
    crops, valid = face_loss().crops(batch["image"], batch["key_points"][:, 0])
    assert valid.all()
    assert (crops[..., :40, :40] == -1).all()
    assert (crops[..., 60:, 60:] > -1).all()
    assert mean(face_loss()(pass_of(estimate, batch))) > 0


def test_saturated_pixels_keep_their_gradient():
    """Seed 003 clamped to [0, 1] first: what is too bright could not become darker."""
    estimate, batch = photos(1)
    bright = (estimate.detach() + 3).requires_grad_()
    face_loss()(pass_of(bright, batch)).loss.total.backward()
    assert bright.grad[..., 16:32, 16:32].abs().gt(0).float().mean() > 0.9


def test_the_recogniser_sees_all_faces_of_a_side_at_once_and_each_as_if_alone():
    """Seed 003 called it for each sample, and for the reference in every step anew."""
    estimate, batch = photos(4)
    loss, calls = face_loss(), []
    loss.recognizer.network.register_forward_hook(lambda _, crops, found: calls.append(len(crops[0])))
    value = loss(pass_of(estimate, batch))
    assert calls == [4, 4]
    alone = [
        loss(pass_of(estimate[i : i + 1], {k: v[i : i + 1] for k, v in batch.items()})) for i in range(4)
    ]
    assert value.loss.total.item() == pytest.approx(sum(each.loss.total.item() for each in alone), rel=1e-5)

    calls.clear()
    stored = loss.recognizer.embed(batch["image"], batch["key_points"][:, 0])[0]
    calls.clear()
    kept = face_loss(face_target="identity")
    kept.recognizer.network.register_forward_hook(lambda _, crops, found: calls.append(len(crops[0])))
    found = kept(pass_of(estimate, batch | {"identity": stored[:, None]}))
    assert calls == [4], "what is constant is stored, and not computed again"
    assert found.loss.total.item() == pytest.approx(value.loss.total.item(), rel=1e-5)


def test_the_part_of_a_diptych_that_shows_the_picture_is_a_setting():
    estimate, batch = photos(2)
    left, right = torch.rand(2, 2, 3, SIDE, SIDE).unbind(0)
    whole = face_loss()(pass_of(estimate, batch))
    for place, shares in enumerate(([0, 0, 1 / 3, 1], [1 / 3, 0, 2 / 3, 1], [2 / 3, 0, 1, 1])):
        parts = [left, right]
        parts.insert(place, estimate)
        found = face_loss(target_region=shares)(pass_of(torch.cat(parts, dim=-1), batch))
        assert mean(found) == pytest.approx(mean(whole), rel=1e-5)
    with pytest.raises(ValueError, match=r"drawn has \[48, 96\] pixels.*\[48, 48\]: set target_region"):
        face_loss()(pass_of(torch.cat([left, right], dim=-1), batch))
    with pytest.raises(ValueError, match="target_region is"):
        face_loss(target_region=[0.5, 0, 0.5, 1])


def test_several_people_of_a_photo_count_one_by_one():
    estimate, batch = photos(2)
    people = torch.tensor([[True, True], [True, False]])
    points = torch.stack([POINTS, POINTS * 0.5], dim=0).expand(2, 2, 5, 2).clone()
    seen = pass_of(estimate, batch | {"people": people, "key_points": points})
    value = face_loss()(seen)
    assert value.loss.count == 3
    assert seen.decoded == [1, 1]


@pytest.mark.parametrize("settings", [{"face_target": "reference"}, {"align_source": "detect"}])
def test_one_reference_or_one_detected_face_is_the_first_persons(settings):
    estimate, batch = photos(2)
    more = {
        "people": torch.tensor([[True, True], [False, False]]),
        "key_points": torch.stack([POINTS, POINTS * 0.5]).expand(2, 2, 5, 2).clone(),
        "ref": batch["image"],
        "ref_key_points": POINTS.expand(2, 5, 2),
    }
    loss = face_loss(detector=object(), **settings)
    loss.crops.detect = lambda pictures, detector: POINTS.expand(len(pictures), 5, 2)
    found = loss(pass_of(estimate, batch | more))
    alone = face_loss()(pass_of(estimate[:1], {key: each[:1] for key, each in batch.items()}))
    assert found.loss.count == 1
    assert found.loss.total.item() == pytest.approx(alone.loss.total.item(), rel=1e-5)


def test_rows_without_the_condition_that_says_who_it_is_do_not_count():
    estimate, batch = photos(3)
    masks = {"keep": {"image": torch.tensor([True, False, True])}}
    masks["nonzero"] = {"pose": torch.tensor([False, True, True])}
    assert face_loss()(pass_of(estimate, batch, **masks)).loss.count == 3
    assert face_loss(needs_conditions=["image"])(pass_of(estimate, batch, **masks)).loss.count == 2
    assert face_loss(needs_conditions=["image", "pose"])(pass_of(estimate, batch, **masks)).loss.count == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"face_align_mode": "points"}, "face_align_mode is 'points': use one of kps, bbox"),
        ({"face_loss_type": "mse"}, "face_loss_type is 'mse': use one of cosine, multiscale"),
        ({"align_source": "detect"}, "align_source=detect needs a detector"),
        ({"face_target": "identity", "face_loss_type": "multiscale"}, "has embeddings alone"),
        ({"decode_samples": 0}, "decode_samples is 0"),
        ({"arcface_model": "r50"}, "arcface_model is r50, but None holds glance"),
        ({"multiscale_weights": [1.0]}, "multiscale_weights has 1 numbers"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        face_loss(**settings)


def test_batches_that_lack_what_is_looked_at_are_refused_by_the_setting_that_adds_it():
    estimate, batch = photos(2)
    with pytest.raises(ValueError, match=r"no key points of faces: set data\.examples\.key_points=true"):
        face_loss()(pass_of(estimate, {"image": batch["image"]}))
    with pytest.raises(ValueError, match=r"no boxes of faces: set data\.examples\.boxes=true"):
        face_loss(face_align_mode="bbox")(pass_of(estimate, batch))
    with pytest.raises(ValueError, match="features=\\[identity\\]"):
        face_loss(face_target="identity")(pass_of(estimate, batch))
    with pytest.raises(ValueError, match="no ref or reference with its key_points"):
        face_loss(face_target="reference")(pass_of(estimate, batch))
    with pytest.raises(ValueError, match="neither pictures nor key points"):
        face_loss()(pass_of(estimate, {}))
