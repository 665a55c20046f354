"""Audio2Mesh and Audio2Pose against the official code on seeded random weights, and sounds of any length."""

import itertools
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from portraitgen.faces.head_pose import smooth_poses
from portraitgen.nn.speech import encode_speech, standardise
from portraitgen.systems.aniportrait.audio2mesh import Audio2Mesh, offsets_of_sound
from portraitgen.systems.aniportrait.audio2pose import Audio2Pose, poses_of_sound
from portraitgen.systems.aniportrait.audio_weights import load_published_audio, published_audio_state
from portraitgen.systems.aniportrait.sound_chunks import count_frames, sound_chunks

SPEECH = {
    "hidden_size": 32,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
}
SECOND = 16_000


def upstream_weight(name: str, shape: list[int], seed: int) -> Tensor:
    """The random weight of the published name `name`: a grid of 8-bit steps, scaled by the kind of tensor."""
    # RandomState, because its stream never changes.
    stream = np.random.RandomState(zlib.crc32(name.encode()) ^ seed)
    steps = np.clip(np.rint(32 * stream.standard_normal(shape)), -127, 127).astype(np.float32)
    offset, scale = 0.0, 0.1 / 32
    if len(shape) > 1:
        scale = 0.9 / 32 / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        offset, scale = 1.0, 0.2 / 32
    return torch.from_numpy(steps * np.float32(scale) + np.float32(offset))


@pytest.fixture(scope="module")
def recipe(shared: Path) -> dict:
    return json.loads((shared / "golden/aniportrait_audio.json").read_text())


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "golden/aniportrait_audio.safetensors")


def weights(recipe: dict, model: str) -> dict[str, Tensor]:
    """All tensors of an official model, in its names."""
    seed = recipe[f"seed_{model}"]
    return {name: upstream_weight(name, shape, seed) for name, shape in recipe[f"keys_{model}"].items()}


@pytest.fixture(scope="module")
def mesh_model(recipe) -> Audio2Mesh:
    model = Audio2Mesh(audio_encoder=SPEECH, hidden_size=32)
    load_published_audio(model, weights(recipe, "a2m"))
    return model.eval()


@pytest.fixture(scope="module")
def pose_model(recipe) -> Audio2Pose:
    model = Audio2Pose(audio_encoder=SPEECH, hidden_size=32)
    load_published_audio(model, weights(recipe, "a2p"))
    return model.eval()


@pytest.mark.parametrize("case", range(4))
def test_official_meshes(golden, mesh_model, case):
    expected = golden[f"{case}.mesh"]
    samples, frames = golden[f"{case}.audio"], expected.shape[1]
    with torch.no_grad():
        features = encode_speech(mesh_model.audio_encoder, samples, frames)
        offsets = mesh_model(samples, frames)
    torch.testing.assert_close(features, golden[f"{case}.emb"], atol=1e-5, rtol=0)
    # The golden is float16: half a step of its values, of up to 4, and our own error.
    error = (offsets.flatten(2) - expected.float()).abs()
    step = torch.finfo(torch.float16).eps * expected.float().abs().clamp(min=2.0**-14)
    assert (error <= step / 2 + 1e-5).all()


@pytest.mark.parametrize("case", range(4))
def test_official_poses(golden, pose_model, case):
    expected = golden[f"{case}.pose"]
    poses = pose_model.generate(golden[f"{case}.audio"], expected.shape[1], golden[f"{case}.id"])
    torch.testing.assert_close(poses, expected, atol=1e-5, rtol=0)


def test_generation_is_what_training_predicts(golden, pose_model):
    """Step by step with kept keys and values, and all at once, given the result."""
    samples, who = golden["2.audio"].repeat(2, 1), torch.tensor([3, 7])
    poses = pose_model.generate(samples, 51, who)
    with torch.no_grad():
        at_once = pose_model(samples, poses, who)
    torch.testing.assert_close(at_once, poses, atol=1e-5, rtol=0)
    assert (poses[0] - poses[1]).abs().max() > 1e-2, "the manner has no effect"


def test_known_poses_are_continued(golden, pose_model):
    samples, who = golden["2.audio"], torch.tensor([3])
    poses = pose_model.generate(samples, 51, who)
    continued = pose_model.generate(samples, 51, who, first_poses=poses[:, :20])
    torch.testing.assert_close(continued, poses, atol=1e-5, rtol=0)
    others = pose_model.generate(samples, 51, who, first_poses=poses[:, :20] + 5)
    assert torch.equal(others[:, :20], poses[:, :20] + 5)
    assert (others[:, 20] - poses[:, 20]).abs().max() > 1e-2


def test_too_many_frames_for_one_run(pose_model):
    samples = torch.zeros(1, SECOND)
    with pytest.raises(ValueError, match=r"601 frames are more than Audio2Pose's 600 \(max_frames\)"):
        pose_model.generate(samples, 601, torch.tensor([0]))
    with pytest.raises(ValueError, match="manner=100 must be between 0 and 99"):
        poses_of_sound(pose_model, samples[0], manner=100)


def test_official_chunks(shared: Path):
    """Where upstream gives chunks of all frames ours are the same; it fails on the other durations."""
    compared = 0
    for case in json.loads((shared / "golden/aniportrait_audio_chunks.json").read_text()):
        chunks = sound_chunks(case["samples"], chunk_frames=150)
        assert sum(chunk.num_frames for chunk in chunks) == case["seq_len"]
        if case["error"] is None and case["lost"] == 0:
            assert [chunk.num_frames for chunk in chunks] == case["chunk_frames"]
            assert [chunk.end_sample - chunk.first_sample for chunk in chunks] == case["chunk_samples"]
            compared += 1
    assert compared == 4


@pytest.mark.parametrize("frame_rate", [30, 25, 29.97])
@pytest.mark.parametrize("overlap", [0, 30])
def test_chunks_cover_any_duration(frame_rate, overlap):
    for samples in (*range(1, 60 * SECOND, 12_347), *(1600 * tenth for tenth in range(1, 1201, 7))):
        chunks = sound_chunks(samples, frame_rate=frame_rate, chunk_frames=150, overlap_frames=overlap)
        assert (chunks[0].first_frame, chunks[0].overlap, chunks[0].first_sample) == (0, 0, 0)
        for before, after in itertools.pairwise(chunks):
            assert after.first_frame == before.end_frame - after.overlap
            assert after.overlap == overlap
        assert chunks[-1].end_frame == count_frames(samples, frame_rate)
        assert chunks[-1].end_sample == samples
        assert max(chunk.num_frames for chunk in chunks) < 300 + overlap


@pytest.mark.parametrize("num_samples", [0, 1, 399, 400, 8000, 5 * SECOND, 10 * SECOND + 1])
def test_sounds_of_any_length(mesh_model, pose_model, num_samples):
    samples = torch.randn(num_samples, generator=torch.Generator().manual_seed(0))
    if num_samples == 0:
        with pytest.raises(ValueError, match="the sound is empty"):
            offsets_of_sound(mesh_model, samples)
        return
    frames = count_frames(num_samples)
    offsets = offsets_of_sound(mesh_model, samples, chunk_frames=60)
    poses = poses_of_sound(pose_model, samples, manner=5)
    assert offsets.shape == (frames, 468, 3)
    assert poses.shape == (frames, 6)
    assert np.isfinite(offsets).all()
    assert np.isfinite(poses).all()


def test_short_sounds_are_run_whole(golden, mesh_model, pose_model):
    samples = 0.1 * golden["1.audio"][0] + 0.02  # loudness does not matter
    with torch.no_grad():
        whole = mesh_model(standardise(samples)[None], 30)[0].numpy()
    np.testing.assert_array_equal(offsets_of_sound(mesh_model, samples), whole)
    raw = pose_model.generate(standardise(samples)[None], 30, torch.tensor([5]))[0].double().numpy()
    raw[:, :3] *= 0.5
    np.testing.assert_array_equal(poses_of_sound(pose_model, samples, manner=5), smooth_poses(raw, 7))


def test_a_chunk_continues_the_motion_of_the_one_before():
    """A head that nods at a phase of its own: only the poses before tell how it goes on."""
    torch.manual_seed(0)
    model = Audio2Pose(
        audio_encoder={**SPEECH, "num_hidden_layers": 1, "layerdrop": 0.0},
        hidden_size=32,
        num_layers=1,
        num_heads=4,
        dropout=0.0,
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=5e-3)
    silence, someone = torch.zeros(8, 400), torch.zeros(8, dtype=torch.long)
    for _ in range(120):
        phase = torch.arange(45) / 40 + torch.rand(8, 1)
        nods = (2 * torch.pi * phase).sin()[..., None].expand(-1, -1, 6)
        loss = (model(silence, nods, someone) - nods)[:, 4:].abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    chunks = {"chunk_frames": 30, "manner": 0, "turn_scale": 1.0, "window": 1}

    def step_at_joints(overlap_frames: int) -> float:
        poses = poses_of_sound(model, torch.zeros(4 * SECOND), overlap_frames=overlap_frames, **chunks)
        steps = np.abs(np.diff(poses, axis=0)).mean(axis=1)
        return float(steps[[29, 59, 89]].mean() / steps.mean())

    assert step_at_joints(0) > 3
    assert step_at_joints(10) < 1.5


def test_meshes_fade_from_chunk_to_chunk(mesh_model):
    samples = torch.randn(4 * SECOND, generator=torch.Generator().manual_seed(1))
    heard = standardise(samples)[None]
    with torch.no_grad():
        first = mesh_model(heard[:, : 2 * SECOND], 60)[0].numpy()
        second = mesh_model(heard[:, SECOND:], 90)[0].numpy()
    offsets = offsets_of_sound(mesh_model, samples, chunk_frames=60, overlap_frames=30)
    np.testing.assert_array_equal(offsets[:30], first[:30])
    np.testing.assert_array_equal(offsets[60:], second[30:])
    share = (np.arange(1, 31) / 31)[:, None, None]
    np.testing.assert_allclose(offsets[30:60], (1 - share) * first[30:] + share * second[:30], atol=1e-5)


@pytest.mark.parametrize("kind", ["mesh", "pose"])
def test_published_names(recipe, mesh_model, pose_model, kind):
    model, keys = (mesh_model, "keys_a2m") if kind == "mesh" else (pose_model, "keys_a2p")
    state = published_audio_state(model)
    modern = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): list(value.shape)
        for name, value in state.items()
    }
    assert modern == recipe[keys]
    assert sum(name.endswith(("weight_g", "weight_v")) for name in state) == 2

    fresh = (
        Audio2Mesh(audio_encoder=SPEECH, hidden_size=32)
        if kind == "mesh"
        else Audio2Pose(audio_encoder=SPEECH, hidden_size=32)
    )
    load_published_audio(fresh, state)
    for name, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name

    del state["in_fn.bias"]
    with pytest.raises(ValueError, match="published audio weights does not fit"):
        load_published_audio(fresh, state)


def test_a_fresh_mesh_model_moves_nothing_and_learns():
    model = Audio2Mesh(audio_encoder=SPEECH, hidden_size=16, num_points=5)
    offsets = model(torch.randn(2, 8000), 15)
    assert offsets.shape == (2, 15, 5, 3)
    assert not offsets.any()
    (offsets - 1).abs().mean().backward()
    assert model.out_fn.weight.grad is not None
    frozen = model.audio_encoder.feature_extractor.parameters()
    assert not any(parameter.requires_grad for parameter in frozen)
    assert all(parameter.requires_grad for parameter in model.audio_encoder.encoder.parameters())


def test_pose_training_reaches_all_that_is_trained(pose_model):
    model = Audio2Pose(audio_encoder={**SPEECH, "layerdrop": 0.0}, hidden_size=16, num_layers=2, num_heads=4)
    loss = model(torch.randn(2, 8000), torch.randn(2, 15, 6), torch.tensor([0, 1])).square().mean()
    loss.backward()
    missing = [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]
    assert not missing


def test_options_that_do_not_fit():
    with pytest.raises(ValueError, match=r"audio_encoder\.hidden: unknown option"):
        Audio2Mesh(audio_encoder={"hidden": 8})
    with pytest.raises(ValueError, match="num_heads=6 must be a power of two"):
        Audio2Pose(audio_encoder=SPEECH, num_heads=6)
