"""ConsisID's network against the official modules, diffusers' class, and the published numbers."""

import json

import pytest
import torch
from diffusers import ConsisIDTransformer3DModel

from portraitgen.systems.consisid.identity import FaceAttention, FaceTokens
from portraitgen.systems.consisid.network import ConsisIDNetwork
from portraitgen.systems.consisid.positions import rotary_positions
from portraitgen.systems.consisid.transformer import ConsisIDTransformer
from tests.systems.consisid import tiny

CPU = torch.device("cpu")


def golden(shared, name):
    return json.loads((shared / f"golden/consisid_{name}.json").read_text())


def fill(module):
    """The recipe of the golden file, which follows from names and shapes alone."""
    for index, (name, tensor) in enumerate(sorted(module.state_dict().items())):
        count = torch.arange(tensor.numel(), dtype=torch.float64)
        values = 0.3 * torch.sin(0.37 * count + 1.3 * index) / tensor.shape[-1] ** 0.5
        if name.endswith("weight") and tensor.ndim == 1:
            values = values + 1
        tensor.copy_(values.view(tensor.shape))
    return module.eval().double()


def wave(shape, step):
    """In float32, as the official code took it, then exact: how a processor rounds its sums is left out."""
    count = torch.Size(shape).numel()
    return torch.cos(step * torch.arange(count, dtype=torch.float64) + step).view(shape).float().double()


def check(found, case):
    assert list(found.shape) == case["shape"]
    flat = found.double().flatten()
    size = case["abs_max"]
    close = 2.1e-6 * size  # the golden was made in float32, and its own rounding is up to 2.002e-6 off
    assert flat[:16].tolist() == pytest.approx(case["first16"], abs=close, rel=0)
    assert flat[-8:].tolist() == pytest.approx(case["last8"], abs=close, rel=0)
    assert flat.std().item() == pytest.approx(case["std"], rel=1e-5)
    assert flat.abs().max().item() == pytest.approx(size, rel=1e-5)


@torch.no_grad()
def test_face_modules_are_the_official_ones(shared):
    for case in golden(shared, "modules")["cases"]:
        options, inputs = case["kwargs"], case["inputs"]
        if case["module"] == "LocalFacialExtractor":
            (embedding, step), layers = inputs
            hidden = [wave(shape, each) for shape, each in layers]
            check(fill(FaceTokens(**options))(wave(embedding, step), hidden), case)
        elif case["module"] == "PerceiverCrossAttention":
            module = FaceAttention(
                options["dim"],
                heads=options["heads"],
                head_dim=options["dim_head"],
                face_dim=options["kv_dim"],
            )
            face, video = (wave(shape, step) for shape, step in inputs)
            check(fill(module)(face, video), case)


@torch.no_grad()
def test_the_whole_network_is_the_official_one(shared):
    cases = [c for c in golden(shared, "modules")["cases"] if c["module"] == "ConsisIDTransformer3DModel"]
    assert [case["kwargs"]["is_train_face"] for case in cases] == [True, False]
    for case in cases:
        network = ConsisIDNetwork(transformer=case["kwargs"])
        fill(network.transformer)
        shown = wave((2, 3, 8, 8, 12), 0.13)
        faces = None
        if network.extractor is not None:
            layers = [wave((2, 17, 16), 0.11 + 0.02 * index) for index in range(5)]
            faces = network.face_tokens(wave((2, 20), 0.17), torch.stack(layers, dim=1))
        rotary = network._rotary(3, 8, 12, CPU)
        # The golden's picture has values in all frames, which `forward` never shows.
        found = network.transformer(
            shown,
            wave((2, 10, 24), 0.29),
            torch.tensor([999, 17]),
            image_rotary_emb=rotary,
            id_cond=faces,
            id_vit_hidden=[],
        ).sample
        check(found, case)


def test_positions_are_the_official_ones(shared):
    for case in golden(shared, "rope")["cases"]:
        grid = (case["H"] // 16, case["W"] // 16)
        cosines, sines = rotary_positions(case["latent_frames"], grid, base=(30, 45), head_dim=64, on=CPU)
        assert list(cosines.shape) == list(sines.shape) == case["shape"]
        assert cosines.double().sum().item() == pytest.approx(case["cos_sum"], abs=1e-6)
        assert sines.double().sum().item() == pytest.approx(case["sin_sum"], abs=1e-6)
        assert cosines[100, :8].tolist() == pytest.approx(case["cos_row100"], abs=1e-6)


def test_it_has_as_many_parameters_as_published(shared):
    counts = golden(shared, "param_counts")
    with torch.device("meta"):
        network = ConsisIDNetwork(transformer=tiny.FULL, lora=tiny.lora(128))
    of = {name: parameter.numel() for name, parameter in network.named_parameters()}
    lora = sum(count for name, count in of.items() if ".lora_" in name)
    local = sum(count for name, count in of.items() if "local_facial_extractor" in name)
    perceiver = sum(count for name, count in of.items() if "perceiver_cross_attention" in name)
    assert (local, perceiver) == (counts["LFE"], counts["PCA"])
    assert sum(of.values()) - lora == counts["total_params"]
    state = sum(t.numel() for name, t in network.state_dict().items() if ".lora_" not in name)
    assert state == counts["state_dict_numel"]
    assert lora + local + perceiver == counts["lora_r128_plus_face_modules_trainable"]


def test_it_is_the_model_of_diffusers_with_the_same_tensors():
    torch.manual_seed(0)
    ours, theirs = ConsisIDTransformer(**tiny.TINY), ConsisIDTransformer3DModel(**tiny.TINY)
    theirs.load_state_dict(ours.state_dict())
    given = tiny.network_inputs()
    shown = torch.cat([given["noisy"], given["noisy"].flip(0)], dim=2)
    rotary = rotary_positions(3, (4, 4), base=(4, 4), head_dim=16, on=CPU)
    found, expected = (
        model(
            shown,
            given["text"],
            given["time"],
            image_rotary_emb=rotary,
            id_cond=given["embedding"],
            id_vit_hidden=[*given["hidden"].unbind(1)],
        ).sample
        for model in (ours, theirs)
    )
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    found.square().mean().backward()
    expected.square().mean().backward()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4, msg=name)


def prediction(network, given):
    faces = network.face_tokens(given["embedding"], given["hidden"])
    names = ("noisy", "time", "text", "picture")
    return network(**{name: given[name] for name in names}, faces=faces)


def test_checkpointed_gradients_are_the_same_bits_and_reach_the_face_modules():
    network, given = tiny.network(rank=2), tiny.network_inputs()
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    gradients = []
    for on in (False, True):
        network.set_gradient_checkpointing(on)
        network.zero_grad()
        prediction(network, given).square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    assert gradients[1]["transformer.local_facial_extractor.latents"].abs().sum() > 0


def test_face_modules_recompute_their_activations():
    network, given = tiny.network(), tiny.network_inputs()
    calls = []
    for name in ("local_facial_extractor.layers.0.0", "perceiver_cross_attention.1.to_q"):
        module = network.transformer.get_submodule(name)
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    network.set_gradient_checkpointing(True)
    loss = prediction(network, given).square().mean()
    assert len(calls) == 2
    loss.backward()
    assert len(calls) == 4


@torch.no_grad()
def test_the_picture_stands_beside_the_first_latents_and_each_condition_counts():
    network, given = tiny.network(), tiny.network_inputs()
    seen = []
    network.transformer.patch_embed.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    whole = prediction(network, given)
    assert torch.equal(seen[0][:, :, :4], given["noisy"])
    assert torch.equal(seen[0][:, :1, 4:], given["picture"])
    assert not seen[0][:, 1:, 4:].any()
    for name in ("picture", "text", "embedding", "hidden"):
        assert not torch.allclose(prediction(network, given | {name: given[name] + 1}), whole), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 3}, r"num_layers \(3\) must be a multiple of cross_attn_interval \(2\)"),
        ({"LFE_output_dim": 30}, "LFE_output_dim must be 32"),
        ({"LFE_depth": 9}, r"LFE_depth \(9\) must be a multiple of LFE_num_scale \(5\)"),
        ({"in_channels": 4}, "in_channels must be 8"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_before_training(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        ConsisIDNetwork(transformer=tiny.TINY | options)


def test_learned_positions_are_of_one_size():
    network = tiny.network(use_learned_positional_embeddings=True)
    network.check_size(3, 8, 8)
    for size in ((3, 8, 10), (4, 8, 8)):
        with pytest.raises(ValueError, match="at most 3 of 8x8"):
            network.check_size(*size)
    tiny.network().check_size(4, 8, 10)
    with pytest.raises(ValueError, match="multiples of 2"):
        tiny.network().check_size(3, 8, 9)
