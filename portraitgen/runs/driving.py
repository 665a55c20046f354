"""What drives a generated clip: a reference and landmarks, from shards, or from a photo and a video."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from portraitgen.data.catalog import Catalog
from portraitgen.data.prepare.crop import choose_crop
from portraitgen.data.reader import ClipReader
from portraitgen.faces.backend import FaceBackend, largest_face
from portraitgen.faces.types import Face
from portraitgen.media.decode import iter_frames, probe_video
from portraitgen.media.geometry import apply_affine, similarity_transform
from portraitgen.media.yuv import yuv420_to_rgb

log = logging.getLogger(__name__)

MARGIN = 0.4
"""Space around a face in a photo or video, in face sizes: that of conf/prepare.yaml."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrivenClip:
    """One clip to generate.

    Attributes:
        key: names the results.
        reference: float [3, H, W] in [-1, 1].
        landmarks: float32 [T, K, 2], pixels of the reference's size; NaN where no face drives.
        scheme: order and meaning of the landmarks.
        fps: of the driving frames.
        frames: int64 [T], their numbers in the driving video.
        truth: float [T, 3, H, W] in [-1, 1], the frames as they were; None when another face drives.
        source: where it comes from, for samples.jsonl.
    """

    key: str
    reference: Tensor
    landmarks: np.ndarray
    scheme: str
    fps: Fraction
    frames: np.ndarray
    truth: Tensor | None
    source: dict[str, Any]


class ShardClips:
    """The main person's clips in shards, each with its first frame as reference.

    Raises:
        DataError: no shard matches, or one cannot be used.
    """

    def __init__(self, patterns: str | Sequence[str]) -> None:
        self._catalog = Catalog(patterns)
        self._reader = ClipReader(self._catalog)
        self._places = {
            index.key(row): (shard, row)
            for shard, index in enumerate(self._catalog.indexes)
            for row in range(len(index))
        }

    @property
    def keys(self) -> list[str]:
        return list(self._places)

    def valid_frames(self, key: str, span: Sequence[float]) -> np.ndarray:
        """Frames of a share of the clip that show the main person, int64 [N], increasing.

        Raises:
            ValueError: unknown key.
        """
        if key not in self._places:
            raise ValueError(f"no clip {key!r} in {self._catalog.shards[0].parent}")
        shard, row = self._places[key]
        index = self._catalog.indexes[shard]
        low, high = (int(np.rint(share * index.num_frames[row])) for share in span)
        runs = [range(max(start, low), min(end, high)) for _, start, end in self._runs(key)]
        return np.array([frame for run in runs for frame in run], dtype=np.int64)

    def read(self, key: str, frames: np.ndarray) -> DrivenClip:
        """These frames of a clip, increasing, with the first frame that shows the person as reference."""
        shard, row = self._places[key]
        index = self._catalog.indexes[shard]
        first = np.array([min(start for _, start, _ in self._runs(key))])
        return DrivenClip(
            key=key,
            reference=self._pictures(shard, row, first)[0],
            landmarks=self._reader.landmarks(shard, row, 0, frames),
            scheme=self._catalog.landmark_scheme,
            fps=Fraction(*index.fps[row].tolist()),
            frames=frames,
            truth=self._pictures(shard, row, frames),
            source={
                "shard": str(self._catalog.shards[shard].resolve()),
                "num_frames": int(index.num_frames[row]),
            },
        )

    def _runs(self, key: str) -> list[list[int]]:
        shard, row = self._places[key]
        return [run for run in self._catalog.indexes[shard].clip_runs(row).tolist() if run[0] == 0]

    def _pictures(self, shard: int, row: int, frames: np.ndarray) -> Tensor:
        height, width = self._catalog.indexes[shard].size[row].tolist()
        planes = np.empty((len(frames), height * 3 // 2, width), np.uint8)
        self._reader.frames(shard, row, frames, out=planes)
        return yuv420_to_rgb(torch.from_numpy(planes))


def driven_by_video(reference: Path, driving: Path, *, backend: FaceBackend, size: int) -> DrivenClip:
    """A photo's face, to move as the largest face of each frame of a video does.

    Both are cut out as prepared clips are. The driving landmarks are laid over the reference's by the
    similarity that fits the first of them: place and size of the head are the photo's, turns and expression
    the video's.

    Args:
        size: side of the picture that the model draws.

    Raises:
        ValueError: a file cannot be read or shows no face.
    """
    photo = _read_photo(reference)
    face = _surest(backend, photo)
    if face is None:
        raise ValueError(f"reference={reference}: no face found in this photo")
    crop = choose_crop(face.box[None], image_size=photo.shape[:2], size=size, margin=MARGIN)
    picture = torch.from_numpy(crop.cut(photo)).movedim(-1, 0) / 127.5 - 1

    missing = np.full((backend.num_landmarks, 2), np.nan, np.float32)
    # What the decoder made up in a damaged frame is no face to follow.
    found = [None if frame.corrupt else _surest(backend, frame.image) for frame in iter_frames(driving)]
    landmarks = np.stack([missing if each is None else each.landmarks for each in found])
    seen = np.flatnonzero(np.isfinite(landmarks).all(axis=(1, 2)))
    if not len(seen):
        raise ValueError(f"driving={driving}: no face found in any of its {len(landmarks)} frames")
    if len(seen) < len(landmarks):
        without = len(landmarks) - len(seen)
        log.warning(
            "driving=%s: %d of %d frames show no face and drive nothing", driving, without, len(found)
        )
    to_reference = similarity_transform(landmarks[seen[0]], crop.to_crop(face.landmarks))
    return DrivenClip(
        key=f"{reference.stem}-{driving.stem}",
        reference=picture,
        landmarks=apply_affine(landmarks, to_reference).astype(np.float32),
        scheme=backend.landmark_scheme,
        fps=probe_video(driving).fps,
        frames=np.arange(len(landmarks)),
        truth=None,
        source={"reference": str(reference), "driving": str(driving)},
    )


def _surest(backend: FaceBackend, image: np.ndarray) -> Face | None:
    return largest_face([face for face in backend.detect(image) if face.score >= backend.min_score])


def _read_photo(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"reference={path}: no such picture, or it cannot be read")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
