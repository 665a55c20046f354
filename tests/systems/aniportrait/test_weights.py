"""Published names and ours: the map both ways, the names of the full-size files, files that do not fit."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from portraitgen.systems.aniportrait.network import AniPortraitNetwork
from portraitgen.systems.aniportrait.published import (
    from_animatediff,
    from_published,
    load_published,
    published_state,
    to_published_names,
)
from portraitgen.training.public_unets import (
    from_published_name,
    from_stable_diffusion,
    position_tables,
    read_tensors,
)
from portraitgen.training.weights import require_fit

UNET = {
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}
POSE = {"base_channels": 4, "num_attention_heads": 2, "attention_head_dim": 4, "norm_num_groups": 4}
MOTION = {"motion_num_attention_heads": 2, "motion_max_seq_length": 4}
ALL_FILES = {"denoising_unet", "reference_unet", "pose_guider", "motion_module"}


def build(*, motion: bool = True) -> AniPortraitNetwork:
    return AniPortraitNetwork(
        denoising_unet=UNET, reference_unet=UNET, pose_guider=POSE, motion=MOTION if motion else None
    )


def assert_equal(found: AniPortraitNetwork, expected: AniPortraitNetwork) -> None:
    tensors, wanted = found.state_dict(), expected.state_dict()
    assert list(tensors) == list(wanted)
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)


def test_names_of_a_motion_module():
    block = "up_blocks.1.motion_modules.2.temporal_transformer.transformer_blocks.0"
    ours = "up_blocks.1.motion_modules.2.transformer_blocks.0"
    assert from_published_name(f"{block}.attention_blocks.1.to_k.weight") == f"{ours}.attn2.to_k.weight"
    assert from_published_name(f"{block}.norms.0.bias") == f"{ours}.norm1.bias"
    assert from_published_name(f"{block}.ff_norm.bias") == f"{ours}.norm3.bias"
    assert from_published_name(f"{block}.attention_blocks.0.pos_encoder.pe") is None
    assert to_published_names(f"{ours}.pos_embed.pe") == (
        f"{block}.attention_blocks.0.pos_encoder.pe",
        f"{block}.attention_blocks.1.pos_encoder.pe",
    )


def test_all_names_go_there_and_back():
    for file in published_state(build()).values():
        for name in file:
            ours = from_published_name(name)
            assert ours is None or to_published_names(ours) == (name,)


def test_full_size_names_and_shapes_are_the_published_ones(shared: Path):
    listed = json.loads((shared / "golden/aniportrait_state_dict_shapes.json").read_text())
    unet = {"attention_head_dim": 8, "cross_attention_dim": 768}
    with torch.device("meta"):
        network = AniPortraitNetwork(denoising_unet=unet, reference_unet=unet, pose_guider={}, motion={})

    files = published_state(network)

    assert set(files) == ALL_FILES
    expected = {
        "denoising_unet": "denoising_unet_stage1",
        "reference_unet": "reference_unet",
        "pose_guider": "pose_guider",
        "motion_module": "motion_module",
    }
    for file, tensors in files.items():
        shapes = {name: shape for name, (shape, _) in listed[expected[file]].items()}
        assert {name: list(value.shape) for name, value in tensors.items()} == shapes
    whole = {**files["denoising_unet"], **files["motion_module"]}
    assert set(whole) == set(listed["denoising_unet_with_motion"])


def test_full_size_files_fill_the_network_and_nothing_else(shared: Path):
    """Motion modules in a file of their own or with the denoising U-Net, and those of AnimateDiff."""
    listed = json.loads((shared / "golden/aniportrait_state_dict_shapes.json").read_text())
    with torch.device("meta"):
        files = {
            file: {
                name: torch.empty(shape, dtype=getattr(torch, kind.removeprefix("torch.")))
                for name, (shape, kind) in entries.items()
            }
            for file, entries in listed.items()
        }
        unet = {"attention_head_dim": 8, "cross_attention_dim": 768}
        network = AniPortraitNetwork(denoising_unet=unet, reference_unet=unet, pose_guider={}, motion={})
    state = network.state_dict()
    tables = position_tables(state)
    assert len(tables) == 21
    counts = Counter(name.partition(".")[0] for name in state)
    assert counts == {"denoising_unet": 1253, "reference_unet": 682, "pose_guider": 184}
    rest = {part: files[part] for part in ("reference_unet", "pose_guider")}
    apart = from_published(
        denoising_unet=files["denoising_unet_stage1"], motion_module=files["motion_module"], **rest
    )
    together = from_published(denoising_unet=files["denoising_unet_with_motion"], **rest)
    assert apart.keys() == together.keys()
    require_fit(state, apart | tables, source="files", target="network")
    motion = from_animatediff(files["denoising_unet_with_motion"])
    assert len(motion) == 588 - 42
    assert motion.keys() == {name for name in state if ".motion_modules." in name} - tables.keys()


def ldm_name(name: str) -> str:
    """The name of a diffusers tensor of Stable Diffusion 1.5's U-Net in the original single files."""
    plain = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    inner = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    for ours, theirs in plain.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    parts = name.split(".")
    if parts[0] == "mid_block":
        slot = f"middle_block.{2 * int(parts[2]) if parts[1] == 'resnets' else 1}"
        kind, rest = parts[1], parts[3:]
    else:
        block, kind, layer, rest = int(parts[1]), parts[2], int(parts[3]), parts[4:]
        down = parts[0] == "down_blocks"
        first = f"input_blocks.{3 * block + layer + 1}" if down else f"output_blocks.{3 * block + layer}"
        if kind == "downsamplers":
            return f"input_blocks.{3 * block + 3}.0.op.{rest[-1]}"
        if kind == "upsamplers":
            return f"output_blocks.{3 * block + 2}.{2 if block else 1}.conv.{rest[-1]}"
        slot = f"{first}.{0 if kind == 'resnets' else 1}"
    return ".".join([slot, *([inner[rest[0]], *rest[1:]] if kind == "resnets" else rest)])


def test_stable_diffusion_as_a_single_file():
    """Names of all 686 tensors, by the layout of the original blocks; VAE and text encoder stay out."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).state_dict()
    single = {f"model.diffusion_model.{ldm_name(name)}": value for name, value in unet.items()}
    assert len(single) == len(unet) == 686
    single["first_stage_model.encoder.conv_in.weight"] = torch.zeros(1)

    found = from_stable_diffusion(single)

    assert {name.removeprefix("denoising_unet.") for name in found if name[0] == "d"} == unet.keys()
    assert len(found) == 686 + 682
    for name, value in unet.items():
        assert found[f"denoising_unet.{name}"] is value, name


@pytest.mark.parametrize("where", ["own file", "denoising file", "whole U-Net as motion file"])
def test_motion_modules_may_stand_in_any_of_the_files(where):
    trained, fresh = build(), build()
    files = published_state(trained)
    if where == "denoising file":
        files["denoising_unet"] |= files.pop("motion_module")
    elif where == "whole U-Net as motion file":
        files["motion_module"] |= {"conv_in.weight": torch.zeros(1), "conv_out.bias": torch.zeros(1)}

    load_published(fresh, **files)

    assert_equal(fresh, trained)


def test_stage_1_files():
    trained, fresh = build(motion=False), build(motion=False)
    files = published_state(trained)
    assert set(files) == ALL_FILES - {"motion_module"}
    load_published(fresh, **files)
    assert_equal(fresh, trained)


def test_what_does_not_fit_is_listed_and_nothing_is_loaded():
    files = published_state(build())
    del files["pose_guider"]["scale"]
    files["reference_unet"]["conv_norm_out.weight"] = torch.zeros(8)
    files["denoising_unet"]["conv_in.bias"] = torch.zeros(3)
    network = build()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    with pytest.raises(ValueError, match="published weights") as caught:
        load_published(network, **files)

    for name in ("pose_guider.scale", "reference_unet.conv_norm_out.weight", "denoising_unet.conv_in.bias"):
        assert name in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_motion_modules_that_are_missing_or_have_no_place():
    with_motion, without = published_state(build()), published_state(build(motion=False))
    with pytest.raises(ValueError, match="motion_modules"):
        load_published(build(), **without)
    with pytest.raises(ValueError, match="motion_modules"):
        load_published(build(motion=False), **with_motion)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_read_files_as_trainers_leave_them(tmp_path, wrap, prefix):
    state = {"conv_in.bias": torch.arange(3.0)}
    torch.save(wrap({prefix + name: value for name, value in state.items()}), tmp_path / "unet.pth")

    found = read_tensors(tmp_path / "unet.pth", hint="ask its makers")

    assert list(found) == ["conv_in.bias"]
    assert torch.equal(found["conv_in.bias"], state["conv_in.bias"])


class Trap:
    """An object whose unpickling would run code."""

    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("code of a weights file was run",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": Trap()}, "is damaged, or holds more than tensors"),
        ({"epoch": 3, "weight": torch.zeros(1)}, "holds more than tensors: a state dict is needed"),
        ([torch.zeros(1)], "holds more than tensors: a state dict is needed"),
    ],
)
def test_files_that_are_no_state_dict(tmp_path, content, message):
    torch.save(content, tmp_path / "unet.pth")
    with pytest.raises(ValueError, match=f"unet.pth {message}"):
        read_tensors(tmp_path / "unet.pth", hint="ask its makers")


def test_damaged_and_missing_files(tmp_path):
    (tmp_path / "unet.pth").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match=r"unet\.pth is damaged"):
        read_tensors(tmp_path / "unet.pth", hint="ask its makers")
    (tmp_path / "speech.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVE")
    with pytest.raises(ValueError, match=r"speech\.wav is neither a \.safetensors nor a PyTorch file"):
        read_tensors(tmp_path / "speech.wav", hint="ask its makers")
    with pytest.raises(ValueError, match=r"no weights file .*pose_guider\.pth: ask its makers"):
        read_tensors(tmp_path / "pose_guider.pth", hint="ask its makers")
