"""A folder in which the commands of the documents can be typed as they stand: tiny files of every kind.

Videos, photos, sounds, data sets, weights of every published kind (random ones of the real classes), runs and
results, under the names that the documents give them. Made by the commands themselves where one makes it.
"""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import save_file
from transformers import Wav2Vec2Config, Wav2Vec2Model

from portraitgen.media.audio import encode_wav
from portraitgen.media.decode import read_video
from portraitgen.media.encode import write_video
from portraitgen.runs.config.schema import CONF, register_configs
from tests.command_line import run_command
from tests.runs.tiny import save_tiny
from tests.talking_clip import SAMPLE_RATE, find_clip, hum
from tests.tiny_clip import tiny_clip

FRAMES, SIZE = 24, 64

_UNET = "model.network.denoising_unet"
_POSE = "model.network.pose_guider"
SMALL = {
    "stage": [
        *(f"{_UNET}.block_out_channels=[8,16]", f"{_UNET}.layers_per_block=1"),
        *(f"{_UNET}.attention_head_dim=2", f"{_UNET}.cross_attention_dim=8", f"+{_UNET}.norm_num_groups=4"),
        f"+{_UNET}.down_block_types=[CrossAttnDownBlock2D,DownBlock2D]",
        f"+{_UNET}.up_block_types=[UpBlock2D,CrossAttnUpBlock2D]",
        *(f"+{_POSE}.base_channels=4", f"+{_POSE}.num_attention_heads=2", f"+{_POSE}.attention_head_dim=4"),
        f"+{_POSE}.norm_num_groups=4",
    ],
    "audio2mesh": ["model=aniportrait/audio2mesh_tiny"],
    "audio2pose": ["model=aniportrait/audio2pose_tiny"],
}
"""Overrides of the full-size experiments that make every network tiny and leave every part in place."""

TINY_RUN = [
    *("trainer=cpu", "strategy=auto", "trainer.precision=32-true", "trainer.max_steps=1"),
    *("callbacks.samples=null", "data.num_workers=0", "data.batch_size=1"),
]


def make_folder(folder: Path) -> None:
    """Fill `folder`, an empty one."""
    _media(folder)
    _pretrained(folder)
    _weights(folder)
    _data_sets(folder)
    _results(folder)


def _media(folder: Path) -> None:
    man = read_video(find_clip())[: 2 * FRAMES : 2]
    (folder / "photos/ann").mkdir(parents=True)
    (folder / "known/ann").mkdir(parents=True)
    for name, frame in {"face": 0, "other": 20, "photos/ann/1": 4, "known/ann/1": 8}.items():
        cv2.imwrite(str(folder / f"{name}.jpg"), man[frame][..., ::-1])
    (folder / "photos/labels.csv").write_text("file,caption,identity\nann/1.jpg,a man in a car,Ann\n")
    sound = {"audio": hum(FRAMES / 25), "sample_rate": SAMPLE_RATE}
    for name in ("videos/talk", "talk", "a"):
        write_video(folder / f"{name}.mp4", man, fps=25, **sound)
    write_video(folder / "b.mp4", man[:, :, ::-1], fps=25, **sound)
    (folder / "speech.wav").write_bytes(encode_wav(hum(0.5)[::3]))
    for made, true in (("made", "true"), ("out", "truth")):
        write_video(folder / made / "man.mp4", man[1:7], fps=25)
        write_video(folder / true / "man.mp4", man[:6], fps=25)
    (folder / "pairs.csv").write_text("generated,real\nman.mp4,man.mp4\n")
    _run(folder, "generate.py", "landmarks", "driving=talk.mp4", "out=found")
    shutil.move(folder / "found/landmarks/talk.npz", folder / "talk.npz")


def _pretrained(folder: Path) -> None:
    """What others published, in tiny: a VAE, CLIP's image encoder, Stable Diffusion's U-Net, wav2vec 2.0."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
    )
    for place in ("models/sd-vae-ft-mse", "stabilityai/sd-vae-ft-mse"):
        vae.save_pretrained(folder / place)
    tiny_clip(projection_dim=8).save_pretrained(folder / "models/sd-image-variations-image-encoder")
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        stage = compose("train", ["experiment=aniportrait/stage1", "data.shards=none", *SMALL["stage"]])
        audio = compose("train", ["experiment=aniportrait/tiny_audio2mesh", "data.shards=none"])
    unet = instantiate(stage.model.network, _convert_="all").denoising_unet
    (folder / "stable-diffusion-v1-5/unet").mkdir(parents=True)
    save_file(unet.state_dict(), folder / "stable-diffusion-v1-5/unet/diffusion_pytorch_model.safetensors")
    encoder = Wav2Vec2Config(**OmegaConf.to_container(audio.model.network.audio_encoder))
    Wav2Vec2Model(encoder).save_pretrained(folder / "facebook/wav2vec2-base-960h")
    for place in ("face_landmarker.task", "models/face_landmarker.task"):
        (folder / place).write_bytes(b"in the place of MediaPipe's model")


def _weights(folder: Path) -> None:
    """What the runs leave, untrained, and what convert.py makes of it and of what others published."""
    runs = folder / "runs/aniportrait"
    small = [*SMALL["stage"], "paths.models=models", "data.examples.pose_size=64"]
    for stage in ("stage1", "stage2"):
        save_tiny(runs / stage / LAST, *small, experiment=f"aniportrait/{stage}")
    for name in ("audio2mesh", "audio2pose"):
        save_tiny(runs / name / LAST, experiment=f"aniportrait/tiny_{name}")
    for name in ("a", "b"):
        save_tiny(folder / f"{name}.safetensors")
    for run, experiment in (("clip_stage2", "tiny_stage2"), ("clip_audio2mesh", "tiny_audio2mesh")):
        save_tiny(runs / run / LAST, experiment=f"aniportrait/{experiment}")
    quickstart = folder / "runs/quickstart"
    save_tiny(quickstart / "stage1/weights/step_00000300.safetensors")
    save_tiny(quickstart / "stage2" / LAST, experiment="aniportrait/tiny_stage2")
    for experiment, place in (("quickstart/stage1", quickstart), ("aniportrait/clip_stage1", runs)):
        run = experiment.split("/")[1]
        save_tiny(place / run / LAST, "model=aniportrait_tiny", experiment=experiment)

    publish = ["convert.py", "kind=published"]
    _run(folder, *publish, f"source=runs/aniportrait/stage2/{LAST}", "out=AniPortrait")
    shutil.copy(folder / "AniPortrait/motion_module.pth", folder / "mm_sd_v15_v2.ckpt")
    sd, wav2vec2 = "stable-diffusion-v1-5", "facebook/wav2vec2-base-960h"
    convert(folder, "stable_diffusion", sd, f"models/{sd}.safetensors", "stage")
    convert(folder, "animatediff", "mm_sd_v15_v2.ckpt", "models/animatediff.safetensors", "stage")
    convert(folder, "wav2vec2", wav2vec2, "models/wav2vec2-base.safetensors", "audio2mesh")
    for name, words in (
        ("audio2mesh", ["model.network.num_points=468", "model.network.coordinates=3"]),
        ("audio2pose", ["model.in_3d=true"]),
    ):
        save_tiny(folder / f"in_3d/{name}.safetensors", *words, experiment=f"aniportrait/tiny_{name}")
        _run(folder, *publish, f"source=in_3d/{name}.safetensors", "out=AniPortrait")


LAST = "weights/last.safetensors"


def settings_word(network: str) -> str:
    """convert.py's settings= for networks of `SMALL`."""
    return f"settings={json.dumps(SMALL[network], separators=(',', ':'))}"


def convert(folder: Path, kind: str, source: str, out: str, network: str) -> None:
    _run(folder, "convert.py", f"kind={kind}", f"source={source}", f"out={out}", settings_word(network))


def _data_sets(folder: Path) -> None:
    prepare = ["prepare.py", "source=videos", f"size={SIZE}", "workers=0"]
    _run(folder, *prepare, "out=shards/mine")
    _run(folder, *prepare, "out=data", "split=test")
    for place in ("runs/quickstart/data", "runs/aniportrait/clip/data"):
        shutil.copytree(folder / "shards/mine", folder / place)
    _consisid(folder / "ConsisID/asserts/demo_train_data")
    shutil.copytree(folder / "ConsisID/asserts/demo_train_data", folder / "demo_train_data")
    _run(folder, "prepare.py", "import_consisid", "source=demo_train_data", "out=shards/demo", "workers=0")


def _consisid(folder: Path) -> None:
    """One clip in the layout of ConsisID's training folders, one box for all its frames."""
    man = read_video(find_clip())[:8]
    box = dict(zip(("x1", "y1", "x2", "y2"), (40.0, 20.0, 120.0, 110.0), strict=True))
    item = {"name": "FACE", "class": 0, "confidence": 0.9, "box": box, "track_id": 1, "new_track_id": 1}
    boxes = {str(frame): {"face": [item], "head": [item]} for frame in range(len(man))}
    contents = {"refine_bbox_jsons/man.json": boxes}
    tables = ("corresponding_data", "control_sam2_frame", "valid_frame")
    contents |= {f"track_masks_data/man/{table}.json": {} for table in tables}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    write_video(folder / "videos/man.mp4", np.ascontiguousarray(man), fps=25)


def _results(folder: Path) -> None:
    _run(
        folder,
        *("generate.py", f"weights=runs/aniportrait/stage2/{LAST}", "out=runs/aniportrait/generated"),
        *("shards=shards/mine/shards/train-*.tar", "span=[0.75,1.0]"),
    )
    for place in ("runs/quickstart/generated", "runs/aniportrait/clip/landmarks"):
        shutil.copytree(folder / "runs/aniportrait/generated", folder / place)
    words = ["generated=out", "real=truth", "out=runs/a/report", "metrics.checks=[]"]
    _run(folder, "evaluate.py", *words)
    shutil.copytree(folder / "runs/a", folder / "runs/b")


def _run(folder: Path, script: str, *words: str) -> None:
    assert run_command(script, *words, folder=folder) == 0, [script, *words]
