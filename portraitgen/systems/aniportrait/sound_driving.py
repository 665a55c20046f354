"""A photo's face, to speak as a sound does: Audio2Mesh moves the face, Audio2Pose or a template the head."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from portraitgen.faces.face_geometry import face_geometry
from portraitgen.faces.head_pose import pose_matrices, project, smooth
from portraitgen.faces.landmark_sequence import LandmarkSequence, resample
from portraitgen.faces.planar_motion import POSE_SIZE, move_planar, planar_motion
from portraitgen.faces.reference import Reference
from portraitgen.faces.retarget import cycle_template, pose_template
from portraitgen.media.audio import read_audio
from portraitgen.media.sound import sound_of
from portraitgen.systems.aniportrait.audio_training import Audio2MeshTraining, Audio2PoseTraining
from portraitgen.systems.aniportrait.driven_clip import DrivenClip
from portraitgen.systems.aniportrait.sound_chunks import count_frames
from portraitgen.training.step_seed import stream_seed


@dataclass(frozen=True, slots=True, eq=False)
class Speech:
    """What turns sound into motion.

    Attributes:
        mesh: moves the points of the face, in 3D (the published weights) or in the picture's plane.
        pose: moves the head, in the same space as `mesh`; None: see `head`.
        head: a head motion to follow instead, forth and back; float [N, 6] in the space of `mesh` at its
            frame rate. None with no `pose`: the head stands still.
        manner: manner of moving of `pose`; None: drawn from the seed.
        shift_s: seconds by which the sound of prepared clips is turned round, see `driven_by_own_sound`.
    """

    mesh: Audio2MeshTraining
    pose: Audio2PoseTraining | None
    head: np.ndarray | None
    manner: int | None
    shift_s: float = 0.0

    @property
    def in_3d(self) -> bool:
        return self.mesh.network.coordinates == 3


def driven_by_sound(
    reference: Reference, audio: Path, speech: Speech, *, fps: Fraction | None, raw: bool, seed: int
) -> DrivenClip:
    """The clip in which the photo `reference` speaks what the file `audio` (or the sound of a video) says.

    Args:
        fps: of the clip; None: that of Audio2Mesh.
        raw: start from MediaPipe's own points.
        seed: chooses the manner of moving.

    Raises:
        ValueError: no sound, or a face found with other landmarks than the models know.
    """
    if reference.landmarks.scheme != speech.mesh.landmark_scheme:
        raise ValueError(
            f"audio2mesh moves landmarks of {speech.mesh.landmark_scheme}, the reference's are "
            f"{reference.landmarks.scheme}: choose the face backend that finds the former (faces=…)"
        )
    waveform = read_audio(audio, name=f"audio={audio}")
    if waveform is None or not len(waveform):
        raise ValueError(f"audio={audio}: there is no sound in this file")
    key = f"{reference.path.stem}-{audio.stem}"
    heard = torch.from_numpy(waveform).to(speech.mesh.device)
    offsets = speech.mesh.offsets(heard)
    if speech.pose is not None:
        manner = speech.manner
        if manner is None:
            manners = speech.pose.network.id_embed.num_embeddings
            manner = int(np.random.default_rng(stream_seed(seed, key, "identity")).integers(manners))
        poses = speech.pose.poses(heard, manner=manner)
    else:
        manner = None
        still = np.zeros((1, POSE_SIZE)) if speech.head is None else speech.head
        poses = cycle_template(still, len(offsets))
    spoken = LandmarkSequence(
        points=(
            _move_in_3d(reference, offsets, poses, raw) if speech.in_3d else _move(reference, offsets, poses)
        ),
        scheme=reference.landmarks.scheme,
        image_size=reference.landmarks.image_size,
        fps=Fraction(speech.mesh.frame_rate).limit_denominator(100_000),
        found=np.ones(len(offsets), bool),
    )
    fps = fps or spoken.fps
    # To the end of the sound: a frame that it has begun counts.
    spoken = resample(spoken, fps, length=count_frames(len(waveform), fps))
    return DrivenClip(
        key=key,
        reference=reference.picture,
        landmarks=spoken.points,
        scheme=spoken.scheme,
        fps=spoken.fps,
        frames=np.arange(len(spoken)),
        truth=None,
        source={
            "mode": "sound",
            "audio": str(audio),
            "manner": manner,
        },
        sound=sound_of(audio, 0.0, len(spoken) / spoken.fps),
    )


def head_template(landmarks: LandmarkSequence, *, in_3d: bool, raw: bool, window: int = 5) -> np.ndarray:
    """How the head of a video moves, from its first frame on, float [T, 6], smoothed over `window` frames.

    Raises:
        ValueError: there is no depth to tell the motion in 3D.
    """
    if in_3d:
        meshes = landmarks.meshes(raw=raw)
        poses = np.stack([face_geometry(mesh, image_size=landmarks.image_size)[1] for mesh in meshes])
        rate = float(landmarks.fps)
        return pose_template(poses, fps=rate, target_fps=rate, window=window)
    points = torch.from_numpy(landmarks.points).double()
    return smooth(planar_motion(points, points[0], scheme=landmarks.scheme)[1].numpy(), window)


def _move(reference: Reference, offsets: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Landmarks float32 [T, K, 2] of the photo's face moved in the plane."""
    moved = move_planar(
        torch.from_numpy(reference.landmarks.points[0]).double(),
        torch.from_numpy(offsets).double(),
        torch.from_numpy(poses).double(),
        scheme=reference.landmarks.scheme,
    )
    return moved.numpy().astype(np.float32)


def _move_in_3d(reference: Reference, offsets: np.ndarray, poses: np.ndarray, raw: bool) -> np.ndarray:
    """Landmarks float32 [T, 468, 2] of the photo's metric face moved before the camera."""
    size = reference.landmarks.image_size
    vertices, pose = face_geometry(reference.landmarks.meshes(raw=raw)[0], image_size=size)
    return project(vertices + offsets, pose @ pose_matrices(poses), image_size=size).astype(np.float32)
