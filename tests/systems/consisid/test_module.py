"""What a training step makes of a batch: what is computed, what is dropped, where the loss looks."""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDPMScheduler
from hydra.errors import InstantiationException

from portraitgen.diffusion.conditions import ConditionMasks
from portraitgen.diffusion.image_condition import ReferenceNoise, stretched
from portraitgen.diffusion.objective import DiffusionObjective
from portraitgen.diffusion.video_latents import CogVideoXCodec
from portraitgen.faces.backend import keypoints_from_ibug68
from portraitgen.faces.conditioner import FaceView, untrained_conditioner
from portraitgen.faces.key_point_drawing import draw_key_points
from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.nn.text.prompts import Prompts
from portraitgen.systems.consisid.module import ConsisID
from portraitgen.systems.consisid.pipeline import ConsisIDPipeline
from tests.systems.consisid import tiny
from tests.tiny_vae import tiny_cogvideox

POINTS = np.array([[30, 40], [60, 38], [46, 55], [33, 70], [58, 69]], np.float32)[None].repeat(2, axis=0)


@pytest.fixture
def module():
    return tiny.build("identity").eval()


class Words:
    """A text encoder: prompts → numbers that follow from their letters."""

    def __init__(self):
        self.asked = []

    def encode(self, prompts, *, device="cpu"):
        self.asked += prompts
        rows = [torch.full((4, 16), float(len(prompt))) for prompt in prompts]
        return TextEncoding(torch.stack(rows).to(device), torch.ones(len(prompts), 4, dtype=torch.bool))

    def offload(self):
        pass

    free = offload


def with_video_vae(**changes):
    """The module on the VAE that it is for, with adapters, a text encoder and what looks at faces."""
    vae = tiny_cogvideox()
    scheduler = CogVideoXDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    settings = {
        "sampling": partial(ConsisIDPipeline, scheduler=scheduler, num_steps=2),
        "optimizer": torch.optim.AdamW,
        "face_condition": untrained_conditioner(),
        "prompts": Prompts(Words()),
        "reference_noise": ReferenceNoise(),
    }
    network = tiny.network(
        text_embed_dim=16, max_text_seq_length=4, LFE_id_dim=280, LFE_vit_dim=32, sample_frames=5
    )
    return ConsisID(network, CogVideoXCodec(vae), DiffusionObjective(scheduler), **settings | changes)


def test_a_cached_step_runs_no_text_encoder_no_face_network_and_no_vae():
    module = with_video_vae().train()
    calls = []
    module.codec.vae.encoder.register_forward_hook(lambda _, given, __: calls.append(given[0].shape[2]))
    for looking in (module.face_condition.looks, module.face_condition.recognizer.network):
        looking.register_forward_hook(lambda *_: calls.append("face"))
    stored = tiny.batch()
    cached = {name: value for name, value in stored.items() if name not in ("frames",)} | {
        "latent_distribution": torch.rand(2, 2, 2, 4, 8, 8),
        "face_latent_distribution": torch.rand(2, 3, 1, 2, 4, 8, 8),
        "prompt_embeds": torch.rand(2, 4, 16),
        "prompt_mask": torch.ones(2, 4, dtype=torch.bool),
        "empty_prompt_embeds": torch.rand(1, 4, 16),
        "empty_prompt_mask": torch.ones(1, 4, dtype=torch.bool),
    }
    encoded = module.encode(cached)
    noised = module.objective.noise(encoded.clean, torch.tensor([10, 900]))
    masks = ConditionMasks(keep={"text": torch.tensor([True, False])})
    module.denoise(noised.noisy, noised.time, encoded.conditions, masks)
    assert not calls
    assert not module.prompts.encoder.asked
    del cached["face_latent_distribution"]
    module.encode(cached)
    assert calls == [1], "the picture of the face alone, of both samples at once"
    calls.clear()
    del stored["face_embedding"], stored["face_hidden"], stored["face_picture"]
    stored["reference"] = stored["frames"][:, 0]
    stored["reference_landmarks"] = torch.rand(2, 68, 2) * 40 + 10
    module.encode({**stored, "caption": ["a man", "a woman"]})
    assert calls.count("face") == 2, "one pass of each network for the whole batch"
    assert [each for each in calls if each != "face"] == [5, 1]
    assert module.prompts.encoder.asked == ["a man", "a woman"]


def test_a_face_without_features_is_looked_at_in_the_reference_frame(module):
    batch = tiny.batch()
    known = {name: batch.pop(name) for name in ("face_picture", "face_embedding", "face_hidden")}
    batch["reference"] = torch.rand(2, 3, 80, 80) * 2 - 1
    batch["reference_landmarks"] = torch.rand(2, 68, 2) * 60 + 10
    found = module.encode(batch).conditions
    levels = ((batch["reference"] + 1) * 127.5).round().byte().movedim(1, -1).numpy()
    points = batch["reference_landmarks"].numpy()
    views = [
        FaceView(np.ascontiguousarray(picture), keypoints_from_ibug68(each), each, "ibug68")
        for picture, each in zip(levels, points, strict=True)
    ]
    expected = module.face_condition(views)
    assert torch.equal(found["face_embedding"], expected.embedding)
    assert torch.equal(found["face_hidden"], expected.hidden)
    assert known["face_embedding"].shape == found["face_embedding"].shape
    module.face_condition = None
    with pytest.raises(ValueError, match="no features of faces: compute them with"):
        module.encode(batch)
    with pytest.raises(ValueError, match="by iBUG's 68"):
        tiny.build("identity").encode(batch | {"reference_landmarks": torch.rand(2, 478, 2)})


def test_the_picture_of_the_face_is_stretched_and_noised_while_training(module):
    batch = tiny.batch()
    plain = module.codec.encode_image(stretched(batch["face_picture"], (64, 64)))
    assert torch.equal(module.encode(batch).conditions["picture"], plain)
    torch.manual_seed(0)
    module.train()
    off = torch.cat([module.encode(batch).conditions["picture"] - plain for _ in range(200)])
    # Half of the standard deviations are above exp(−3), in pixels; latents are 2 times as large.
    deviations = off.flatten(1).std(dim=1) / module.codec._pixels.SCALE
    assert deviations.log().mean().item() == pytest.approx(-3.0, abs=0.1)
    assert deviations.log().std().item() == pytest.approx(0.5, abs=0.06)
    with pytest.raises(ValueError, match=r"reference_noise\.std"):
        ReferenceNoise(std=-1.0)


def test_of_stored_versions_of_the_noised_picture_each_is_drawn_and_none_after_training(module):
    levels = torch.tensor([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]])
    mean = levels[..., None, None, None].expand(-1, -1, 192, 16, 16)
    packed = torch.stack([mean, torch.zeros_like(mean)], dim=2)[:, :, None]
    batch = tiny.batch() | {"face_latent_distribution": packed}
    torch.manual_seed(0)
    module.train()
    drawn = torch.stack([module.encode(batch).conditions["picture"] for _ in range(60)])
    assert drawn.shape[1:] == (2, 1, 192, 16, 16)
    for row, values in enumerate(levels):
        found, counts = drawn[:, row, 0, 0, 0, 0].unique(return_counts=True)
        assert found.tolist() == values.tolist()
        assert counts.min() >= 10
    plain = module.codec.encode_image(stretched(batch["face_picture"], (64, 64)))
    assert torch.equal(module.eval().encode(batch).conditions["picture"], plain)
    module.train()
    module.reference_noise = None
    assert torch.equal(module.encode(batch).conditions["picture"], plain), "what is stored has noise"
    module.reference_noise = ReferenceNoise()
    batch["face_latent_distribution"] = torch.zeros(2, 3, 1, 2, 192, 8, 8)
    with pytest.raises(ValueError, match=r"is of \[192, 8, 8\], the clip's latents are of \[192, 16, 16\]"):
        module.encode(batch)


def test_dropped_conditions_change_nothing_any_more():
    module = with_video_vae().eval()
    batch = tiny.batch() | {"caption": ["a man at the sea", "a woman"]}
    encoded = module.encode(batch)
    noised = module.objective.noise(encoded.clean, torch.tensor([500, 500]))

    def prediction(masks, **changed):
        conditions = encoded.conditions | changed
        return module.denoise(noised.noisy, noised.time, conditions, masks).prediction

    other = {"text": encoded.conditions["text"] + 1}
    none = ConditionMasks()
    assert not torch.equal(prediction(none), prediction(none, **other))
    dropped = ConditionMasks(keep={"text": torch.tensor([False, True])})
    one, two = prediction(dropped), prediction(dropped, **other)
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[1], two[1])
    empty = module.prompts.encode([""], like=noised.noisy).embeds.expand(2, -1, -1)
    assert torch.equal(
        prediction(ConditionMasks(keep={"text": torch.zeros(2).bool()})), prediction(none, text=empty)
    )


def test_the_loss_looks_at_the_face_along_the_vaes_time_axis_and_is_finite_on_an_empty_mask(module):
    batch = tiny.batch(masks=True)
    batch["masks"][0, 1:] = 0
    batch["masks"][1] = 0
    encoded = module.encode(batch)
    assert encoded.mask.shape == (2, 2, 1, 16, 16)
    # The first latent is the first frame's alone, the other one stands for the four after it.
    assert encoded.mask[0, 0, 0, 4:12, 4:12].eq(1).all()
    assert encoded.mask[0, 0].sum() == 64
    assert not encoded.mask[0, 1].any()
    noised = module.objective.noise(encoded.clean, torch.tensor([500, 500]))
    prediction = torch.zeros_like(noised.target).requires_grad_()
    loss = module.objective.loss(prediction, noised, encoded.mask, masked=torch.ones(2))
    inside = noised.target[0, 0, :, 4:12, 4:12].square().mean()
    assert loss[0].item() == pytest.approx(inside.item(), rel=1e-5)
    assert loss[1].item() == pytest.approx(noised.target[1].square().mean().item(), rel=1e-5)
    loss.sum().backward()
    assert prediction.grad.isfinite().all()
    assert prediction.grad[1].any()


def test_the_global_stage_has_no_face_modules_and_is_shown_the_picture():
    module = tiny.build("global")
    assert not any("local_facial" in name or "perceiver" in name for name, _ in module.named_parameters())
    encoded = module.encode(tiny.batch())
    noised = module.objective.noise(encoded.clean, torch.tensor([500, 500]))
    plain, other = (
        module.denoise(noised.noisy, noised.time, encoded.conditions | changed, ConditionMasks()).prediction
        for changed in ({}, {"face_embedding": encoded.conditions["face_embedding"] + 1})
    )
    assert torch.equal(plain, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.network.transformer.LFE_id_dim=64", "LFE_id_dim is 64, but model.face_condition gives 280"),
        ("model.codec.factor=8", "have 768 channels, where the transformer has 192"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(change, message):
    with pytest.raises(InstantiationException, match=message):
        tiny.build("identity", change)


def test_key_points_are_shown_as_a_second_picture():
    module = tiny.build("identity", "+model.network.transformer.is_kps=true", "model.reference_noise.std=0")
    batch = tiny.batch()
    drawn = torch.from_numpy(np.stack([draw_key_points(each, (96, 96)) for each in POINTS]))
    second = stretched(drawn.movedim(-1, 1).float() / 127.5 - 1, (64, 64))
    batch["face_key_points"] = torch.from_numpy(POINTS)
    found = module.eval().encode(batch).conditions["picture"]
    assert torch.equal(found[:, :1], module.codec.encode_image(stretched(batch["face_picture"], (64, 64))))
    assert torch.equal(found[:, 1:], module.codec.encode_image(second))
    module.train()
    noise = (module.encode(batch).conditions["picture"] - found) / module.codec._pixels.SCALE
    assert noise.flatten(2).std(dim=2).log().sub(-3).abs().max() < 0.02, "of both pictures, e^-3"
    torch.manual_seed(0)
    one = module.eval().sample(batch)
    torch.manual_seed(0)
    assert not torch.equal(module.sample(batch | {"face_key_points": batch["face_key_points"] + 9}), one)
    batch["face_latent_distribution"] = torch.zeros(2, 3, 1, 2, 192, 16, 16)
    with pytest.raises(ValueError, match=r"holds no key points, .* features\.face\.latents\.key_points=true"):
        module.train().encode(batch)
    with pytest.raises(ValueError, match="a single frame: key points"):
        module.network.check_size(1, 16, 16)


def test_the_picture_can_be_left_out():
    """The paper's ablation without the global facial extractor: who it is, the tokens say alone."""
    module = tiny.build("identity", "model.network.picture=false")
    batch = tiny.batch()
    encoded = module.encode(batch)
    assert "picture" not in encoded.conditions
    torch.manual_seed(0)
    drawn = module.sample(batch)
    torch.manual_seed(0)
    assert torch.equal(module.sample(batch | {"face_picture": -batch["face_picture"]}), drawn)


def test_what_people_look_at(module):
    assert list(module.shown(tiny.batch())) == ["face", "truth"]
    torch.manual_seed(0)
    found = module.sample(tiny.batch())
    assert found.shape == (2, 5, 3, 64, 64)
    assert found.abs().max() <= 1
