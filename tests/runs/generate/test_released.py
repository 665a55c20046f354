"""weights=released:…: published files become a video in one command; what is missing is said once."""

import dataclasses
import importlib.machinery
import importlib.util
import json
import os
import shutil
import sys
import types

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from portraitgen.media.audio import encode_wav
from portraitgen.media.decode import probe_video, read_video
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.config.systems import system_file
from portraitgen.runs.convert import settings_of
from portraitgen.runs.generate.generate import generate
from portraitgen.runs.generate.released import with_released
from portraitgen.systems.aniportrait import weights as aniportrait
from portraitgen.training.weights import load_facts
from tests.documents_folder import SMALL
from tests.tiny_clip import tiny_clip

SYSTEMS = ("aniportrait", "consisid", "uniportrait")
PUBLISHED = {
    "AniPortrait": ["denoising_unet.pth", "reference_unet.pth", "pose_guider.pth", "motion_module.pth"],
    "sd-vae-ft-mse": ["config.json", "diffusion_pytorch_model.safetensors"],
    "sd-image-variations-diffusers": ["image_encoder/config.json", "image_encoder/pytorch_model.bin"],
}


@pytest.fixture(autouse=True)
def small_kinds(monkeypatch, tmp_path):
    """The published kinds at a tiny size; digests are remembered beside the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sizes = {"aniportrait": "stage", "audio2mesh": "audio2mesh", "audio2pose": "audio2pose"}
    for name, size in sizes.items():
        kind = aniportrait.KINDS[name]
        small = dataclasses.replace(kind, settings=(*kind.settings, *SMALL[size]))
        monkeypatch.setitem(aniportrait.KINDS, name, small)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder paths.models with random networks of the real classes, laid out as the hub has them."""
    models = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    (models / "AniPortrait").mkdir()
    register_configs()
    for name, small in (
        ("aniportrait", SMALL["stage"]),
        ("audio2mesh", SMALL["audio2mesh"]),
        ("audio2pose", SMALL["audio2pose"]),
    ):
        kind = aniportrait.KINDS[name]
        settings = settings_of(kind, "", small, models="models")
        network = instantiate(settings["model"]["network"], _convert_="all")
        for file, state in aniportrait.publish(network).items():
            torch.save(state, models / "AniPortrait" / file)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
    )
    vae.save_pretrained(models / "sd-vae-ft-mse")
    clip = tiny_clip(projection_dim=8)
    encoder = models / "sd-image-variations-diffusers/image_encoder"
    clip.save_pretrained(encoder)
    torch.save(clip.state_dict(), encoder / "pytorch_model.bin")
    (encoder / "model.safetensors").unlink()
    (models / "face_landmarker.task").write_bytes(b"in the place of MediaPipe's model")
    return models


@pytest.fixture
def models(published, tmp_path):
    shutil.copytree(published, tmp_path / "models")
    return tmp_path / "models"


def configuration(models, *words, system="aniportrait"):
    register_configs()
    given = [f"weights=released:{system}", f"paths.models={models}", f"out={models.parent / 'out'}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("generate", [*given, *words])


@pytest.fixture
def mediapipe_is_there(monkeypatch):
    """Where the extra is not installed: enough for what only asks whether it is."""
    if importlib.util.find_spec("mediapipe") is None:
        module = types.ModuleType("mediapipe")
        module.__spec__ = importlib.machinery.ModuleSpec("mediapipe", None)
        monkeypatch.setitem(sys.modules, "mediapipe", module)


def test_every_missing_file_is_said_once_with_how_to_get_it(tmp_path):
    models = tmp_path / "models"
    with pytest.raises(ValueError, match=r"11 file\(s\) are missing") as caught:
        with_released(configuration(models, "reference=face.jpg", "audio=talk.wav"))
    lines = str(caught.value).splitlines()
    wanted = {folder: [*files] for folder, files in PUBLISHED.items()}
    wanted["AniPortrait"] += ["audio2mesh.pt", "audio2pose.pt"]
    for (folder, files), (hub, licence) in zip(
        wanted.items(),
        (
            ("ZJYang/AniPortrait", "Apache-2.0"),
            ("stabilityai/sd-vae-ft-mse", "MIT"),
            ("lambdalabs/sd-image-variations-diffusers", "CreativeML OpenRAIL-M"),
        ),
        strict=True,
    ):
        assert f"{hub} on the Hugging Face hub ({licence})" in lines
        assert f"hf download {hub} {' '.join(files)} --local-dir {models / folder}" in lines
        for file in files:
            assert lines.count(f"  {models / folder / file}") == 1
    assert lines.count(f"  {models / 'face_landmarker.task'}") == 1
    assert any(line.startswith(f"curl -L --create-dirs -o {models}/face_landm") for line in lines)
    assert not models.exists(), "nothing is fetched or made"


def test_only_what_is_needed_and_missing_is_asked_for(models, tmp_path):
    """A video drives without the speech models; what is given or there is not asked for."""
    for name in ("audio2mesh.pt", "audio2pose.pt", "pose_guider.pth"):
        (models / "AniPortrait" / name).unlink()
    with pytest.raises(ValueError, match=r"1 file\(s\)") as caught:
        with_released(configuration(models, "reference=face.jpg", "driving=talk.mp4"))
    assert "hf download ZJYang/AniPortrait pose_guider.pth --local-dir" in str(caught.value)
    own = ["audio=talk.wav", "inputs.audio2mesh=mine.safetensors", "inputs.head=head.mp4"]
    with pytest.raises(ValueError, match=r"1 file\(s\)"):
        with_released(configuration(models, "reference=face.jpg", *own))
    table = tmp_path / "many.csv"
    table.write_text("reference,audio\nface.jpg,talk.wav\n")
    with pytest.raises(ValueError, match=r"3 file\(s\)"):
        with_released(configuration(models, f"requests={table}"))


@pytest.mark.usefixtures("mediapipe_is_there")
def test_they_are_converted_once_and_again_where_a_source_changed(models):
    words = ("reference=face.jpg", "audio=talk.wav", "seed=3")
    config = with_released(configuration(models, *words))
    folder = models / "converted/aniportrait"
    assert config.weights == str(folder / "aniportrait.safetensors")
    assert config.inputs.audio2mesh == str(folder / "audio2mesh.safetensors")
    assert config.inputs.audio2pose == str(folder / "audio2pose.safetensors")
    assert config.model.image_encoder.path == str(models / "sd-image-variations-diffusers/image_encoder")
    assert config.faces._target_.endswith("MediaPipeBackend")
    assert (config.faces.model_file, config.seed) == (str(models / "face_landmarker.task"), 3)
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.safetensors" for name in ("aniportrait", "audio2mesh", "audio2pose")
    }
    facts = load_facts(folder / "aniportrait.safetensors")
    assert {*facts["converted_files"]} == {*PUBLISHED["AniPortrait"]}
    made = {path: path.stat().st_mtime_ns for path in folder.iterdir()}

    with_released(configuration(models, *words))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == made

    source = models / "AniPortrait/audio2mesh.pt"
    state = torch.load(source, weights_only=True)
    torch.save({name: value + 1 for name, value in state.items()}, source)
    (folder / "audio2pose.safetensors").write_bytes(b"damaged")
    with_released(configuration(models, *words))
    changed = {path.stem for path, before in made.items() if path.stat().st_mtime_ns != before}
    assert changed == {"audio2mesh", "audio2pose"}


@pytest.mark.usefixtures("mediapipe_is_there")
def test_what_is_chosen_stays(models):
    words = ["reference=face.jpg", "driving=talk.mp4"]
    chosen = with_released(configuration(models, *words, "faces=insightface", "faces.min_score=0.7"))
    assert chosen.faces._target_.endswith("InsightFaceBackend")
    assert "model_file" not in chosen.faces
    assert "audio2mesh" not in chosen.inputs
    vae = os.path.relpath(models / "sd-vae-ft-mse")
    key = "model.codec.vae.pretrained_model_name_or_path"
    assert OmegaConf.select(with_released(configuration(models, *words, f"+{key}={vae}")), key) == vae


def test_of_which_systems_there_are():
    with pytest.raises(ValueError, match=r"released:aniportrait, .*did you mean 'aniportrait'"):
        with_released(configuration(CONF, system="aniportrai"))


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_part_fills_a_setting_that_exists(system, monkeypatch):
    monkeypatch.undo()  # at full size, of which nothing is built
    register_configs()
    module, inputs = system_file(system, "weights"), system_file(system, "inputs").Inputs
    (kind,) = [module.KINDS[part.kind] for part in module.RELEASED.parts if part.fills == "weights"]
    settings = OmegaConf.create({"model": settings_of(kind, "", models="models")["model"]})
    known = {each.name for each in inputs.inputs} | {"weights", "faces.model_file"}
    for part in module.RELEASED.parts:
        assert part.fills in known or isinstance(OmegaConf.select(settings, part.fills), str), part.fills
        assert part.needed_for is None or part.needed_for in known
        assert {*part.unless} <= known
        assert part.kind is None or part.kind in module.KINDS
        files = [name for each in part.files for name in ([each] if isinstance(each, str) else each)]
        assert part.use == "" or any(f"{name}/".startswith(f"{part.use}/") for name in files)


def test_a_photo_and_a_sound_become_a_video(models, shared, tmp_path):
    pytest.importorskip("mediapipe")
    shutil.copy(
        shared / "testdata/models/face_landmarker_v2_with_blendshapes.task", models / "face_landmarker.task"
    )
    cv2.imwrite(str(tmp_path / "face.jpg"), read_video(shared / "testdata/clips/AOC_short.mp4")[0][..., ::-1])
    (tmp_path / "talk.wav").write_bytes(encode_wav(0.1 * np.sin(np.arange(3200) / 9)))
    generate(
        configuration(
            models,
            f"reference={tmp_path / 'face.jpg'}",
            f"audio={tmp_path / 'talk.wav'}",
            *("size=64", "sampling.num_steps=1", "device=cpu"),
        )
    )
    row = json.loads((tmp_path / "out/samples.jsonl").read_text())
    info = probe_video(tmp_path / "out" / row["video"])
    assert (info.num_frames, info.fps, info.has_audio) == (6, 30, True)
    assert {*row["digests"]} == {str(path) for path in (models / "converted/aniportrait").iterdir()}
