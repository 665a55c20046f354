"""SyncNet and I3D against their reference implementations, all weights made by a rule instead of a file."""

import json

import numpy as np
import pytest
import torch

from portraitgen.media.public_weights import PublicFile, load_public_weights
from portraitgen.metrics.networks.i3d import I3D, load_i3d, preprocess_clips
from portraitgen.metrics.networks.syncnet import WEIGHTS, SyncNet, embed_clip, load_syncnet


def wave(shape, frequency, phase, scale=1.0):
    index = np.arange(np.prod(shape))
    return torch.from_numpy((scale * np.sin(frequency * index + phase)).reshape(shape).astype(np.float32))


def fill(network):
    """The goldens' rule, over the float tensors of the state dict in their order."""
    tensors = network.state_dict()
    floats = [name for name in tensors if tensors[name].is_floating_point()]
    for position, name in enumerate(floats):
        values = wave(tuple(tensors[name].shape), 0.7, position)
        if name.endswith("running_var"):
            values = 1 + 0.5 * values.abs()
        elif name.endswith("running_mean"):
            values = 0.1 * values
        elif name.endswith("bias"):
            values = 0.05 * values
        elif values.ndim == 1:
            values = 1 + 0.1 * values
        else:
            values = values * (2 / values[0].numel()) ** 0.5
        tensors[name].copy_(values)
    return network.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def syncnet():
    return fill(SyncNet())


@pytest.fixture(scope="module")
def i3d():
    return fill(I3D())


@pytest.fixture
def clip():
    """Frames of the I3D golden, uint8 [2, 16, 3, 40, 56]."""
    values = (np.arange(2 * 16 * 40 * 56 * 3) * 37 % 251).astype(np.uint8)
    return torch.from_numpy(values.reshape(2, 16, 40, 56, 3)).permute(0, 1, 4, 2, 3)


def shapes(network):
    return [[name, list(tensor.shape)] for name, tensor in network.state_dict().items()]


@pytest.mark.golden
def test_syncnet_is_the_reference(goldens, syncnet):
    facts = json.loads((goldens / "metrics_syncnet_net.json").read_text())
    golden = np.load(goldens / "metrics_syncnet_net.npz", allow_pickle=False)
    assert shapes(syncnet) == facts["state_dict"]
    assert sum(parameter.numel() for parameter in syncnet.parameters()) == facts["n_params"]
    frames = 127.5 + 127.5 * wave((2, 3, 5, 224, 224), 0.013, 0.5)
    lips = syncnet.embed_lips(frames)
    assert lips.shape == (2, 1, 1024)
    np.testing.assert_allclose(lips[:, 0].numpy(), golden["lip_out"], rtol=1e-4, atol=1e-5)
    features = syncnet.netcnnlip(frames).flatten(1)
    np.testing.assert_allclose(features.numpy(), golden["lip_feat"], rtol=1e-4, atol=1e-5)
    sounds = syncnet.embed_audio(wave((2, 1, 13, 20), 0.37, 1.0, 10.0))
    np.testing.assert_allclose(sounds.numpy(), golden["aud_out"], rtol=1e-4, atol=1e-5)


def test_windows_of_a_clip_are_those_seen_one_by_one(syncnet, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (10, 3, 224, 224), dtype=torch.uint8, generator=generator)
    audio = torch.rand(6400, generator=generator).numpy() - 0.5
    lips, sounds = embed_clip(syncnet, frames, audio)
    assert lips.shape == sounds.shape == (5, 1024)
    bgr = frames[:, [2, 1, 0]].float().transpose(0, 1)
    alone = torch.cat([syncnet.embed_lips(bgr[None, :, t : t + 5])[0] for t in range(5)])
    torch.testing.assert_close(lips, alone, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr("portraitgen.metrics.networks.syncnet.CHUNK", 2)
    for whole, chunked in zip((lips, sounds), embed_clip(syncnet, frames, audio), strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-4, atol=1e-4)
    later = embed_clip(syncnet, frames, np.roll(audio, -640))[1]
    torch.testing.assert_close(later[:3], sounds[1:4], rtol=1e-2, atol=1e-2)


def test_syncnet_names_what_it_cannot_take(syncnet):
    audio = np.zeros(6400, np.float32)
    with pytest.raises(ValueError, match=r"face crops \[T, 3, 224, 224\], got torch.uint8 \[9, 3, 96, 96\]"):
        embed_clip(syncnet, torch.zeros(9, 3, 96, 96, dtype=torch.uint8), audio)
    with pytest.raises(ValueError, match=r"mono samples \[N\] with N at least 1, got \[6400, 1\]"):
        embed_clip(syncnet, torch.zeros(9, 3, 224, 224, dtype=torch.uint8), audio[:, None])
    lips, sounds = embed_clip(syncnet, torch.zeros(5, 3, 224, 224, dtype=torch.uint8), audio)
    assert lips.shape == sounds.shape == (0, 1024)


@pytest.mark.golden
def test_i3d_is_the_reference(goldens, i3d, clip):
    facts = json.loads((goldens / "metrics_i3d.json").read_text())
    golden = np.load(goldens / "metrics_i3d.npz", allow_pickle=False)
    assert shapes(i3d)[:8] == facts["state_dict_head"]
    assert len(i3d.state_dict()) == facts["n_state"]
    prepared = preprocess_clips(clip)
    np.testing.assert_allclose(prepared.mean(dim=(3, 4)).numpy(), golden["pre_mean"], atol=1e-6)
    np.testing.assert_allclose(prepared[:, :, 0, :8, :8].numpy(), golden["pre_patch"], atol=1e-6)
    np.testing.assert_allclose(i3d(clip[:1]).numpy(), golden["logits"][:1], rtol=1e-4, atol=1e-5)


def test_i3d_sees_the_same_range_whatever_the_type_of_the_clip(i3d, clip):
    prepared = preprocess_clips(clip)
    assert prepared.min() == -1
    assert prepared.max() > 0.9
    torch.testing.assert_close(preprocess_clips(clip / 127.5 - 1), prepared)
    with pytest.raises(ValueError, match="at least 9 frames, got 8"):
        i3d(clip[:1, :8])
    with pytest.raises(ValueError, match=r"clips \[B, T, 3, H, W\], got \[16, 3, 40, 56\]"):
        i3d(clip[0])


def test_a_network_without_its_norms_gives_the_same(tmp_path, i3d, clip):
    """Loaded, it has them in its convolutions."""
    torch.save(i3d.state_dict(), tmp_path / "i3d.pt")
    loaded = load_i3d(tmp_path / "i3d.pt")
    assert not any(isinstance(module, torch.nn.BatchNorm3d) for module in loaded.modules())
    torch.testing.assert_close(loaded(clip[:1]), i3d(clip[:1]), rtol=1e-4, atol=1e-5)


def test_public_weights_are_loaded_by_name(tmp_path, syncnet):
    tensors = syncnet.state_dict()
    torch.save({name: tensors[name] for name in tensors if "num_batches" not in name}, tmp_path / "old.model")
    read = load_public_weights(SyncNet(), tmp_path / "old.model", WEIGHTS)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read.state_dict().items())
    loaded = load_syncnet(tmp_path / "old.model")
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    sound, lips = wave((2, 1, 13, 20), 0.37, 1.0, 10.0), 127.5 + 127.5 * wave((1, 3, 5, 224, 224), 0.013, 0.5)
    torch.testing.assert_close(loaded.embed_audio(sound), syncnet.embed_audio(sound), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loaded.embed_lips(lips), syncnet.embed_lips(lips), rtol=1e-4, atol=1e-5)
    norms = [
        each for each in loaded.modules() if isinstance(each, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d)
    ]
    assert norms == []


def test_wrong_weights_are_refused_with_what_to_fetch(tmp_path, syncnet):
    with pytest.raises(ValueError, match=r"no weights file .*absent.pt: fetch i3d_pretrained_400.pt"):
        load_i3d(tmp_path / "absent.pt")
    (tmp_path / "page.pt").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"page.pt cannot be read as a file of tensors; fetch syncnet_v2"):
        load_syncnet(tmp_path / "page.pt")
    torch.save({"weight": torch.zeros(2, 3), "extra": torch.zeros(1)}, tmp_path / "other.pt")
    linear = torch.nn.Linear(4, 2)
    with pytest.raises(
        ValueError, match=r"does not fit Linear: .* at bias, extra, weight; fetch it from there"
    ):
        load_public_weights(linear, tmp_path / "other.pt", PublicFile("it", "there", "MIT"))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="other than named tensors"):
        load_public_weights(linear, tmp_path / "list.pt", PublicFile("it", "there", "MIT"))


def test_a_still_face_is_looked_at_once(syncnet, monkeypatch):
    """The control that copies the reference cost as much as a video."""
    still = torch.randint(0, 255, (1, 3, 224, 224), dtype=torch.uint8).expand(20, -1, -1, -1)
    windows, whole = [], syncnet.embed_lips
    monkeypatch.setattr(
        syncnet, "embed_lips", lambda frames: windows.append(frames.shape[2] - 4) or whole(frames)
    )
    lips, _ = embed_clip(syncnet, still, np.zeros(20 * 640, np.float32))
    assert windows == [1], "in all chunks together"
    assert lips.shape == (15, 1024)
    torch.testing.assert_close(lips, lips[:1].expand(15, -1))
