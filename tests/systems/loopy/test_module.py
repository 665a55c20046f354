"""Loopy's training: what is dropped how often, what audio-to-latents goes by, sound. L6 to L9, L12."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from hydra.utils import instantiate
from transformers import Wav2Vec2Config, Wav2Vec2Model

from portraitgen.data.shards import ShardWriter
from portraitgen.diffusion.conditions import ConditionMasks, zero_conditions
from portraitgen.faces.measure import upper_face
from portraitgen.faces.mirror import mirror_order
from portraitgen.media.audio import encode_wav
from portraitgen.metrics.motion import motion_variance
from portraitgen.nn.speech_encoders import SpeechEncoder, Wav2VecLayers
from portraitgen.systems.loopy.head_motion import head_motion
from portraitgen.systems.loopy.module import BY
from portraitgen.systems.loopy.sound import Ears
from tests.nn.test_speech_encoders import TINY
from tests.synthetic import synthetic_clip
from tests.systems.loopy import tiny

CLIPS, FRAMES, MOTION = 2, 4, 6


@pytest.fixture(scope="module")
def loopy():
    return tiny.learner("loopy/tiny_stage2")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)

    def pictures(*shape):
        return torch.rand(CLIPS, *shape, 3, 32, 32, generator=generator) * 2 - 1

    return {
        "key": ["a", "b"],
        "frames": pictures(FRAMES),
        "frame_index": torch.arange(FRAMES).expand(CLIPS, -1),
        "reference": pictures(),
        "motion": pictures(MOTION),
        "motion_found": torch.tensor([[True] * MOTION, [False] * 3 + [True] * 3]),
        "landmarks": torch.rand(CLIPS, FRAMES, 68, 2, generator=generator) * 32,
        "audio": torch.randn(CLIPS, 640 * (FRAMES + 8), generator=generator) * 0.1,
    }


def denoise(loopy, batch, masks=None):
    masks = masks or ConditionMasks()
    encoded = loopy.encode(batch)
    conditions = zero_conditions(encoded.conditions, masks, inside=loopy.zeroed_inside)
    noisy = torch.randn(encoded.clean.shape, generator=torch.Generator().manual_seed(3))
    return loopy.denoise(noisy, torch.tensor([100, 700]), conditions, masks).prediction


@pytest.mark.parametrize("experiment", ["loopy/tiny_stage2", "loopy/stage2"])
def test_conditions_are_dropped_as_often_as_the_paper_says(experiment):
    table = tiny.settings(experiment).model.condition_dropout.table
    dropout = tiny.dropout(table)
    count = 20_000
    masks = dropout.draw(count, device="cpu", generator=torch.Generator().manual_seed(0))

    def share(mask):
        return (~mask).float().mean().item()

    assert share(masks.nonzero["audio"]) == pytest.approx(0.10, abs=0.01)
    assert share(masks.nonzero["motion_latents"]) == pytest.approx(0.10, abs=0.01)
    assert share(masks.keep["reference"]) == pytest.approx(0.15, abs=0.01)
    assert share(masks.nonzero["motion"]) == pytest.approx(0.40, abs=0.01)
    assert torch.equal(masks.keep["motion"], masks.keep["reference"])  # what hides the one hides the other
    seen = masks.keep["motion"] & masks.nonzero["motion"]
    assert share(seen) == pytest.approx(0.15 + 0.85 * 0.40, abs=0.01)
    # Sample by sample: two draws, of two ranks say, differ, and so do the samples of one.
    again = dropout.draw(count, device="cpu", generator=torch.Generator().manual_seed(1))
    assert not torch.equal(again.keep["reference"], masks.keep["reference"])


def test_audio_to_latents_goes_by_each_condition_equally_often(loopy):
    masks = loopy.condition_dropout.draw(20_000, device="cpu", generator=torch.Generator().manual_seed(0))
    choice = loopy._choice(masks)
    assert (torch.bincount(choice, minlength=4) / len(choice)).tolist() == pytest.approx([0.25] * 4, abs=0.01)
    assert loopy._choice(ConditionMasks()) is None  # in validation and in use by sound


@pytest.mark.parametrize(
    ("hidden", "how"),
    [("audio", "nonzero"), ("motion_latents", "nonzero"), ("motion", "nonzero"), ("reference", "keep")],
)
def test_what_is_hidden_of_one_sample_changes_that_sample(loopy, batch, hidden, how):
    whole = denoise(loopy, batch)
    mask = {hidden: torch.tensor([False, True])}
    masks = ConditionMasks(keep=mask) if how == "keep" else ConditionMasks(nonzero=mask)
    moved = (denoise(loopy, batch, masks) - whole).abs().amax(dim=(1, 2, 3, 4))
    assert moved[0] > 1e-4
    assert moved[1] < 1e-5


def test_hidden_motion_frames_are_zero_behind_the_reference_network(loopy, batch):
    """Whatever the frames show; and where the clip has none before it, it is the same."""
    hidden = ConditionMasks(nonzero={"motion": torch.tensor([False, False])})
    other = {**batch, "motion": -batch["motion"]}
    torch.testing.assert_close(denoise(loopy, batch, hidden), denoise(loopy, other, hidden))
    nothing = {**batch, "motion_found": torch.zeros(CLIPS, MOTION, dtype=torch.bool)}
    torch.testing.assert_close(denoise(loopy, batch, hidden), denoise(loopy, nothing))


def test_which_condition_is_chosen_is_what_counts(loopy, batch):
    keep = {name: torch.tensor([False, True]) for name in BY[:1]}  # the first sample goes by landmarks
    masks = ConditionMasks(keep=keep)
    before = denoise(loopy, batch, masks)
    moved = {**batch, "landmarks": batch["landmarks"].flip(1) * 0.5}
    differs = (denoise(loopy, moved, masks) - before).abs().amax(dim=(1, 2, 3, 4)) > 1e-6
    assert differs.tolist() == [True, False]


def test_stage_1_has_no_sound_and_no_motion(batch):
    loopy = tiny.learner("loopy/tiny_stage1")
    frame = {"frames": batch["frames"][:, :1], "reference": batch["reference"], "key": batch["key"]}
    assert denoise(loopy, frame).shape == (CLIPS, 1, 48, 8, 8)
    clip = loopy.sample({**frame, "frame_index": torch.zeros(CLIPS, 1)})
    assert clip.shape == (CLIPS, 1, 3, 32, 32)


def test_movement_and_expression_are_glo_and_exp(shared):
    golden = np.load(shared / "golden/metrics_glo_exp.npz")
    name = next(name for name in golden if golden[name].ndim == 3 and golden[name].shape[1:] == (68, 2))
    landmarks = golden[name]
    glo, exp = motion_variance(landmarks, frame_size=512)
    found = head_motion(torch.from_numpy(landmarks)[None], scheme="ibug68", height=512)
    assert found["movement"].expm1().item() == pytest.approx(glo, rel=1e-4)
    assert found["expression"].expm1().item() == pytest.approx(exp, rel=1e-4)
    plain = head_motion(torch.from_numpy(landmarks)[None], scheme="ibug68", height=512, log_variance=False)
    assert plain["movement"].item() == pytest.approx(glo, rel=1e-4)
    assert plain["expression"].item() == pytest.approx(exp, rel=1e-4)
    shifted = head_motion(
        torch.from_numpy(landmarks)[None, :1].expand(1, 5, -1, -1), scheme="ibug68", height=512
    )
    assert shifted["movement"].item() == shifted["expression"].item() == 0


def test_what_stage_2_is_given_of_a_clip(tmp_path):
    """12 frames, 20 of the 124 before them and a reference, with their sound, landmarks and motion. L2."""
    frames = 160
    clip = replace(
        synthetic_clip("talk", num_frames=frames, size=64),
        fps=Fraction(25),
        audio=encode_wav(np.random.default_rng(0).normal(0, 0.1, 640 * frames).astype(np.float32)),
    )
    with ShardWriter(tmp_path) as writer:
        writer.write(clip)
    settings = tiny.settings(
        "loopy/stage2",
        f"data.shards={tmp_path}/shards/*.tar",
        "data.examples.size=64",
        "data.examples.motion.before_start=exclude",
        "data.num_workers=0",
        "data.train_span=[0.0,1.0]",
    )
    module = instantiate(settings.data, _convert_="all")
    batch = module.on_after_batch_transfer(next(iter(module.train_dataloader())), 0)
    assert batch["frames"].shape == (1, 12, 3, 64, 64)
    assert batch["motion"].shape == (1, 20, 3, 64, 64)
    assert batch["reference"].shape == (1, 3, 64, 64)
    assert batch["landmarks"].shape == (1, 12, 68, 2)
    assert batch["motion_index"].max() < batch["frame_index"].min()
    assert 0 <= batch["reference_index"] < frames

    shape = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    encoder = Wav2VecLayers(Wav2Vec2Model(Wav2Vec2Config(**{**TINY, **shape})))
    ears = Ears(encoder, window=5, margin=settings.model.sound_margin, frame_rate=settings.model.frame_rate)
    assert ears.of_batch(batch, 12).shape == (1, 12, 5, 12, 768)
    motion = head_motion(batch["landmarks"], scheme="ibug68", height=64)
    assert {name: tuple(each.shape) for name, each in motion.items()} == {
        "landmarks": (1, 12, 136),
        "movement": (1, 1),
        "expression": (1, 1),
    }


def test_latents_are_those_of_stable_diffusion_s_autoencoder(tmp_path):
    """Its shape at a small width: four channels, an eighth of the size, scaled."""
    torch.manual_seed(0)
    levels = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    vae = AutoencoderKL(**levels, block_out_channels=[8] * 4, norm_num_groups=4, latent_channels=4).eval()
    vae.save_pretrained(tmp_path)
    settings = tiny.settings("loopy/stage2").model
    settings.codec.vae.pretrained_model_name_or_path = str(tmp_path)
    codec = instantiate(settings.codec, _convert_="all")
    assert (codec.channels, codec.factor) == (settings.network.denoising_unet.in_channels, 8) == (4, 8)
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        expected = 0.18215 * vae.encode(picture).latent_dist.mode()
    torch.testing.assert_close(codec.encode(picture), expected)
    assert not any(each.requires_grad for each in codec.parameters())


def test_other_points_may_be_measured(batch):
    loopy = tiny.learner("loopy/tiny_stage2", "model.nose_tip=8", "model.expression_points=[36,45]")
    landmarks = batch["landmarks"]
    found = loopy._head_motion(landmarks, 32)
    nose = landmarks[:, :, 8] * 16
    eyes = landmarks[:, :, [36, 45]] * 16 - nose[:, :, None]
    for name, points in (("movement", nose), ("expression", eyes)):
        expected = points.var(dim=1, correction=0).flatten(1).mean(dim=1, keepdim=True).log1p()
        torch.testing.assert_close(found[name], expected)
    with pytest.raises(Exception, match="name landmarks 0 to 67, there are 68"):
        tiny.learner("loopy/tiny_stage2", "model.nose_tip=68")


def test_the_upper_face_of_a_mesh_is_symmetric():
    tip, points = upper_face("mediapipe478")
    order = mirror_order("mediapipe478")
    assert order[tip] == tip
    assert sorted(order[list(points)].tolist()) == sorted(points)
    with pytest.raises(ValueError, match="no upper face known"):
        upper_face("insightface106")


def test_wav2vec_is_frozen_and_in_no_checkpoint(loopy, batch, tmp_path):
    Wav2Vec2Model(Wav2Vec2Config(**TINY)).save_pretrained(tmp_path)
    shape = ["model.network.audio.layers=3", "model.network.audio.width=8"]
    loopy = tiny.learner(
        "loopy/tiny_stage2", "speech=wav2vec2", f"model.speech_encoder.path={tmp_path}", *shape
    )
    assert isinstance(loopy.speech_encoder, Wav2VecLayers)
    assert denoise(loopy, batch).shape == (CLIPS, FRAMES, 48, 8, 8)
    assert not any(each.requires_grad for each in loopy.speech_encoder.parameters())
    groups = loopy.configure_optimizers()["optimizer"].param_groups
    optimised = {id(each) for group in groups for each in group["params"]}
    assert not optimised & {id(each) for each in loopy.speech_encoder.parameters()}
    assert not any("speech" in name for name, _ in loopy.network.named_parameters())


def test_an_encoder_that_gives_other_features_is_refused():
    with pytest.raises(Exception, match="gives 1 x 5 numbers a frame, the network hears 1 x 16"):
        tiny.learner("loopy/tiny_stage2", "model.speech_encoder.num_mels=5")


class Counting(SpeechEncoder):
    """Hears of each frame its first sample."""

    layers, width = 1, 1

    def forward(self, waveform, num_frames):
        return waveform.unflatten(1, (num_frames, -1))[:, :, :1, None]


def test_clips_of_a_chain_hear_what_windows_of_the_whole_sound_are():
    count, margin = 10, 3
    ears = Ears(Counting(), window=5, margin=margin, frame_rate=25)
    sound = (torch.arange(count) + 1.0).repeat_interleave(640)[None]
    whole = ears.of_batch({"audio": torch.nn.functional.pad(sound, (640 * margin, 640 * margin))}, count)
    assert whole[0, 4, :, 0, 0].tolist() == [3, 4, 5, 6, 7]
    assert whole[0, 0, :, 0, 0].tolist() == [0, 0, 1, 2, 3]
    hear = ears.of_sound(sound)
    for start in range(0, count, 4):
        heard = hear(range(start, start + 4))
        assert torch.equal(heard[:, : count - start], whole[:, start : start + 4])
    stored = {"speech": torch.arange(count + 2.0 * margin)[None, :, None, None].half()}
    assert ears.of_batch(stored, count)[0, 0, :, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert ears.frames(sound.shape[1] + 1) == count + 1
    with pytest.raises(ValueError, match=r"set data\.examples\.sound_margin=3"):
        ears.of_batch({"audio": sound}, count)
    with pytest.raises(ValueError, match=r"data\.examples\.audio=true"):
        ears.of_batch({}, count)
    for settings, message in (({"window": 4, "margin": 3}, "odd"), ({"window": 5, "margin": 1}, "2 frames")):
        with pytest.raises(ValueError, match=message):
            Ears(None, frame_rate=25, **settings)


def test_batches_that_do_not_fit_are_refused_by_name(loopy, batch):
    for change, message in (
        ({"motion_found": None}, "data=motion_clips"),
        ({"landmarks": batch["landmarks"][:, :, :5]}, "5 landmarks, the network reads 68"),
        ({"frames": batch["frames"][:, :2]}, "data.examples.clip_frames=4"),
    ):
        changed = {name: value for name, value in {**batch, **change}.items() if value is not None}
        with pytest.raises(ValueError, match=message):
            loopy.encode(changed)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_objective_is_a_switch_and_sampling_follows_it(prediction):
    given = [f"model.objective.scheduler.prediction_type={prediction}"]
    settings = tiny.settings("loopy/tiny_stage2", *given)
    assert settings.sampling.scheduler.prediction_type == prediction
    assert tiny.settings("loopy/stage2").model.objective.scheduler.prediction_type == "epsilon"


@pytest.mark.parametrize("experiment", ["loopy/tiny_stage1", "loopy/tiny_stage2"])
def test_two_clips_are_learned_by_heart(batch, experiment):
    """Of what is drawn of two clips and their noise, four fifths of the loss go."""
    changes = ["model.objective.scheduler.prediction_type=sample", "optimizer.lr=0.01"]
    loopy = tiny.learner(experiment, *changes, as_built=True)
    for name in ("frames", "reference", "motion"):  # pictures of large patches, as faces are and noise is not
        coarse = batch[name].flatten(0, -4)[..., ::8, ::8]
        batch[name] = torch.nn.functional.interpolate(coarse, scale_factor=8).view_as(batch[name])
    if experiment == "loopy/tiny_stage1":
        batch = {**batch, "frames": batch["frames"][:, :1]}
    encoded = loopy.encode(batch)
    noised = loopy.objective.noise(encoded.clean, torch.tensor([300, 600]))
    optimizer = loopy.configure_optimizers()["optimizer"]
    losses = []
    for _ in range(60):
        prediction = loopy.denoise(noised.noisy, noised.time, encoded.conditions, ConditionMasks()).prediction
        loss = loopy.objective.loss(prediction, noised).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
