"""Is it the same person: similarity of the faces in a video to those of the reference."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import avg_pool2d

from portraitgen.faces.recognition.alignment import upright_faces
from portraitgen.faces.recognition.recognizer import FaceRecognizer
from portraitgen.faces.types import Face

CHUNK = 8
"""Faces taken through the network at a time, so that memory does not grow with the clip."""


@torch.no_grad()
def embed_faces(
    recognizer: FaceRecognizer,
    frames: Tensor,
    faces: Sequence[Sequence[Face]],
    *,
    crop_side: int | None = None,
) -> list[np.ndarray]:
    """Identity of every face in every frame.

    Args:
        frames: uint8 [T, 3, H, W].
        faces: the faces of each frame.
        crop_side: cut faces out at this multiple of the network's side first and shrink them, as ConsisID
            does for CurricularFace (224); None cuts them out at the network's side.

    Returns:
        For each frame float32 [number of its faces, D], unit length.
    """
    owner = [frame for frame, found in enumerate(faces) for _ in found]
    flat = [face for found in faces for face in found]
    template = recognizer.template if crop_side is None else recognizer.template.scaled(crop_side)
    device = next(recognizer.parameters()).device
    vectors = [np.zeros((0, recognizer.embedding_dim), np.float32)]
    for first in range(0, len(flat), CHUNK):
        chunk = flat[first : first + CHUNK]
        images = frames[owner[first : first + CHUNK]].to(device).float() / 127.5 - 1
        keypoints = torch.from_numpy(np.stack([face.keypoints for face in chunk])).to(device)
        crops, _ = upright_faces(images, keypoints, template)
        vectors.append(recognizer(avg_pool2d(crops, template.side // recognizer.template.side)).cpu().numpy())
    ends = np.cumsum([len(found) for found in faces])
    return np.split(np.concatenate(vectors), ends[:-1])


@dataclass(frozen=True, slots=True, eq=False)
class IdentityMatch:
    """Which face of a frame is whom.

    Attributes:
        similarity: float64 [T, N], cosine of each identity to its face; NaN where no face is left for it.
        embeddings: float64 [T, N, D], of that face; NaN likewise.
        num_missing: int64 [T], identities without a face.
        num_extra: int64 [T], faces beyond the number of identities.
    """

    similarity: np.ndarray
    embeddings: np.ndarray
    num_missing: np.ndarray
    num_extra: np.ndarray


def match_identities(references: np.ndarray, faces: Sequence[np.ndarray]) -> IdentityMatch:
    """Give each identity at most one face of each frame, so that the sum of their cosines is largest.

    No pair is refused for being unlike: a stranger in the place of a person is a low similarity, not a
    missing one.

    Args:
        references: [N, D], unit length, N at least 1.
        faces: for each frame the embeddings [M, D] of its faces, unit length.

    Raises:
        ValueError: no reference, or embeddings of another size.
    """
    if references.ndim != 2 or not len(references):
        raise ValueError(f"need the embeddings [N, D] of at least one identity, got {list(references.shape)}")
    similarity = np.full((len(faces), len(references)), np.nan)
    embeddings = np.full((len(faces), *references.shape), np.nan)
    for frame, found in enumerate(faces):
        if found.shape[1:] != references.shape[1:]:
            raise ValueError(
                f"faces have embeddings {list(found.shape)}, the reference {list(references.shape)}: embed "
                "both with one network"
            )
        cosines = references.astype(np.float64) @ found.astype(np.float64).T
        rows, columns = linear_sum_assignment(cosines, maximize=True)
        similarity[frame, rows] = cosines[rows, columns]
        embeddings[frame, rows] = found[columns]
    counts = np.array([len(found) for found in faces])
    return IdentityMatch(
        similarity,
        embeddings,
        num_missing=np.maximum(len(references) - counts, 0),
        num_extra=np.maximum(counts - len(references), 0),
    )


def mean_found(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the values that are there, float64 [...]; NaN where none is."""
    found = np.isfinite(values)
    count = found.sum(axis=-1)
    total = np.where(found, values, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
