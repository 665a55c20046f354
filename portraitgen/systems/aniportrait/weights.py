"""Weights that convert.py makes into AniPortrait's, and AniPortrait's as the files that were published."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from portraitgen.faces.mediapipe import MODEL_URL
from portraitgen.systems.aniportrait.audio2mesh import Audio2Mesh
from portraitgen.systems.aniportrait.audio2pose import Audio2Pose
from portraitgen.systems.aniportrait.audio_weights import from_published_audio, published_audio_state
from portraitgen.systems.aniportrait.network import AniPortraitNetwork
from portraitgen.systems.aniportrait.published import (
    from_animatediff,
    from_published,
    published_state,
)
from portraitgen.training.public_unets import position_tables, read_stable_diffusion, read_tensors
from portraitgen.training.published import Kind
from portraitgen.training.released import SD_VAE, Released, ReleasedPart

_HINT = "the published ones are ZJYang/AniPortrait on the hub"


def publish(network: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The weights of one of AniPortrait's networks as the published files, by name.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(network, Audio2Mesh | Audio2Pose):
        return {f"{type(network).__name__.lower()}.pt": published_audio_state(network)}
    if isinstance(network, AniPortraitNetwork):
        return {f"{file}.pth": state for file, state in published_state(network).items()}
    raise ValueError(f"{type(network).__name__} was never published")


def _read_aniportrait(source: str) -> dict[str, Tensor]:
    """A folder with the published files; motion modules in their own or with the denoising U-Net."""
    folder = Path(source)
    files = {name: folder / f"{name}.pth" for name in ("denoising_unet", "reference_unet", "pose_guider")}
    motion = folder / "motion_module.pth"
    if motion.is_file():
        files["motion_module"] = motion
    return from_published(**{name: read_tensors(path, hint=_HINT) for name, path in files.items()})


def _read_animatediff(source: str) -> dict[str, Tensor]:
    hint = "mm_sd_v15_v2.ckpt is guoyww/animatediff on the hub (Apache-2.0)"
    return from_animatediff(read_tensors(source, hint=hint))


def _read_audio(source: str) -> dict[str, Tensor]:
    return from_published_audio(read_tensors(source, hint=_HINT))


def _read_wav2vec2(source: str) -> dict[str, Tensor]:
    """A folder as transformers writes it, or a hub id."""
    from transformers import Wav2Vec2Model

    try:
        loaded: Any = Wav2Vec2Model.from_pretrained(source, output_loading_info=True, dtype=torch.float32)
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"source={source}: no wav2vec 2.0 there ({first}). Give a folder with config.json and weights, "
            "or a hub id such as facebook/wav2vec2-base-960h (Apache-2.0)"
        ) from error
    model, loading = loaded
    # The stand-in for masked features is not part of all checkpoints, and is never used here.
    lost = [name for name in loading["missing_keys"] if not name.endswith("masked_spec_embed")]
    if lost:
        raise ValueError(f"source={source} lacks {len(lost)} tensors of wav2vec 2.0: {', '.join(lost[:8])}")
    return {f"audio_encoder.{name}": value for name, value in model.state_dict().items()}


MOTION = "denoising_unet.*motion_modules.*"
KINDS = {
    "stable_diffusion": Kind(
        "Stable Diffusion 1.5, a file or a folder of diffusers: what stage 1 starts from",
        read_stable_diffusion,
        "aniportrait/stage1",
        gives=("denoising_unet.*", "reference_unet.*"),
        computed=position_tables,
    ),
    "animatediff": Kind(
        "AnimateDiff's motion modules (mm_sd_v15_v2.ckpt): what stage 2 starts from",
        _read_animatediff,
        "aniportrait/stage2",
        gives=(MOTION,),
        computed=position_tables,
    ),
    "wav2vec2": Kind(
        "wav2vec 2.0, a folder of transformers or a hub id: what Audio2Mesh and Audio2Pose start from",
        _read_wav2vec2,
        "aniportrait/audio2mesh",
        gives=("audio_encoder.*",),
    ),
    "aniportrait": Kind(
        "the published folder of denoising_unet.pth, reference_unet.pth, pose_guider.pth, motion_module.pth",
        _read_aniportrait,
        "aniportrait/stage2",
        settings=("sampling=aniportrait_released", "++model.network.reference_dtype=float16"),
        landmark_scheme="mediapipe478",
        computed=position_tables,
    ),
    "audio2mesh": Kind(
        "the published audio2mesh.pt",
        _read_audio,
        "aniportrait/audio2mesh",
        settings=(
            "model.network.num_points=468",
            "model.network.coordinates=3",
            "model.landmark_scheme=mediapipe478",
            "model.frame_rate=30",
        ),
    ),
    "audio2pose": Kind(
        "the published audio2pose.pt",
        _read_audio,
        "aniportrait/audio2pose",
        settings=(
            "model.in_3d=true",
            "model.landmark_scheme=mediapipe478",
            "model.frame_rate=30",
            "sampling.turn_scale=0.5",
        ),
    ),
}
"""What convert.py reads, by name."""

_HUB, _LICENCE, _FOLDER = "ZJYang/AniPortrait", "Apache-2.0", "AniPortrait"
RELEASED = Released(
    faces="mediapipe",
    parts=(
        ReleasedPart(
            "weights",
            _HUB,
            _LICENCE,
            _FOLDER,
            ("denoising_unet.pth", "reference_unet.pth", "pose_guider.pth", "motion_module.pth"),
            kind="aniportrait",
        ),
        ReleasedPart(
            "inputs.audio2mesh",
            _HUB,
            _LICENCE,
            _FOLDER,
            ("audio2mesh.pt",),
            use="audio2mesh.pt",
            kind="audio2mesh",
            needed_for="audio",
        ),
        ReleasedPart(
            "inputs.audio2pose",
            _HUB,
            _LICENCE,
            _FOLDER,
            ("audio2pose.pt",),
            use="audio2pose.pt",
            kind="audio2pose",
            needed_for="audio",
            unless=("inputs.head",),
        ),
        SD_VAE,
        ReleasedPart(
            "model.image_encoder.path",
            "lambdalabs/sd-image-variations-diffusers",
            "CreativeML OpenRAIL-M",
            "sd-image-variations-diffusers",
            (
                "image_encoder/config.json",
                ("image_encoder/pytorch_model.bin", "image_encoder/model.safetensors"),
            ),
            use="image_encoder",
        ),
        ReleasedPart(
            "faces.model_file",
            MODEL_URL,
            "Apache-2.0",
            "",
            ("face_landmarker.task",),
            use="face_landmarker.task",
            needed_for="reference",
        ),
    ),
)
"""What `generate.py weights=released:aniportrait` takes; wav2vec 2.0 is part of the speech models' files."""
