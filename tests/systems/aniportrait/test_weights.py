"""Published names and ours: the map both ways, the names of the full-size files, files that do not fit."""

import json
from pathlib import Path

import pytest
import torch

from portraitgen.systems.aniportrait.network import AniPortraitNetwork
from portraitgen.systems.aniportrait.weights import (
    from_published_name,
    load_published,
    published_state,
    read_published,
    to_published_names,
)

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

    found = read_published(tmp_path / "unet.pth")

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
        read_published(tmp_path / "unet.pth")


def test_damaged_and_missing_files(tmp_path):
    (tmp_path / "unet.pth").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match=r"unet\.pth is damaged"):
        read_published(tmp_path / "unet.pth")
    with pytest.raises(ValueError, match=r"no weights file .*pose_guider\.pth: .* ZJYang/AniPortrait"):
        read_published(tmp_path / "pose_guider.pth")
