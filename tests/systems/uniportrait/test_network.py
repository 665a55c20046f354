"""Resampler, U-Net with its branches and router against the official code."""

import pytest
import torch

from portraitgen.nn.decoupled_attention import Branches
from tests.systems.uniportrait import golden


@pytest.fixture(scope="module")
def network(shared):
    return golden.network(shared)


@pytest.fixture(scope="module")
def known(shared):
    return golden.tensors(shared)


@pytest.fixture(scope="module")
def features(shared, key_seeded):
    return golden.features(shared, key_seeded)


def people(known, *names):
    return torch.stack([known[f"faceid_{name}_embeds"] for name in names], dim=1).expand(2, -1, -1, -1)


@pytest.mark.golden
def test_the_resampler_is_the_official_one(network, known):
    rs, a, b = network.id_resampler, known["rs_a"], known["rs_b"]
    keep = [known[name][..., 0].bool() for name in ("rs_m1", "rs_m2")]
    for expected, options in {
        "rs_out_s1": {},
        "rs_out_s0.1": {"structure_scale": 0.1},
        "rs_out_s0": {"structure_scale": 0.0},
        "rs_out_masked": {"intrinsic_keep": keep[0], "structure_keep": keep[1]},
        "rs_out_struct_all_dropped_mask": {"structure_keep": torch.zeros_like(keep[1])},
    }.items():
        if expected in known:
            torch.testing.assert_close(rs(a, b, **options), known[expected], rtol=0, atol=1e-5)
    scales = torch.tensor([0.0, 1.0])[:, None, None]
    each = rs(a, b, structure_scale=scales)
    torch.testing.assert_close(each[0], known["rs_out_s0"][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(each[1], known["rs_out_s1"][1], rtol=0, atol=1e-5)


@pytest.mark.golden
def test_features_and_id_tokens_are_the_official_ones(network, known, features):
    crops = known["images_u8"].movedim(-1, 1) / 127.5 - 1
    torch.testing.assert_close(
        features.clip.tokens(crops[:1]), known["clip_hidden_m2_img0"], rtol=0, atol=1e-5
    )
    intrinsic, structure = features(crops[:2])
    for found, expected in ((intrinsic, "resampler_in_id_single"), (structure, "resampler_in_struct_single")):
        error = (found[:1] - known[expected]).norm() / known[expected].norm()
        assert error < 1e-4
    no_one, no_looks = features.nobody(intrinsic)
    torch.testing.assert_close(no_one, known["resampler_uncond_id"])
    torch.testing.assert_close(no_looks, known["resampler_uncond_struct"], rtol=0, atol=1e-5)
    for row, (name, scale) in enumerate({"single": 0.1, "single_b": 0.3}.items()):
        tokens = network.id_resampler(
            intrinsic[row : row + 1], structure[row : row + 1], structure_scale=scale
        )
        torch.testing.assert_close(tokens, known[f"faceid_{name}_embeds"], rtol=0, atol=1e-4)
        nobody = network.id_resampler(no_one, no_looks, structure_scale=scale)
        torch.testing.assert_close(nobody, known[f"faceid_{name}_uncond"], rtol=0, atol=1e-4)


def predict(network, known, adapters, **branches):
    network.adapt_to(adapters)
    seen = Branches(**branches)
    with torch.no_grad():
        return network(known["lat"], known["t"], text=known["text"], branches=seen), seen


@pytest.mark.golden
@pytest.mark.parametrize(
    ("case", "adapters", "names", "scale"),
    [
        ("unet_base", 0, (), 1.0),
        ("unet_single", 1, ("single",), 0.7),
        ("unet_single_nolora", 0, ("single",), 1.0),
        ("unet_multi2", 2, ("single", "single_b"), 0.7),
        ("unet_multi3", 2, ("single", "single_b", "c"), 1.0),
    ],
)
def test_the_unet_is_the_official_one(network, known, case, adapters, names, scale):
    if case not in known:
        pytest.skip(f"{case} is held back")
    ids = people(known, *names) if names else known["text"].new_zeros(2, 0, 16, 32)
    logits = {}
    found, seen = predict(network, known, adapters, people=ids, people_scale=scale, logits=logits)
    torch.testing.assert_close(found, known[case], rtol=0, atol=1e-5)
    with torch.no_grad():  # again, of what the first step has kept
        again = network(known["lat"], known["t"], text=known["text"], branches=seen)
    assert torch.equal(again, found)
    assert bool(logits) == (len(names) > 1)
    order = [name.removesuffix(".processor") for name in network.unet.attn_processors]
    for name, found_logits in logits.items():
        expected = known[f"{case}.router_logits.{order.index(name)}"]
        torch.testing.assert_close(found_logits, expected, rtol=0, atol=1e-3)
        assert torch.equal(found_logits.argmax(-1), expected.argmax(-1))


@pytest.mark.golden
def test_image_prompts_and_given_regions_are_the_official_ones(network, known):
    found, _ = predict(
        network,
        known,
        1,
        people=people(known, "single"),
        people_scale=0.7,
        image=known["ip_embeds"].expand(2, -1, -1),
        image_scale=0.7,
    )
    torch.testing.assert_close(found, known["unet_ip_single"], rtol=0, atol=1e-5)
    ids = people(known, "single", "single_b")
    found, _ = predict(network, known, 2, people=ids, people_scale=0.7, regions=known["faceid_mask"])
    torch.testing.assert_close(found, known["unet_multi2_mask"], rtol=0, atol=1e-5)
    free, _ = predict(network, known, 2, people=ids, people_scale=0.7)
    assert not torch.allclose(free, found, atol=1e-3)
