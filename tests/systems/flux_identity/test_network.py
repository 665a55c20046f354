"""The network: its size, its channels, and what it makes of pictures beside and behind."""

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from portraitgen.systems.flux_identity.network import FluxIdentityNetwork
from tests.systems.flux_identity import stock, tiny


@pytest.mark.parametrize(("way", "base"), [("fill_diptych", 11_902_391_360), ("kontext", 11_901_408_320)])
def test_full_size_has_the_published_number_of_parameters(way, base):
    """black-forest-labs/FLUX.1-dev: 11 901 408 320; Fill's first layer reads 320 channels more."""
    network = tiny.full_size(way)
    adapters = [p.numel() for name, p in network.named_parameters() if ".lora_" in name]
    assert sum(p.numel() for p in network.parameters()) - sum(adapters) == base
    # Rank 256 on x_embedder, 6 layers of each of 19 double blocks and 6 of each of 38 single ones.
    assert len(adapters) == 2 * (1 + 19 * 6 + 38 * 6)
    assert sum(adapters) == 256 * _widths(network)


def _widths(network):
    layers = [m for n, m in network.named_modules() if hasattr(m, "lora_A") and hasattr(m, "set_adapter")]
    return sum(layer.in_features + layer.out_features for layer in layers)


def predict(network, *, size=(6, 8), seed=0, **inputs):
    source = torch.Generator().manual_seed(seed)
    noisy = torch.randn(2, 4, *size, generator=source)
    text = torch.randn(2, stock.TOKENS, stock.TEXT, generator=source)
    pooled = torch.randn(2, stock.POOLED, generator=source)
    with torch.no_grad():
        return network(
            noisy, torch.tensor([0.2, 0.9]), text=text, pooled=pooled, **{"guidance": 1.0, **inputs}
        )


def test_what_is_beside_and_behind_has_a_say_and_its_own_size():
    network = stock.network(fill=False)
    alone = predict(network)
    assert alone.shape == (2, 4, 6, 8)
    one, two = torch.randn(2, 4, 4, 10), torch.randn(2, 4, 4, 10)
    assert (predict(network, behind=one) - predict(network, behind=two)).abs().max() > 1e-3
    assert (predict(network, guidance=30.0) - alone).abs().max() > 1e-3
    fill = stock.network(fill=True)
    assert (fill.channels, fill.channels_beside) == (4, 8)
    first = predict(fill, beside=torch.zeros(2, 8, 6, 8))
    assert (predict(fill, beside=torch.ones(2, 8, 6, 8)) - first).abs().max() > 1e-3


def test_a_sample_does_not_depend_on_those_beside_it():
    network = stock.network(fill=False)
    behind = torch.randn(2, 4, 6, 8)
    both, noisy = predict(network, behind=behind), torch.randn(2, 4, 6, 8)
    changed = behind.clone()
    changed[1] = noisy[1]
    torch.testing.assert_close(predict(network, behind=changed)[0], both[0])


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for enabled in (False, True):
        network = stock.network(fill=False).train().requires_grad_(True)
        network.set_gradient_checkpointing(enabled)
        noisy = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(1))
        text, pooled = torch.ones(1, 3, stock.TEXT), torch.ones(1, stock.POOLED)
        network(noisy, torch.tensor([0.5]), text=text, pooled=pooled, guidance=1.0).square().mean().backward()
        gradients.append({n: p.grad for n, p in network.named_parameters() if ".lora_" in n})
    for name, gradient in gradients[0].items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(gradient, gradients[1][name])


def test_bfloat16_weights_take_float32_latents():
    network = stock.network(fill=False)
    exact = predict(network)
    network.to(torch.bfloat16)
    found = predict(network, behind=None)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize(
    ("way", "words", "message"),
    [
        (
            "fill_diptych",
            ["model.network.transformer.in_channels=48"],
            "FillDiptych with this codec needs in_channels=112 and out_channels=48; it has 48 and 48",
        ),
        ("kontext", ["model.codec.factor=4"], "Kontext with this codec needs in_channels=192"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(way, words, message):
    with pytest.raises(InstantiationException, match=message):
        tiny.build(way, *words)


def test_channels_that_no_tokens_have_are_refused():
    with pytest.raises(ValueError, match="in_channels=18 and out_channels=18 must be multiples of 4"):
        FluxIdentityNetwork(
            transformer={**stock.options(fill=False), "in_channels": 18, "out_channels": None}
        )


def test_layers_that_are_not_there_are_refused_with_a_hint():
    settings = OmegaConf.to_container(tiny.config("none").model.network, resolve=True)
    settings["lora"]["identity"]["targets"] = ["transformer.transformer_blocks.*.attn.to_z"]
    with pytest.raises(InstantiationException, match="no layer matches"):
        instantiate(settings, _convert_="all")
