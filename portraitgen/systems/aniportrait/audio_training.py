"""Training of Audio2Mesh and Audio2Pose (AniPortrait, section 3.1), which the official code leaves out.

What is known of it from the paper's authors: L1 on the offset from a neutral frame, random slices of the
sound with the landmarks of the same frames, wav2vec 2.0's convolutions frozen and all else trained. Nothing
is known of Audio2Pose's loss; its code is FaceFormer's (Fan et al., CVPR 2022), which is trained on its own
predictions.
"""

import zlib
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from portraitgen.faces.planar_motion import planar_motion
from portraitgen.media.audio import SAMPLE_RATE
from portraitgen.nn.speech import standardise
from portraitgen.systems.aniportrait.audio2mesh import Audio2Mesh
from portraitgen.systems.aniportrait.audio2pose import Audio2Pose
from portraitgen.training.learner import Batch, Learner
from portraitgen.training.optim import MakeOptimizer


class Audio2MeshTraining(Learner):
    """Learns what each point of a face does while it speaks, the head's own motion undone.

    Batches need `audio`, and a neutral reference frame (data.examples.reference=neutral). With 3 coordinates
    the points are the vertices of the feature `mesh`, as in the published weights; with 2 the landmarks of
    the shards, whatever finds them.

    Args:
        network: with as many points as these have.
        sampling: `offsets_of_sound` with its settings bound.
        landmark_scheme: of the shards.
        frame_rate: of the clips, and of the videos that are generated.
        optimizer, lr_scheduler: see `Learner`.
    """

    network: Audio2Mesh

    def __init__(
        self,
        network: Audio2Mesh,
        *,
        sampling: Callable[..., np.ndarray],
        landmark_scheme: str,
        frame_rate: float,
        optimizer: MakeOptimizer,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__(network, optimizer=optimizer, lr_scheduler=lr_scheduler)
        self.landmark_scheme, self.frame_rate = landmark_scheme, frame_rate
        self._sampling = sampling

    def losses(self, batch: Batch, *, step: int, training: bool) -> dict[str, Tensor]:
        landmarks = batch["landmarks"]
        check_sound(batch, self.frame_rate)
        if self.network.coordinates == 3:
            offsets = _required(batch, "mesh") - batch["reference_mesh"][:, None]
        else:
            offsets, _ = planar_motion(landmarks, batch["reference_landmarks"], scheme=self.landmark_scheme)
        found, wanted = offsets.shape[-2], self.network.num_points
        if found != wanted:
            raise ValueError(
                f"the data have {found} points, the network moves {wanted}: set "
                f"model.network.num_points={found}"
            )
        predicted = self.network(standardise(batch["audio"]), landmarks.shape[1])
        return {"loss": (predicted - offsets).abs().mean()}

    def offsets(self, waveform: Tensor) -> np.ndarray:
        """What the points of a face do during a sound: float32 [T, K, 2 or 3], T frames at `frame_rate`.

        In 2 coordinates they are for `faces/planar_motion.move_planar`, in 3 for the vertices of
        `faces/face_geometry`, in cm.

        Args:
            waveform: float [N], 16 kHz mono, on this module's device.
        """
        return self._sampling(self.network, waveform, frame_rate=self.frame_rate)


class Audio2PoseTraining(Learner):
    """Learns how a head moves while it speaks, from the pose of each window's first frame on.

    Args:
        network: the published architecture.
        sampling: `poses_of_sound` with its settings bound.
        landmark_scheme, frame_rate: see `Audio2MeshTraining`.
        in_3d: learn turns and shifts of the feature `head_pose`, as the published weights have them, not
            motion in the plane of the landmarks.
        teacher_forcing: predict each pose from the true ones before it, all at once: faster, but the errors
            of its own poses, which it has to go on from when it generates, are then new to it.
        optimizer, lr_scheduler: see `Learner`.
    """

    network: Audio2Pose

    def __init__(
        self,
        network: Audio2Pose,
        *,
        sampling: Callable[..., np.ndarray],
        landmark_scheme: str,
        frame_rate: float,
        in_3d: bool = False,
        teacher_forcing: bool = False,
        optimizer: MakeOptimizer,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    ) -> None:
        super().__init__(network, optimizer=optimizer, lr_scheduler=lr_scheduler)
        self.landmark_scheme, self.frame_rate = landmark_scheme, frame_rate
        self.in_3d, self.teacher_forcing = in_3d, teacher_forcing
        self._sampling = sampling

    def losses(self, batch: Batch, *, step: int, training: bool) -> dict[str, Tensor]:
        landmarks = batch["landmarks"]
        check_sound(batch, self.frame_rate)
        if self.in_3d:
            poses = relative_poses(_required(batch, "head_pose"))
        else:
            _, poses = planar_motion(landmarks, landmarks[:, 0], scheme=self.landmark_scheme)
        manner = self.manners(batch["key"]).to(landmarks.device, non_blocking=True)
        waveform = standardise(batch["audio"])
        if self.teacher_forcing:
            predicted = self.network(waveform, poses, manner)
        else:
            predicted = self.network.unroll(waveform, poses.shape[1], manner)
        return {"loss": (predicted - poses).abs().mean()}

    def manners(self, keys: list[str]) -> Tensor:
        """The manner of moving [B] that stands for each clip's source and person: a hash of its name.

        Sources share one where there are more of them than the network has manners.
        """
        count = self.network.id_embed.num_embeddings
        return torch.tensor([zlib.crc32(key.rpartition("-")[0].encode()) % count for key in keys])

    def poses(self, waveform: Tensor, *, manner: int) -> np.ndarray:
        """How the head moves during a sound: float64 [T, 6], T frames at `frame_rate`.

        Args:
            waveform: float [N], 16 kHz mono, on this module's device.
            manner: manner of moving, see `manners`.
        """
        return self._sampling(self.network, waveform, manner=manner, frame_rate=self.frame_rate)


def check_sound(batch: Batch, frame_rate: float) -> None:
    """ValueError that names the setting where a batch has no sound, or another frame rate than was said."""
    if "audio" not in batch:
        raise ValueError("the batches hold no sound: set data.examples.audio=true (data=speech_clips)")
    frames, num_samples = batch["landmarks"].shape[1], batch["audio"].shape[1]
    found = frames * SAMPLE_RATE / num_samples
    if abs(found / frame_rate - 1) > 0.01:
        rate = float(Fraction(found).limit_denominator(1001))
        raise ValueError(
            f"the clips have {rate:.4g} frames a second, model.frame_rate is {frame_rate:.4g}: set it to "
            "that, or prepare the clips anew with prepare.py fps=…"
        )


def relative_poses(matrices: Tensor) -> Tensor:
    """Poses [B, T, 6] of a head relative to its first frame, of its pose matrices [B, T, 4, 4].

    As `pose_vectors(inverse(first) @ matrices)` of faces/head_pose: turns about x, y and z in degrees, then
    the shift.
    """
    first = torch.linalg.inv_ex(matrices[:, :1]).inverse
    relative = first @ matrices
    column, last = relative[..., :3, 0], relative[..., 2, :3]
    turns = [
        torch.atan2(last[..., 1], last[..., 2]),
        torch.atan2(-last[..., 0], column[..., :2].norm(dim=-1)),
        torch.atan2(column[..., 1], column[..., 0]),
    ]
    return torch.cat([torch.stack(turns, dim=-1).rad2deg(), relative[..., :3, 3]], dim=-1)


def _required(batch: Batch, feature: str) -> Tensor:
    if feature not in batch:
        raise ValueError(
            f"the batches hold no {feature}: set data.examples.features=[{feature}], after"
            f" python prepare.py features out=… 'features=[{feature}]'"
        )
    value: Tensor = batch[feature]
    return value
