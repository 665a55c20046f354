"""Published weights become weights files that stages and generate.py read, and come back unchanged."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config, Wav2Vec2Model

from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.convert import convert, describe_kinds
from portraitgen.runs.system import load_learner, load_system
from portraitgen.systems.aniportrait.audio2mesh import Audio2Mesh
from portraitgen.systems.aniportrait.audio2pose import Audio2Pose
from portraitgen.systems.aniportrait.audio_weights import published_audio_state
from portraitgen.systems.aniportrait.network import AniPortraitNetwork
from portraitgen.systems.aniportrait.published import published_state
from portraitgen.training.weights import save_weights

CPU = torch.device("cpu")
UNET = {
    "in_channels": 48,
    "out_channels": 48,
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}
POSE = {"base_channels": 4, "num_attention_heads": 2, "attention_head_dim": 4, "norm_num_groups": 4}
SPEECH = {
    "hidden_size": 32,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "layerdrop": 0.0,
}
TINY = ["model=aniportrait_tiny", "model.network.pose_guider.norm=group", "model.codec.factor=4"]
TINY_AUDIO = {
    "audio2mesh": ["model=aniportrait/audio2mesh_tiny"],
    "audio2pose": ["model=aniportrait/audio2pose_tiny"],
    "wav2vec2": ["model=aniportrait/audio2mesh_tiny"],
}


def run(kind: str, source: Path | str, out: Path, *settings: str, system: str | None = None) -> None:
    register_configs()
    quoted = ",".join(f'"{setting}"' for setting in settings)
    words = [f"kind={kind}", f"source={source}", f"out={out}", f"settings=[{quoted}]"]
    words += [] if system is None else [f"system={system}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        convert(compose("convert", words))


def network(*, motion: bool = True) -> AniPortraitNetwork:
    torch.manual_seed(0)
    heads = {"motion_num_attention_heads": 8, "motion_max_seq_length": 32, "use_motion_mid_block": True}
    pose = POSE | {"norm": "group"}
    return AniPortraitNetwork(
        denoising_unet=UNET, reference_unet=UNET, pose_guider=pose, motion=heads if motion else None
    )


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("motion_file", [True, False])
def test_published_aniportrait_there_and_back(tmp_path, motion_file):
    original = network()
    files = published_state(original)
    if not motion_file:
        files["denoising_unet"] |= files.pop("motion_module")
    (tmp_path / "theirs").mkdir()
    for name, state in files.items():
        torch.save(state, tmp_path / "theirs" / f"{name}.pth")
    ours = tmp_path / "ours.safetensors"

    run("aniportrait", tmp_path / "theirs", ours, *TINY)

    system, facts = load_system(ours, changes={}, models="models", device=CPU)
    assert_same(system.network.state_dict(), original.state_dict())
    sampling = facts["config"]["sampling"]
    assert (sampling["scheduler"]["beta_schedule"], sampling["pose_stats"]) == ("linear", "window")
    assert facts["config"]["network"]["reference_dtype"] == "float16"
    assert facts["shards"] == []
    assert facts["landmark_scheme"] == "mediapipe478", "or generate.py would draw dlib's 68 points for them"

    run("published", ours, tmp_path / "back")
    for name, state in published_state(original).items():
        assert_same(torch.load(tmp_path / "back" / f"{name}.pth", weights_only=True), state)


@pytest.mark.parametrize("kind", ["audio2mesh", "audio2pose"])
def test_published_audio_there_and_back(tmp_path, kind):
    torch.manual_seed(0)
    model = (
        Audio2Mesh(audio_encoder=SPEECH, hidden_size=32)
        if kind == "audio2mesh"
        else Audio2Pose(
            audio_encoder=SPEECH, hidden_size=32, num_layers=2, num_heads=4, num_identities=4, max_frames=300
        )
    )
    state = published_audio_state(model)
    assert sum(name.endswith(("weight_g", "weight_v")) for name in state) == 2
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "a.pt")
    ours = tmp_path / f"{kind}.safetensors"

    run(kind, tmp_path / "a.pt", ours, *TINY_AUDIO[kind])
    run("published", ours, tmp_path / "back")

    assert_same(torch.load(tmp_path / "back" / f"{kind}.pt", weights_only=True), state)
    learner, facts = load_learner(ours, changes={}, models="models", device=CPU)
    assert_same(learner.network.state_dict(), model.state_dict())
    assert facts["config"]["frame_rate"] == 30
    if kind == "audio2mesh":
        assert learner.offsets(torch.zeros(8000)).shape == (15, 468, 3)
    else:
        assert learner.in_3d


@pytest.mark.parametrize("folder", ["unet", "."])
def test_stable_diffusion_fills_both_unets(tmp_path, folder):
    full = network(motion=False).denoising_unet.state_dict()
    (tmp_path / "sd" / folder).mkdir(parents=True)
    save_file(full, tmp_path / "sd" / folder / "diffusion_pytorch_model.safetensors")

    run("stable_diffusion", tmp_path / "sd", tmp_path / "sd.safetensors", *TINY)

    found = load_file(tmp_path / "sd.safetensors")
    for name, value in full.items():
        assert torch.equal(found[f"denoising_unet.{name}"], value)
        ours = f"reference_unet.{name}"
        assert (ours in found) != name.startswith(("conv_norm_out", "conv_out")), name
    with pytest.raises(ValueError, match=r"sd\.safetensors does not name the model that it holds"):
        load_system(tmp_path / "sd.safetensors", changes={}, models="models", device=CPU)


def test_animatediff_gives_its_motion_modules(tmp_path):
    original = network()
    motion = published_state(original)["motion_module"]
    whole = {f"module.{name}": value for name, value in motion.items()}
    whole["module.conv_in.weight"] = torch.ones(1)
    torch.save({"epoch": 3, "state_dict": whole}, tmp_path / "mm.ckpt")

    run("animatediff", tmp_path / "mm.ckpt", tmp_path / "mm.safetensors", *TINY)

    found = load_file(tmp_path / "mm.safetensors")
    state = original.state_dict()
    assert_same(found, {name: state[name] for name in state if ".motion_modules." in name})


def test_wav2vec2_by_path(tmp_path):
    torch.manual_seed(0)
    encoder = Wav2Vec2Model(Wav2Vec2Config(**SPEECH))
    encoder.save_pretrained(tmp_path / "wav2vec2")

    run("wav2vec2", tmp_path / "wav2vec2", tmp_path / "w.safetensors", *TINY_AUDIO["wav2vec2"])

    found = load_file(tmp_path / "w.safetensors")
    state = encoder.state_dict()
    assert_same(found, {f"audio_encoder.{name}": state[name] for name in state})
    with pytest.raises(ValueError, match=r"nowhere: no wav2vec 2\.0 there"):
        run("wav2vec2", tmp_path / "nowhere", tmp_path / "w.safetensors", *TINY_AUDIO["wav2vec2"])


def test_what_does_not_fit_is_listed_and_nothing_is_written(tmp_path):
    files = published_state(network())
    del files["motion_module"]["mid_block.motion_modules.0.temporal_transformer.norm.bias"]
    files["motion_module"]["up_blocks.7.motion_modules.0.temporal_transformer.norm.bias"] = torch.zeros(8)
    torch.save(files["motion_module"], tmp_path / "mm.ckpt")
    with pytest.raises(ValueError, match="does not fit AniPortraitNetwork") as caught:
        run("animatediff", tmp_path / "mm.ckpt", tmp_path / "mm.safetensors", *TINY)
    assert "mid_block.motion_modules.0.norm.bias" in str(caught.value)
    assert "up_blocks.7.motion_modules.0.norm.bias" in str(caught.value)
    assert not (tmp_path / "mm.safetensors").exists()


def test_a_weights_file_cannot_make_a_conversion_run_anything(tmp_path):
    """Its network is checked before it is built, as generate.py does."""
    written = tmp_path / "written"
    for target in ("os.system", "torch.hub.load", "portraitgen.media.files.replace_file"):
        node = {"_target_": target, "path": str(written), "content": "x", "command": f"touch {written}"}
        config = {"_target_": "portraitgen.systems.aniportrait.module.AniPortrait", "network": node}
        file = tmp_path / "evil.safetensors"
        save_weights(file, {"a": torch.zeros(1)}, config=config, step=0, system="aniportrait")
        with pytest.raises(ValueError, match=r"network\._target_: '.*' is not"):
            run("published", file, tmp_path / "back")
    assert not written.exists()


def test_a_kind_belongs_to_a_system(tmp_path):
    with pytest.raises(ValueError, match="system=kitten: there is none; known: aniportrait"):
        run("animatediff", "x.ckpt", tmp_path / "y.safetensors", system="kitten")
    torch.save({"conv_in.weight": torch.ones(1)}, tmp_path / "mm.ckpt")
    with pytest.raises(ValueError, match="does not fit AniPortraitNetwork"):
        run("animatediff", tmp_path / "mm.ckpt", tmp_path / "y.safetensors", *TINY, system="aniportrait")
    described = describe_kinds()
    assert "system=aniportrait\n  kind=stable_diffusion" in described
    assert "kind=published" in described


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("animate_diff", "x", "y.safetensors"), "did you mean 'animatediff'"),
        (
            ("animatediff", "x.ckpt", "y.safetensors"),
            r"no weights file x\.ckpt: mm_sd_v15_v2\.ckpt is guoyww",
        ),
        (("stable_diffusion", "x", "y.ckpt"), r"out=y\.ckpt: weights files end in \.safetensors"),
        (("aniportrait", "nowhere", "y.safetensors"), r"no weights file nowhere/denoising_unet\.pth"),
    ],
)
def test_what_cannot_be_converted(words, message):
    with pytest.raises(ValueError, match=message):
        run(*words)


def test_a_stage_names_the_command_for_a_file_of_another_format(tmp_path):
    (tmp_path / "unet.ckpt").touch()
    with pytest.raises(ValueError, match=r"make one of it with python convert\.py"):
        load_system(tmp_path / "unet.ckpt", changes={}, models="models", device=CPU)


def test_mistakes_are_named_before_anything_is_read(tmp_path: Path) -> None:
    """They were tracebacks."""
    with pytest.raises(
        ValueError, match=r"settings, for train\.py experiment=\S+: Could not override 'model\.netwrk"
    ):
        run("stable_diffusion", tmp_path / "gone", tmp_path / "out.safetensors", "model.netwrk.x=1")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file, nothing can lie below it"):
        run("stable_diffusion", tmp_path / "gone", tmp_path / "file/out.safetensors")
