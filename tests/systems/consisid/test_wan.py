"""Face tokens in Wan: zero gates change nothing, gradients survive checkpointing, libraries find blocks."""

from pathlib import Path

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from diffusers.hooks._helpers import TransformerBlockRegistry
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel, WanTransformerBlock

from portraitgen.nn.lora import lora_settings
from portraitgen.systems.consisid.wan import seam
from portraitgen.systems.consisid.wan.network import WanNetwork
from portraitgen.systems.consisid.wan.seam import FaceWanBlock
from portraitgen.training.diffusers_lora import find_adapters, read_adapter, write_adapter

WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 12,
    "freq_dim": 16,
    "ffn_dim": 48,
    "num_layers": 3,
    "rope_max_seq_len": 32,
}
EXTRACTOR = {
    "id_dim": 20,
    "vit_dim": 16,
    "depth": 5,
    "dim_head": 8,
    "heads": 2,
    "num_queries": 4,
    "ff_mult": 2,
}
FACE = {"every": 2, "heads": 2, "head_dim": 16}
TARGETS = ["transformer.blocks.*.attn1.to_[qkv]", "transformer.blocks.*.attn1.to_out.0"]


def network(*, lora=None, **face):
    torch.manual_seed(0)
    adapters = None if lora is None else {"identity": {**lora, "targets": TARGETS}}
    return WanNetwork(transformer=WAN, extractor=EXTRACTOR, face=FACE | face, lora=adapters)


def inputs(batch=2):
    source = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(batch, *shape, generator=source)

    given = {"noisy": draw(3, 4, 8, 8), "time": torch.rand(batch, generator=source), "text": draw(6, 12)}
    return given, {"embedding": draw(20), "hidden": draw(5, 7, 16)}


def open_gates(net):
    for name, parameter in net.named_parameters():
        if name.endswith("face_gate") or "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.5)


def prediction(net, given, face, **changed):
    return net(**given, faces=net.face_tokens(**face), **changed)


@torch.no_grad()
def test_at_zero_gates_it_is_wan_to_the_bit_and_has_all_of_its_tensors():
    net, (given, face) = network(lora={"rank": 2, "alpha": 2}), inputs()
    torch.manual_seed(0)
    base = WanTransformer3DModel(**WAN)
    expected = base(given["noisy"].transpose(1, 2), given["time"] * 1000, given["text"], return_dict=False)[
        0
    ].transpose(1, 2)
    assert torch.equal(prediction(net, given, face), expected)
    ours = {name.replace(".base_layer.", "."): value for name, value in net.transformer.state_dict().items()}
    assert all(torch.equal(ours[name], value) for name, value in base.state_dict().items())
    open_gates(net)
    opened = prediction(net, given, face)
    assert not torch.allclose(opened, expected)
    started = network(lora={"rank": 2, "alpha": 2}, gate=0.5)
    gates = [float(each) for name, each in started.named_parameters() if name.endswith("face_gate")]
    assert gates
    assert set(gates) == {0.5}, "open from the start, where that is asked for"
    without = prediction(net, given, face, face_scale=0.0)
    other = prediction(net, given, face | {"embedding": face["embedding"] + 1}, face_scale=0.0)
    assert torch.equal(without, other)
    assert not torch.allclose(prediction(net, given, face | {"embedding": face["embedding"] + 1}), opened)


def test_gradients_with_and_without_checkpointing_are_equal_though_recomputed_after_the_call():
    net, (given, face) = network(lora={"rank": 2, "alpha": 2}), inputs()
    open_gates(net)
    net.train()
    gradients = []
    for on in (False, True):
        net.set_gradient_checkpointing(on)
        net.zero_grad()
        loss = prediction(net, given, face).square().mean()
        prediction(net, given, {name: -value for name, value in face.items()})  # nothing remembers this call
        loss.backward()
        gradients.append({n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == {name for name, _ in net.named_parameters()}
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    assert all(value.any() for name, value in gradients[1].items() if "face" in name and "norm" not in name)


def test_adapters_attach_save_load_and_are_those_of_diffusers(tmp_path):
    net, (given, face) = network(lora={"rank": 2, "alpha": 6.0}), inputs()
    wrapped = {name for name, _ in net.named_modules() if name.endswith("lora_A")}
    assert len(wrapped) == 3 * 4
    assert all(".attn1." in name for name in wrapped)
    for parameter in net.parameters():
        parameter.data.normal_(std=0.1)
    state = {name.replace(".base_layer.", "."): value for name, value in net.state_dict().items()}
    write_adapter(tmp_path, find_adapters(state, lora_settings(net))["identity"])
    read = read_adapter(tmp_path)
    assert (read.rank, read.alpha) == (2, 6.0)
    assert all(torch.equal(value, state[name]) for name, value in read.tensors("identity").items())
    torch.manual_seed(0)
    base = WanTransformer3DModel(**WAN)
    base.load_state_dict({n: state[f"transformer.{n}"] for n in base.state_dict()})
    base.load_lora_adapter(
        {n.removeprefix("transformer."): v for n, v in _file(tmp_path).items()},
        prefix=None,
        metadata=_metadata(tmp_path),
    )
    with torch.no_grad():
        expected = base(
            given["noisy"].transpose(1, 2), given["time"] * 1000, given["text"], return_dict=False
        )[0].transpose(1, 2)
        found = prediction(net, given, face, face_scale=0.0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def _file(folder):
    from safetensors.torch import load_file

    return load_file(folder / "pytorch_lora_weights.safetensors")


def _metadata(folder):
    import json

    from safetensors import safe_open

    with safe_open(folder / "pytorch_lora_weights.safetensors", framework="pt") as file:
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
    return {name.removeprefix("transformer."): value for name, value in settings.items()}


@torch.no_grad()
def test_libraries_find_the_blocks():
    net, (given, face) = network(), inputs()
    open_gates(net)
    net.eval()
    assert net.transformer._no_split_modules == net.transformer._repeated_blocks == ["FaceWanBlock"]
    registered = TransformerBlockRegistry.get(FaceWanBlock)
    assert registered._cls is FaceWanBlock
    assert TransformerBlockRegistry.get(WanTransformerBlock)._cls is WanTransformerBlock
    plain = prediction(net, given, face)
    net.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    with net.transformer.cache_context("one"):
        assert torch.equal(prediction(net, given, face), plain)
    net.transformer.disable_cache()
    net.transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert all(block._compiled_call_impl is not None for block in net.transformer.blocks)
    torch.testing.assert_close(prediction(net, given, face), plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer": WAN | {"image_dim": 8, "added_kv_proj_dim": 32}}, "Wan for image to video"),
        ({"face": {"every": 4}}, r"network\.face\.every=4: give 1 to 3"),
        ({"face": {"evry": 2}}, "did you mean 'every'"),
        ({"extractor": EXTRACTOR | {"depth": 4}}, r"depth \(4\) must be a multiple of num_scale \(5\)"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message):
    settings = {"transformer": WAN, "extractor": EXTRACTOR, "face": FACE}
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        WanNetwork(**settings | change)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, (1_418_996_800, 12)),
        ({"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}, (14_288_491_584, 40)),
    ],
)
def test_full_sizes_build_without_memory(size, expected):
    total, heads = expected
    with torch.device("meta"):
        net = WanNetwork(transformer={"attention_head_dim": 128, **size}, face={"heads": heads})
    base = {n: p.numel() for n, p in net.transformer.named_parameters() if ".face_" not in n}
    assert sum(base.values()) == total
    attention = [module for module in net.modules() if isinstance(module, seam.PerceiverAttention)]
    assert len(attention) == size["num_layers"] // 2


def test_the_seam_is_small():
    assert len(Path(seam.__file__).read_text().splitlines()) <= 150
