"""Load what turns sound into motion: trained here, or published and converted."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path

import numpy as np

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.motion import read_motion
from portraitgen.faces.planar_motion import POSE_SIZE
from portraitgen.media.bounded import read_array
from portraitgen.systems.aniportrait.audio_training import Audio2MeshTraining, Audio2PoseTraining
from portraitgen.systems.aniportrait.sound_driving import Speech, head_template
from portraitgen.training.learner import Learner

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


def load_speech(
    *,
    audio2mesh: Path,
    audio2pose: Path | None,
    head: Path | None,
    manner: int | None,
    shift_s: float,
    backend: FaceBackend,
    load: Callable[[Path], Learner],
    raw: bool,
    progress: Progress,
) -> Speech:
    """The models of sound to motion, or the head motion that is followed instead of one.

    Args:
        audio2mesh, audio2pose: weights files.
        head: a video, landmark file or template.
        manner, shift_s: see `Speech`.
        backend: finds the face of a video whose head is to be followed.
        load: a weights file → what a run trained.
        raw: use MediaPipe's own points of it.
        progress: see `training.inputs.Resources`.

    Raises:
        ValueError: weights of something else, or a head motion that is not of the models' kind.
    """
    mesh = load(audio2mesh)
    if not isinstance(mesh, Audio2MeshTraining):
        raise ValueError(f"inputs.audio2mesh={audio2mesh}: not weights of an Audio2Mesh")
    in_3d = mesh.network.coordinates == 3
    pose = None
    if audio2pose is not None:
        learner = load(audio2pose)
        if not isinstance(learner, Audio2PoseTraining):
            raise ValueError(f"inputs.audio2pose={audio2pose}: not weights of an Audio2Pose")
        pose = learner
        if in_3d != pose.in_3d or pose.frame_rate != mesh.frame_rate:
            raise ValueError(
                f"inputs.audio2pose={audio2pose} and inputs.audio2mesh={audio2mesh} do not go together: give "
                "both as published, or both trained on the same shards, in 2D or in 3D"
            )
        manners = pose.network.id_embed.num_embeddings
        if manner is not None and not 0 <= manner < manners:
            raise ValueError(f"inputs.manner={manner}: it must be between 0 and {manners - 1}")
    motion = None
    if head is not None:
        rate = Fraction(mesh.frame_rate).limit_denominator(100_000)
        motion = _head_motion(head, backend, rate=rate, in_3d=in_3d, raw=raw, progress=progress)
    return Speech(mesh=mesh, pose=pose, head=motion, manner=manner, shift_s=shift_s)


def _head_motion(
    path: Path, backend: FaceBackend, *, rate: Fraction, in_3d: bool, raw: bool, progress: Progress
) -> np.ndarray:
    """A head motion, float [T, 6] at `rate`: of a template, a video or a landmark file."""
    if path.suffix != ".npy":
        with progress(f"{path.name}: looking for the face") as on_frame:
            motion = read_motion(path, backend, fps=rate, on_frame=on_frame)
        return head_template(motion.landmarks, in_3d=in_3d, raw=raw)
    if not in_3d:
        raise ValueError(
            f"inputs.head={path}: a template of turns and shifts is for an Audio2Mesh in 3D; for one in the "
            "plane give a video or a landmark file"
        )
    try:
        template = read_array(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"inputs.head={path}: not an .npy of plain numbers ({error})") from error
    if template.ndim != 2 or template.shape[1] != POSE_SIZE or not np.isfinite(template).all():
        raise ValueError(
            f"inputs.head={path}: a head motion must be [T, {POSE_SIZE}], is {list(template.shape)}"
        )
    return np.asarray(template, np.float64)
