"""Networks are filled from a base, and it is known what of them still equals it."""

import json
import os
import shutil

import pytest
import torch
from diffusers import (
    CogVideoXTransformer3DModel,
    ConsisIDTransformer3DModel,
    UNet2DConditionModel,
    WanTransformer3DModel,
)
from torch import nn

from portraitgen.nn.lora import add_lora, plain_name
from portraitgen.nn.pretrained import base_tensors, bases, build_model, remember_base, weight_files

OPTIONS = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 4,
    "text_embed_dim": 12,
    "num_layers": 2,
    "sample_width": 4,
    "sample_height": 4,
    "sample_frames": 5,
    "max_text_seq_length": 6,
    "use_rotary_positional_embeddings": True,
    "use_learned_positional_embeddings": True,
}
FACE = {
    "is_train_face": True,
    "cross_attn_interval": 1,
    "cross_attn_dim_head": 4,
    "cross_attn_num_heads": 1,
    "LFE_id_dim": 8,
    "LFE_vit_dim": 6,
    "LFE_depth": 5,
    "LFE_dim_head": 4,
    "LFE_num_heads": 2,
    "LFE_num_id_token": 2,
    "LFE_num_querie": 3,
    "LFE_output_dim": 10,
    "LFE_ff_mult": 1,
}
FRESH = ["local_facial_extractor.*", "perceiver_cross_attention.*"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A video transformer as diffusers writes it, in several files."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    CogVideoXTransformer3DModel(**OPTIONS).save_pretrained(folder / "transformer", max_shard_size="10KB")
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 2
    return folder


def base(folder, **changes):
    return {"path": str(folder), "subfolder": "transformer"} | changes


def assert_same(one, two):
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("options", [OPTIONS, None], ids=["ours", "theirs"])
def test_a_model_is_filled_from_all_files_of_its_base(folder, options):
    expected = CogVideoXTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
    model = build_model(CogVideoXTransformer3DModel, options, base(folder))
    assert_same(model.state_dict(), expected.state_dict())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert base_tensors(model).keys() == {n for n, _ in [*model.named_parameters(), *model.named_buffers()]}
    (found,) = bases(model).values()
    assert found.source == f"{folder}/transformer"
    assert found.files == weight_files(folder / "transformer")
    assert len(found.files) > 2


def test_precision_is_chosen_and_what_must_be_single_stays(tmp_path):
    wan = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=8,
        ffn_dim=16,
        num_layers=1,
        rope_max_seq_len=32,
    )
    wan.save_pretrained(tmp_path)
    model = build_model(WanTransformer3DModel, None, {"path": str(tmp_path), "dtype": "bfloat16"})
    assert model.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert model.blocks[0].scale_shift_table.dtype == torch.float32  # diffusers keeps it
    assert torch.equal(model.rope.freqs_cos, wan.rope.freqs_cos)  # a table in no file
    assert len(base_tensors(model)) >= len(model.state_dict())


def test_parts_that_the_base_lacks_start_as_the_class_makes_them(folder):
    torch.manual_seed(3)
    model = build_model(
        ConsisIDTransformer3DModel,
        OPTIONS | FACE,
        base(folder, dtype="bfloat16"),
        fresh=FRESH,
    )
    state = model.state_dict()
    trained = CogVideoXTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype=torch.bfloat16)
    assert_same({name: state[name] for name in trained.state_dict()}, trained.state_dict())
    new = {name: value for name, value in state.items() if name not in trained.state_dict()}
    assert {name.split(".")[0] for name in new} == {"local_facial_extractor", "perceiver_cross_attention"}
    assert {value.dtype for value in new.values()} == {torch.float32}
    assert all(value.isfinite().all() for value in new.values())
    assert new["local_facial_extractor.latents"].std() > 0
    norm = new["perceiver_cross_attention.0.norm1.weight"]
    assert torch.equal(norm, torch.ones_like(norm))
    assert not base_tensors(model).keys() & new.keys()
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_what_is_written_to_is_no_longer_the_base(folder):
    model = build_model(CogVideoXTransformer3DModel, OPTIONS, base(folder))
    network = nn.ModuleDict({"transformer": model, "other": nn.Linear(2, 2)})
    everything = set(base_tensors(network))
    assert "transformer.proj_out.weight" in everything
    assert not any(name.startswith("other") for name in everything)
    network.eval().requires_grad_(False)
    assert set(base_tensors(network)) == everything
    with torch.no_grad():
        model.proj_out.weight.add_(1)
    nn.init.zeros_(model.proj_out.bias)
    model.norm_final.weight.data = model.norm_final.weight.data.clone()
    model.norm_final.bias = nn.Parameter(model.norm_final.bias.detach().clone())
    model.load_state_dict({"time_embedding.linear_1.bias": torch.ones(4)}, strict=False)
    assert everything - set(base_tensors(network)) == {
        "transformer.proj_out.weight",
        "transformer.proj_out.bias",
        "transformer.norm_final.weight",
        "transformer.norm_final.bias",
        "transformer.time_embedding.linear_1.bias",
    }


def test_adapters_leave_the_base_what_it_is(folder):
    model = build_model(CogVideoXTransformer3DModel, OPTIONS, base(folder, dtype="bfloat16"))
    before = set(base_tensors(model))
    add_lora(model, {"default": {"rank": 2, "alpha": 4, "targets": ["*.to_[qkv]"]}})
    assert {plain_name(name) for name in base_tensors(model)} == before


def test_parts_that_the_libraries_fill_themselves_are_remembered(tmp_path):
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path)
    model = T5EncoderModel.from_pretrained(tmp_path)
    assert base_tensors(model) == {}
    remember_base(model, str(tmp_path))
    assert len(base_tensors(model)) == len(dict(model.named_parameters(remove_duplicate=False)))


def test_on_the_meta_device_no_weights_are_needed(folder, tmp_path):
    with torch.device("meta"):
        model = build_model(CogVideoXTransformer3DModel, OPTIONS, {"path": "models/not-there"})
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
        with pytest.raises(ValueError, match=r"network\.base\.path: there is no model in models/not-there"):
            build_model(
                CogVideoXTransformer3DModel, None, {"path": "models/not-there"}, section="network.base"
            )
        shutil.copy(folder / "transformer/config.json", tmp_path)
        model = build_model(CogVideoXTransformer3DModel, None, {"path": str(tmp_path)})
        assert model.config.num_layers == 2
        assert base_tensors(model) == {}
    with pytest.raises(ValueError, match=r"has no weights"):
        build_model(CogVideoXTransformer3DModel, None, {"path": str(tmp_path)})


def test_a_model_of_the_hub_is_found_in_its_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--somebody--video"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("abc")
    shutil.copytree(folder, repository / "snapshots/abc")
    model = build_model(CogVideoXTransformer3DModel, OPTIONS, base("somebody/video"))
    (found,) = bases(model).values()
    assert found.source == "somebody/video/transformer"
    assert found.files[0].is_relative_to(repository)


def test_without_a_base_the_weights_are_random():
    torch.manual_seed(0)
    expected = CogVideoXTransformer3DModel(**OPTIONS).state_dict()
    torch.manual_seed(0)
    model = build_model(CogVideoXTransformer3DModel, OPTIONS)
    assert_same(model.state_dict(), expected)
    assert base_tensors(model) == {}


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        (OPTIONS | {"num_layers": 3}, {}, r"num_layers: 2 there, 3 in the configuration"),
        (OPTIONS | {"num_attention_heads": 1, "attention_head_dim": 16}, {}, r"num_attention_heads: 2 there"),
        (OPTIONS, {"path": "models/no"}, r"network\.base\.path: there is no model in models/no"),
        (OPTIONS, {"subfolder": "unet"}, r"there is no folder .*unet"),
        (OPTIONS, {"dtype": "bf16"}, r"network\.base\.dtype='bf16': choose float32, bfloat16, float16"),
        (OPTIONS, {"varient": "fp16"}, r"did you mean 'variant'"),
        (OPTIONS, {"variant": "fp16"}, r"has no weights: .*fp16"),
    ],
)
def test_mistakes_are_named(folder, options, changes, message):
    with pytest.raises(ValueError, match=message):
        build_model(CogVideoXTransformer3DModel, options, base(folder, **changes), section="network.base")


def test_another_model_does_not_fit(folder):
    with pytest.raises(ValueError, match=r"does not fit ConsisIDTransformer3DModel: not there: local_facial"):
        build_model(ConsisIDTransformer3DModel, OPTIONS | FACE, base(folder), fresh=FRESH[1:])
    with pytest.raises(ValueError, match="holds a CogVideoXTransformer3DModel, not a UNet2DConditionModel"):
        build_model(UNet2DConditionModel, None, base(folder))


def test_a_lost_file_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    lost = sorted((tmp_path / "copy/transformer").glob("*.safetensors"))[1]
    os.remove(lost)
    with pytest.raises(ValueError, match=f"lacks {lost.name}"):
        build_model(CogVideoXTransformer3DModel, OPTIONS, base(tmp_path / "copy"))
    config = tmp_path / "copy/transformer/config.json"
    config.write_text(json.dumps({})[:1])
    with pytest.raises(ValueError, match="is damaged"):
        build_model(CogVideoXTransformer3DModel, None, base(tmp_path / "copy"))
