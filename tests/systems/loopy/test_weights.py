"""What Loopy starts from comes from the files of others; its full-size starting points fit. L11."""

import pytest
import torch
from safetensors.torch import save_file

from portraitgen.systems.aniportrait.network import AniPortraitNetwork
from portraitgen.systems.aniportrait.published import published_state
from portraitgen.systems.loopy.network import INTER, INTRA
from portraitgen.systems.loopy.weights import KINDS, from_animatediff, publish
from portraitgen.training.public_unets import position_tables
from portraitgen.training.weights import matches, require_fit
from tests.systems.loopy import tiny

POSE = {"base_channels": 4, "num_attention_heads": 2, "attention_head_dim": 4, "norm_num_groups": 4}


@pytest.fixture(scope="module")
def animatediff():
    torch.manual_seed(0)
    network = AniPortraitNetwork(
        denoising_unet=tiny.UNET,
        reference_unet=tiny.UNET,
        pose_guider=POSE,
        motion={"motion_num_attention_heads": 2, "motion_max_seq_length": 7},
    )
    return {f"module.{name}": value for name, value in published_state(network)["motion_module"].items()}


def test_animatediff_fills_both_temporal_layers_of_every_place(animatediff, tmp_path):
    torch.save({"state_dict": animatediff}, tmp_path / "mm.ckpt")
    kind = KINDS["loopy_animatediff"]
    tensors = kind.read(str(tmp_path / "mm.ckpt"))
    network = tiny.fresh()
    own = {name: each for name, each in network.state_dict().items() if matches(name, kind.gives)}
    tensors |= position_tables(own)
    require_fit(own, tensors, source="mm.ckpt", target="Loopy")
    network.load_state_dict(tensors, strict=False)
    for inter, intra in zip(
        *([each.modules[kind] for each in network.denoising_unet.places] for kind in (INTER, INTRA)),
        strict=True,
    ):
        assert torch.equal(inter.proj_in.weight, intra.proj_in.weight)
        assert inter.transformer_blocks[0].pos_embed.pe.shape[1] == 7
        assert intra.transformer_blocks[0].pos_embed.pe.shape[1] == 3
    # Learned positions start as the table that AnimateDiff adds.
    fixed = tiny.fresh(temporal={**tiny.TEMPORAL, "positions": "sinusoidal"})
    assert torch.equal(
        fixed.denoising_unet.places[0].modules[INTER].transformer_blocks[0].pos_embed.pe,
        network.denoising_unet.places[0].modules[INTER].transformer_blocks[0].pos_embed.pe,
    )


def test_stable_diffusion_fills_both_unets_of_stage_1(tmp_path):
    network = tiny.stage1()
    unet = network.denoising_unet.state_dict()
    save_file(unet, tmp_path / "unet.safetensors")
    kind = KINDS["loopy_stable_diffusion"]
    tensors = kind.read(str(tmp_path / "unet.safetensors"))
    own = {name: each for name, each in network.state_dict().items() if matches(name, kind.gives)}
    require_fit(own, tensors, source="sd", target="Loopy")
    assert own.keys() == network.state_dict().keys()


def test_other_tensors_than_motion_modules_are_no_concern():
    assert from_animatediff({"conv_in.weight": torch.zeros(1)}) == {}
    with pytest.raises(ValueError, match="never published"):
        publish(tiny.stage1())


def test_stage_2_may_lack_of_stage_1_what_it_adds_and_nothing_else():
    given = ["stage.init_from=a.safetensors"]
    allowed = tiny.settings("loopy/stage2", *given).stage.expect_missing
    first, second = set(tiny.stage1().state_dict()), set(tiny.fresh().state_dict())
    assert first < second
    assert {name for name in second if matches(name, allowed)} == second - first
    for stage in ("stage1", "stage2"):
        assert tiny.settings(f"loopy/{stage}", *given).stage.train == ["*"]  # "full training" in both
