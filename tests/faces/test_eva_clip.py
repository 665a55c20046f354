"""EVA02-CLIP against the official module (`consisid_eva_clip` 1.0.2), by weights that follow from their
names.
"""

import json

import numpy as np
import pytest
import torch

from portraitgen.faces.eva_clip import TINY, EvaClip, image_tower, load_eva_clip, untrained_eva_clip


@pytest.fixture(scope="module")
def golden(repository):
    return json.loads((repository / "tests/golden/faces/eva_clip.json").read_text())


def shapes_of(network):
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.golden
def test_names_and_shapes_are_those_of_the_published_file(golden):
    with torch.device("meta"):
        network = EvaClip()
    first, expected = "blocks.0.", golden["shapes_L_14_336"]
    for number in range(1, golden["num_blocks"]):
        of_block = {
            name: shape for name, shape in golden["shapes_L_14_336"].items() if name.startswith(first)
        }
        expected = expected | {name.replace(first, f"blocks.{number}."): of_block[name] for name in of_block}
    assert shapes_of(network) == expected
    assert sum(parameter.numel() for parameter in network.parameters()) == 304_432_832
    assert network.num_tokens == 577


@pytest.mark.golden
def test_projection_and_inner_layers_are_the_official_ones(golden, key_seeded):
    """84 pixels: a grid of 6, for which the frequencies of a grid of 4 are interpolated."""
    network = EvaClip(
        image_size=84, width=64, depth=22, head_dim=16, mlp_dim=170, projection_dim=24, trained_grid=4
    )
    weights = key_seeded({name: tuple(shape) for name, shape in shapes_of(network).items()})
    network.load_state_dict(image_tower({f"visual.{name}": value for name, value in weights.items()}))
    pictures = torch.from_numpy(np.random.RandomState(1).standard_normal((2, 3, 84, 84))).float()
    projection, inner = network.of_normalised(pictures)
    torch.testing.assert_close(projection, torch.tensor(golden["projection"]), rtol=1e-4, atol=1e-6)
    assert inner.shape == (2, 5, 37, 64)
    first = torch.tensor(golden["hidden_first"])
    torch.testing.assert_close(inner[:, :, :2, :4], first, rtol=1e-4, atol=1e-5)
    for found, wanted in ((inner.mean(dim=(0, 2, 3)), "mean"), (inner.std(dim=(0, 2, 3)), "std")):
        torch.testing.assert_close(found, torch.tensor(golden[f"hidden_{wanted}"]), rtol=1e-4, atol=1e-5)


def test_inner_layers_are_what_the_block_before_makes():
    network, seen = untrained_eva_clip(), {}
    for number, block in enumerate(network.blocks):
        block.register_forward_hook(lambda module, args, out, number=number: seen.update({number: out}))
    _, inner = network(torch.rand(1, 3, 28, 28))
    assert all(torch.equal(inner[:, place], seen[block - 1]) for place, block in enumerate(network.inner))


def test_a_file_is_loaded_strictly_and_its_text_tower_left_aside(tmp_path):
    small = untrained_eva_clip(seed=3)
    whole = {f"visual.{name}": value.half() for name, value in small.state_dict().items()}
    whole |= {"visual.blocks.0.attn.rope.freqs_cos": torch.ones(4), "text.positional": torch.ones(3)}
    torch.save(whole, tmp_path / "eva.pt")
    loaded = load_eva_clip(tmp_path / "eva.pt", network=TINY)
    picture = torch.rand(1, 3, 28, 28)
    torch.testing.assert_close(loaded(picture)[0], small(picture)[0], rtol=2e-2, atol=2e-3)
    assert not loaded.training
    assert not any(value.requires_grad for value in loaded.parameters())

    del whole["visual.blocks.2.mlp.w3.weight"]
    torch.save(whole, tmp_path / "short.pt")
    with pytest.raises(ValueError, match=r"differ at blocks.2.mlp.w3.weight; fetch EVA02_CLIP_L_336"):
        load_eva_clip(tmp_path / "short.pt", network=TINY)
    with pytest.raises(ValueError, match=r"no weights file .*none.pt: fetch EVA02_CLIP_L_336_psz14_s6B.pt"):
        load_eva_clip(tmp_path / "none.pt")


def test_settings_that_cannot_be_say_so():
    with pytest.raises(ValueError, match="image_size=30 must be a multiple of patch_size=14"):
        EvaClip(image_size=30)
    with pytest.raises(ValueError, match=r"inner=\[0\]: give some of the blocks 1 to 23"):
        EvaClip(inner=(0,))
