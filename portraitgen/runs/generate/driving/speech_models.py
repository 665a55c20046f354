"""Load what turns sound into motion: trained here, or published and converted."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.planar_motion import POSE_SIZE
from portraitgen.runs.generate.driving.motion import read_motion
from portraitgen.runs.generate.driving.speech import Speech, head_template
from portraitgen.runs.system import load_learner
from portraitgen.systems.aniportrait.audio_training import Audio2MeshTraining, Audio2PoseTraining

SOURCES = (
    "train it (python train.py experiment=aniportrait/{name} data.shards=…), or convert the published "
    "{name}.pt (ZJYang/AniPortrait on the hub, Apache-2.0): python convert.py kind={name} source=… out=…"
)
"""Where the weights of `name` come from."""


def load_speech(
    config: DictConfig, backend: FaceBackend, *, models: str, device: torch.device, raw: bool
) -> Speech:
    """The models of `config` (generate.yaml's `speech`), and the head motion that it gives instead of one.

    Args:
        backend: finds the face of a video whose head is to be followed.
        raw: use MediaPipe's own points of it.

    Raises:
        ValueError: weights of something else, or a head motion that is not of the models' kind.
    """
    mesh, _ = load_learner(Path(config.audio2mesh), changes={}, models=models, device=device)
    if not isinstance(mesh, Audio2MeshTraining):
        raise ValueError(f"speech.audio2mesh={config.audio2mesh}: not weights of an Audio2Mesh")
    in_3d = mesh.network.coordinates == 3
    pose = None
    if config.audio2pose is not None:
        learner, _ = load_learner(Path(config.audio2pose), changes={}, models=models, device=device)
        if not isinstance(learner, Audio2PoseTraining):
            raise ValueError(f"speech.audio2pose={config.audio2pose}: not weights of an Audio2Pose")
        pose = learner
        if in_3d != pose.in_3d or pose.frame_rate != mesh.frame_rate:
            raise ValueError(
                f"speech.audio2pose={config.audio2pose} and speech.audio2mesh={config.audio2mesh} do not go "
                "together: give both as published, or both trained on the same shards, in 2D or in 3D"
            )
        manners = pose.network.id_embed.num_embeddings
        if config.identity is not None and not 0 <= config.identity < manners:
            raise ValueError(f"speech.identity={config.identity}: it must be between 0 and {manners - 1}")
    head = None
    if config.head is not None:
        rate = Fraction(mesh.frame_rate).limit_denominator(100_000)
        head = _head_motion(Path(config.head), backend, rate=rate, in_3d=in_3d, raw=raw)
    return Speech(mesh=mesh, pose=pose, head=head, identity=config.identity, shift_s=config.shift_s)


def _head_motion(path: Path, backend: FaceBackend, *, rate: Fraction, in_3d: bool, raw: bool) -> np.ndarray:
    """A head motion, float [T, 6] at `rate`: of a template, a video or a landmark file."""
    if path.suffix != ".npy":
        motion = read_motion(path, backend, fps=rate)
        return head_template(motion.landmarks, in_3d=in_3d, raw=raw)
    if not in_3d:
        raise ValueError(
            f"speech.head={path}: a template of turns and shifts is for an Audio2Mesh in 3D; for one in the "
            "plane give a video or a landmark file"
        )
    try:
        template = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"speech.head={path}: not an .npy of plain numbers ({error})") from error
    if template.ndim != 2 or template.shape[1] != POSE_SIZE or not np.isfinite(template).all():
        raise ValueError(
            f"speech.head={path}: a head motion must be [T, {POSE_SIZE}], is {list(template.shape)}"
        )
    return np.asarray(template, np.float64)
