"""The two networks that turn speech into the motion of a face, from their weights files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from portraitgen.runs.system import load_learner
from portraitgen.systems.aniportrait.audio_training import Audio2MeshTraining, Audio2PoseTraining

Model = TypeVar("Model", Audio2MeshTraining, Audio2PoseTraining)


@dataclass(frozen=True, slots=True)
class AudioModels:
    """Expression and head motion from speech.

    Attributes:
        mesh: `mesh.offsets(samples)` gives [T, K, 2 or 3].
        pose: `pose.poses(samples, identity=…)` gives [T, 6]; None: the head's motion comes from elsewhere.
    """

    mesh: Audio2MeshTraining
    pose: Audio2PoseTraining | None

    @property
    def frame_rate(self) -> float:
        """Of the motion, and so of the video."""
        return self.mesh.frame_rate

    @property
    def landmark_scheme(self) -> str:
        """Of the points that `mesh` moves."""
        return self.mesh.landmark_scheme


def load_audio_models(mesh: Path, pose: Path | None, *, models: str, device: torch.device) -> AudioModels:
    """Audio2Mesh and Audio2Pose of two runs (or converted files), in eval mode.

    Args:
        mesh, pose: `weights/*.safetensors`.
        models: folder of the pretrained weights on this machine.

    Raises:
        ValueError: not such files, or the two do not fit together.
    """
    loaded = AudioModels(
        _load(mesh, Audio2MeshTraining, "Audio2Mesh", models=models, device=device),
        None if pose is None else _load(pose, Audio2PoseTraining, "Audio2Pose", models=models, device=device),
    )
    if loaded.pose is not None:
        for name in ("frame_rate", "landmark_scheme"):
            ours, theirs = getattr(loaded.mesh, name), getattr(loaded.pose, name)
            if ours != theirs:
                raise ValueError(
                    f"{mesh} and {pose} do not fit together: they are for {name} {ours} and {theirs}; train "
                    "both on the same data"
                )
    return loaded


def _load(path: Path, kind: type[Model], name: str, *, models: str, device: torch.device) -> Model:
    system, _ = load_learner(path, changes={}, models=models, device=device)
    if not isinstance(system, kind):
        raise ValueError(f"{path} holds {type(system.network).__name__}, not {name}")
    return system
