"""Who the people of a sample are, as embeddings of a recognition network."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch

from portraitgen.data.features.feature import Unit, weights_digest
from portraitgen.data.pictures import SamplePictures
from portraitgen.data.sample import ClipSample, DataError
from portraitgen.faces.recognition.recognizer import FaceRecognizer, load_recognition
from portraitgen.runs.prepare.features.pretrained import chosen_device


@dataclass(frozen=True, slots=True)
class IdentityEmbeddings:
    """Float32 [N, D] unit vectors, one a person: the mean over frames spread evenly over the valid ones.

    Faces are cut out by the key points that the shard holds, so nobody else's face gets in.

    Attributes:
        network: dlib, arcface, curricularface or mobileface, see faces/recognition.
        weights: its file; null finds dlib's in the installed package.
        frames: at most, of each person.
        device: "auto" takes a GPU where there is one.
    """

    network: str = "dlib"
    weights: str | None = None
    frames: int = 8
    device: str = "auto"

    name: ClassVar[str] = "identity"
    batch_key: ClassVar[str] = "identity"
    unit: ClassVar[Unit] = "person"

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"features.identity.frames={self.frames}: give at least 1")

    def depends_on(self) -> Mapping[str, Any]:
        recognizer = _recognizer(self.network, self.weights, self.device)
        return {
            "network": recognizer.name,
            "weights": weights_digest(recognizer),
            "frames": self.frames,
            "outside": "black",  # crops used to be grey outside the picture
        }

    @torch.no_grad()
    def __call__(self, sample: ClipSample) -> np.ndarray:
        recognizer, pictures = _recognizer(self.network, self.weights, self.device), SamplePictures(sample)
        device, means = chosen_device(self.device), []
        for person, track in enumerate(sample.tracks, start=1):
            usable = np.flatnonzero(track.valid & np.isfinite(track.keypoints).all(axis=(1, 2)))
            if not len(usable):
                raise DataError(f"person {person} has no frame with key points")
            spread = np.linspace(0, len(usable) - 1, min(self.frames, len(usable))).round().astype(int)
            chosen = usable[spread]
            images = torch.cat([pictures.rgb(int(frame), 1, device=device) for frame in chosen])
            keypoints = torch.from_numpy(track.keypoints[chosen]).to(device)
            embeddings, _ = recognizer.embed(images, keypoints)
            means.append(torch.nn.functional.normalize(embeddings.mean(dim=0), dim=0).cpu().numpy())
        return np.stack(means)


@cache
def _recognizer(network: str, weights: str | None, device: str) -> FaceRecognizer:
    return load_recognition(network, weights).to(chosen_device(device))
