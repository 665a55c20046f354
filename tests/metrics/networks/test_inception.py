"""The Inception of FID against torch-fidelity's, and torchvision's against timm's, with weights by rule."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from portraitgen.metrics.networks.inception import Inception, load_inception, preprocess
from portraitgen.metrics.networks.inception_torchvision import (
    TorchvisionInception,
    load_torchvision_inception,
)

GOLDEN = Path(__file__).parents[2] / "golden/inception/features.npz"


def save_seeded(network, path, key_seeded):
    """Weights by rule; convolutions doubled, or the features die out."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in network().state_dict().items()}
    tensors = key_seeded(shapes)
    torch.save({name: 2 * tensor if ".conv." in name else tensor for name, tensor in tensors.items()}, path)
    return path


@pytest.fixture(scope="module")
def network(key_seeded, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    return load_inception(save_seeded(Inception, path, key_seeded))


def by_rule(height, width):
    index = np.arange(2 * 3 * height * width)
    values = 127.5 + 127.5 * np.sin(0.37 * index + 0.02 * (index // width))
    return torch.from_numpy(values.reshape(2, 3, height, width).astype(np.uint8))


@pytest.fixture(scope="module")
def pictures():
    return by_rule(48, 40)


@pytest.mark.golden
@pytest.mark.parametrize("resize", ["torch_fidelity", "torchmetrics"])
def test_features_are_the_references(network, pictures, resize):
    network.resize = resize
    found = network(pictures)
    assert found.shape == (2, 2048)
    np.testing.assert_allclose(found[:, ::4].numpy(), np.load(GOLDEN)[resize], rtol=1e-4, atol=1e-4)


def test_clean_resizing_is_pils_before_rounding(pictures):
    large = torch.nn.functional.interpolate(pictures.float(), size=(480, 400), mode="bicubic")
    large = large.clamp(0, 255).to(torch.uint8)
    found = preprocess(large, resize="clean_fid")
    for channel in range(3):
        plane = Image.fromarray(large[0, channel].numpy()).convert("F")
        expected = np.asarray(plane.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
        np.testing.assert_allclose(found[0, channel].numpy() * 128 + 128, expected, atol=0.02)


def test_ways_to_resize_differ_and_unknown_ones_are_refused(pictures):
    ways = [preprocess(pictures, resize=way) for way in ("pytorch_fid", "clean_fid", "torchmetrics")]
    for first, second in ((0, 1), (1, 2)):
        assert (ways[first] - ways[second]).abs().max() > 0.01
    assert all(way.shape == (2, 3, 299, 299) for way in ways)
    torch.testing.assert_close(preprocess(pictures / 127.5 - 1, resize="clean_fid"), ways[1])
    with pytest.raises(ValueError, match=r"resize must be one of pytorch_fid, .*got 'bicubic'"):
        Inception(resize="bicubic")


@pytest.mark.golden
def test_torchvisions_features_are_the_references(key_seeded, tmp_path):
    path = save_seeded(TorchvisionInception, tmp_path / "inception_v3_google.pth", key_seeded)
    network = load_torchvision_inception(path)
    assert sum(parameter.numel() for parameter in network.parameters()) == 27_161_264, "as torchvision states"
    found = network(by_rule(299, 299))
    np.testing.assert_allclose(found[:, ::4].numpy(), np.load(GOLDEN)["torchvision"], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"does not fit Inception: .*AuxLogits"):
        load_inception(path)
