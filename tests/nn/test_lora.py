"""Adapters on the networks they are meant for: diffusers' own classes at tiny size."""

import pytest
import torch
from diffusers import (
    CogVideoXTransformer3DModel,
    ConsisIDTransformer3DModel,
    FluxTransformer2DModel,
    UNet2DConditionModel,
    WanTransformer3DModel,
)
from torch import nn

from portraitgen.nn.lora import add_lora, lora_settings, merged_lora, plain_name, set_lora


def unet():
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=12,
    )


def cogvideox():
    return CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=4,
        text_embed_dim=12,
        num_layers=2,
        sample_width=4,
        sample_height=4,
        sample_frames=5,
        max_text_seq_length=6,
    )


def consisid():
    return ConsisIDTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=4,
        text_embed_dim=12,
        num_layers=2,
        sample_width=4,
        sample_height=4,
        sample_frames=5,
        max_text_seq_length=6,
        is_train_face=True,
        is_kps=False,
        cross_attn_interval=1,
        cross_attn_dim_head=4,
        cross_attn_num_heads=1,
        LFE_id_dim=8,
        LFE_vit_dim=6,
        LFE_depth=5,
        LFE_dim_head=4,
        LFE_num_heads=2,
        LFE_num_id_token=2,
        LFE_num_querie=3,
        LFE_output_dim=10,
        LFE_ff_mult=1,
        LFE_num_scale=5,
    )


def wan():
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=12,
        freq_dim=8,
        ffn_dim=16,
        num_layers=2,
        cross_attn_norm=True,
        rope_max_seq_len=32,
    )


def flux():
    return FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        axes_dims_rope=(2, 2, 4),
    )


def run(model, dtype=torch.float32):
    source = torch.Generator().manual_seed(1)

    def noise(*shape):
        return torch.randn(*shape, generator=source).to(dtype)

    step = torch.tensor([7])
    with torch.no_grad():
        if isinstance(model, UNet2DConditionModel):
            return model(noise(1, 4, 8, 8), step, noise(1, 3, 12)).sample
        if isinstance(model, ConsisIDTransformer3DModel):
            return model(
                noise(1, 2, 4, 4, 4),
                noise(1, 6, 12),
                step,
                id_cond=noise(1, 8),
                id_vit_hidden=[noise(1, 2, 6) for _ in range(5)],
            ).sample
        if isinstance(model, CogVideoXTransformer3DModel):
            return model(noise(1, 2, 4, 4, 4), noise(1, 6, 12), step).sample
        if isinstance(model, WanTransformer3DModel):
            return model(noise(1, 4, 2, 4, 4), step, noise(1, 3, 12)).sample
        ids = torch.zeros(4, 3)
        return model(
            noise(1, 4, 4),
            encoder_hidden_states=noise(1, 3, 12),
            pooled_projections=noise(1, 10),
            timestep=step / 1000,
            img_ids=ids,
            txt_ids=ids[:3],
        ).sample


TARGETS = {
    unet: ["*.attn[12].to_[qkv]", "*.attn[12].to_out.0", "conv_in"],
    cogvideox: ["transformer_blocks.*.attn1.to_[qkv]", "transformer_blocks.*.attn1.to_out.0"],
    consisid: ["transformer_blocks.*.attn1.to_[qkv]", "transformer_blocks.*.attn1.to_out.0"],
    wan: ["blocks.*.attn[12].to_[qkv]"],
    flux: ["x_embedder", "*transformer_blocks.*.attn.to_[qkv]", "proj_out"],
}


def settings(targets, **changes):
    return {"rank": 4, "alpha": 8, "targets": targets} | changes


def randomise(model):
    source = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=source)


@pytest.mark.parametrize("build", TARGETS, ids=lambda build: build.__name__)
def test_fresh_adapters_change_nothing_and_trained_ones_are_switched(build):
    torch.manual_seed(0)
    model = build().eval()
    names = {name for name, _ in model.named_parameters()}
    expected = run(model)
    targets = TARGETS[build]
    add_lora(model, {"one": settings(targets, init="gaussian"), "two": settings(targets[:1], rank=2)})
    assert torch.equal(run(model), expected)
    plain = [plain_name(name) for name, _ in model.named_parameters()]
    assert {name for name in plain if ".lora_" not in name} == names
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert lora_settings(model) == {"one": {"rank": 4, "alpha": 8}, "two": {"rank": 2, "alpha": 8}}

    randomise(model)
    both = run(model)
    set_lora(model, {"one": 1.0})
    one = run(model)
    set_lora(model, {"one": 0.5, "two": 1.0})
    weaker = run(model)
    outputs = [expected, both, one, weaker]
    assert all(not torch.equal(a, b) for i, a in enumerate(outputs) for b in outputs[:i])
    set_lora(model, {"two": 0.0})
    assert torch.equal(run(model), expected)
    set_lora(model, {"one": 1.0, "two": 1.0})
    assert torch.equal(run(model), both)


@pytest.mark.parametrize("build", TARGETS, ids=lambda build: build.__name__)
def test_adapters_are_on_the_layers_that_the_targets_name_also_on_the_meta_device(build):
    with torch.device("meta"):
        model = build()
        add_lora(model, {"one": settings(TARGETS[build])})
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    adapted = {n.split(".lora_A.")[0] for n, _ in model.named_parameters() if ".lora_A." in n}
    if build is consisid:  # its face modules have layers called to_q too
        assert adapted == {
            f"transformer_blocks.{block}.attn1.{layer}"
            for block in (0, 1)
            for layer in ("to_q", "to_k", "to_v", "to_out.0")
        }
    if build is flux:  # not single_transformer_blocks.0.proj_out
        assert [name for name in adapted if "proj_out" in name] == ["proj_out"]


def test_an_update_is_alpha_by_rank_times_b_times_a():
    layer = nn.Sequential(nn.Linear(5, 3))
    weight = layer[0].weight.detach().clone()
    add_lora(layer, {"a": settings(["0"], rank=2, alpha=6)})
    randomise(layer)
    down, up = layer[0].lora_A["a"].weight, layer[0].lora_B["a"].weight
    value = torch.randn(7, 5)
    expected = value @ (weight + 3 * up @ down).T + layer[0].base_layer.bias
    torch.testing.assert_close(layer(value), expected)


def test_switching_leaves_what_trains_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].requires_grad_(False)
    add_lora(model, {"a": settings(["0"]), "b": settings(["1"])})
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == [
        "1.base_layer.weight",
        "1.base_layer.bias",
    ]
    model[0].lora_A["a"].requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for scales in ({"b": 1.0}, {}, {"a": 0.3, "b": 2.0}):
        set_lora(model, scales)
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before


def test_a_base_in_half_precision_has_adapters_in_single():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)).to(torch.bfloat16)
    value = torch.randn(3, 6, dtype=torch.bfloat16)
    expected = model(value)
    add_lora(model, {"a": settings(["*"])})
    assert torch.equal(model(value), expected)
    assert {p.dtype for n, p in model.named_parameters() if ".lora_" in n} == {torch.float32}
    assert {p.dtype for n, p in model.named_parameters() if ".lora_" not in n} == {torch.bfloat16}
    model(value).sum().backward()
    assert model[1].lora_B["a"].weight.grad.dtype == torch.float32


@pytest.mark.parametrize("build", TARGETS, ids=lambda build: build.__name__)
def test_networks_run_in_half_precision_with_adapters_in_single(build):
    torch.manual_seed(0)
    model = build().to(torch.bfloat16).eval()
    expected = run(model, torch.bfloat16)
    add_lora(model, {"one": settings(TARGETS[build])})
    output = run(model, torch.bfloat16)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected)
    randomise(model)
    assert not torch.equal(run(model, torch.bfloat16), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert run(model, torch.float32).isfinite().all()


def test_layers_that_torch_attention_reads_itself_have_no_adapters():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "out": nn.Linear(8, 8)})
    with pytest.raises(ValueError, match=r"lora\.a\.targets: no layer matches 'attention\.\*'"):
        add_lora(model, {"a": settings(["attention.*"])})


def test_nothing_is_added_without_adapters():
    model = nn.Sequential(nn.Linear(2, 2))
    for nothing in (None, {}):
        add_lora(model, nothing)
        assert type(model[0]) is nn.Linear
    assert lora_settings(model) == {}


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ({"a": settings(["transformer_blocks.*.attn.to_q"])}, r"lora\.a\.targets: .*\.attn1\.to_q"),
        ({"a": settings(["proj_out", "norm_final"])}, r"no layer matches 'norm_final'"),
        ({"a": settings([])}, r"lora\.a\.targets=\[\]"),
        ({"a": settings("proj_out")}, r"lora\.a\.targets='proj_out': a list"),
        ({"a": settings(["proj_out"], rank=0)}, r"lora\.a\.rank=0"),
        ({"a": settings(["proj_out"], rank=2.5)}, r"lora\.a\.rank=2\.5"),
        ({"a": settings(["proj_out"], alpha=0)}, r"lora\.a\.alpha=0"),
        ({"a": settings(["proj_out"], dropout=1)}, r"lora\.a\.dropout=1"),
        ({"a": settings(["proj_out"], init="normal")}, r"lora\.a\.init='normal': kaiming or gaussian"),
        ({"a": settings(["proj_out"], ranks=4)}, r"lora\.a\.ranks.*did you mean 'rank'"),
        ({"a": {"rank": 4, "targets": ["proj_out"]}}, r"lora\.a\.alpha: not set"),
        ({"a.b": settings(["proj_out"])}, r"adapter 'a\.b'"),
        ({"a": settings(["proj_uot"]), "b": settings(["x"])}, r"(?s)lora\.a\.targets.*lora\.b\.targets"),
    ],
)
def test_mistakes_are_named_before_anything_is_added(adapters, message):
    model = cogvideox()
    with pytest.raises(ValueError, match=message):
        add_lora(model, adapters)
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_an_unknown_adapter_cannot_be_switched_on():
    model = nn.Sequential(nn.Linear(2, 2))
    add_lora(model, {"single_id": settings(["0"])})
    with pytest.raises(ValueError, match="did you mean 'single_id'"):
        set_lora(model, {"singel_id": 1.0})


def test_merged_adapters_give_the_same_and_leave_the_weights_as_they_were():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6), nn.Conv1d(1, 1, 1))
    lora = {"rank": 2, "alpha": 6, "targets": ["*"], "init": "gaussian"}
    add_lora(module, {"one": lora, "two": lora})
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    module[0].requires_grad_(False)
    before = {name: (p.clone(), p.requires_grad, p.data_ptr()) for name, p in module.named_parameters()}
    inputs = torch.randn(3, 1, 6)
    for scales in ({"one": 1.0}, {"one": 0.5, "two": 2.0}, {}):
        set_lora(module, scales)
        expected = module(inputs)
        with merged_lora(module, scales):
            merged = module(inputs)
            assert not module[0].active_adapters
            assert not module[2].active_adapters
        torch.testing.assert_close(merged, expected)
        for name, parameter in module.named_parameters():
            value, flag, place = before[name]
            assert torch.equal(parameter, value)
            assert (parameter.requires_grad, parameter.data_ptr()) == (flag, place)
    with pytest.raises(RuntimeError, match="stop"), merged_lora(module, {"one": 1.0}):
        raise RuntimeError("stop")
    assert torch.equal(module[0].base_layer.weight, before["0.base_layer.weight"][0])
