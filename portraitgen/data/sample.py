"""What one sample is on its way into a shard: a clip (or a photo) with the people tracked in it."""

import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from portraitgen.faces.types import Track

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*-\d{9,}")


class DataError(ValueError):
    """Data cannot be used as asked; the message names the shard, key or setting and what to do."""


DAMAGE = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError, RuntimeError),
    *(MemoryError, zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)
"""What json, zipfile and numpy raise on damaged bytes, whose headers may claim anything."""


def make_key(source_id: str, start_ms: int = 0) -> str:
    """Name of a sample: `{source_id}-{start_ms:09d}`.

    Letters, digits, `_` and `-` only: WebDataset ends the key at the first dot, and a key is never a path.
    """
    key = f"{source_id}-{start_ms:09d}"
    if not _KEY.fullmatch(key):
        raise DataError(f"sample key {key!r}: use only letters, digits, '_' and '-' in the source id")
    return key


def check_key(key: str) -> str:
    """`key` itself; DataError unless it has the form that `make_key` gives."""
    if not _KEY.fullmatch(key):
        raise DataError(
            f"sample key {key!r} is not '<source_id>-<start_ms, 9 digits>'; make it with make_key"
        )
    return key


REGIONS = ("face", "head", "person")
"""Parts of a person that are followed, in the order in which shards hold them; every track has a face."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipRegion:
    """The head of a person, or all of it, dense over the T frames of the clip, as `ClipTrack` has the face.

    boxes      float32 [T, 4]      xyxy, NaN where it was not found
    scores     float32 [T]         detection score, NaN where not found
    valid      bool    [T]         the frame may be trained on
    """

    boxes: np.ndarray
    scores: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipTrack:
    """One person in one clip, dense over its T frames; coordinates in pixels of the clip.

    boxes      float32 [T, 4]      xyxy, NaN where the face was not found
    scores     float32 [T]         detection score, NaN where not found
    keypoints  float32 [T, 5, 2]   ArcFace order, NaN where not found
    landmarks  float32 [T, K, 2]   NaN where not found
    valid      bool    [T]         the frame may be trained on (found, not corrupt)
    embedding  float32 [D] or None
    identity_name  who it is, the same text in every sample that shows the person; None where nobody knows
    faces      JPEG crops of the best frames (square, upright)
    head, person    further regions, None where they were not looked for
    mask_ids        region -> id of its mask in the clip's `ClipMasks`
    control_frames  region -> frame in which it was surest, from which its masks were followed
    """

    boxes: np.ndarray
    scores: np.ndarray
    keypoints: np.ndarray
    landmarks: np.ndarray
    valid: np.ndarray
    embedding: np.ndarray | None = None
    identity_name: str | None = None
    faces: tuple[bytes, ...] = ()
    head: ClipRegion | None = None
    person: ClipRegion | None = None
    mask_ids: Mapping[str, int] = field(default_factory=dict)
    control_frames: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        length = len(self.boxes)
        if self.landmarks.ndim != 3:
            raise DataError(f"landmarks must be [T, K, 2], found shape {self.landmarks.shape}")
        points = {"keypoints": (length, 5, 2), "landmarks": (length, self.landmarks.shape[1], 2)}
        for name, shape in points.items():
            _check_array(name, getattr(self, name), shape)
        for region, boxes in self.regions().items():
            _check_array(f"boxes of the {region}", boxes.boxes, (length, 4))
            _check_array(f"scores of the {region}", boxes.scores, (length,))
            _check_array(f"valid of the {region}", boxes.valid, (length,), dtype=bool)
        if self.identity_name == "":
            raise DataError("identity_name is empty: give a name, or None where nobody knows")
        for name in ("mask_ids", "control_frames"):
            unknown = getattr(self, name).keys() - self.regions().keys()
            if unknown:
                raise DataError(f"{name} names {min(unknown)!r}, of which the track has no boxes")
        if any(not 0 <= frame < length for frame in self.control_frames.values()):
            raise DataError(f"control_frames {dict(self.control_frames)} are not all of the {length} frames")
        if not np.isfinite(self.landmarks[self.valid]).all():
            raise DataError("a frame is marked valid, but its landmarks are not finite")

    def regions(self) -> dict[str, ClipRegion]:
        """The regions that are there, by name; the face always, and first."""
        face = ClipRegion(boxes=self.boxes, scores=self.scores, valid=self.valid)
        known = {"face": face, "head": self.head, "person": self.person}
        return {name: region for name, region in known.items() if region is not None}

    @classmethod
    def from_track(
        cls, track: Track, num_frames: int, *, valid: np.ndarray | None = None, faces: tuple[bytes, ...] = ()
    ) -> "ClipTrack":
        """Spread a sparse `Track` (already in the clip's pixels, frames counted from the clip's start).

        `valid` (bool [num_frames]) takes out further frames, such as corrupt ones.
        """
        found = np.zeros(num_frames, dtype=bool)
        found[track.frames] = True

        def dense(values: np.ndarray) -> np.ndarray:
            spread = np.full((num_frames, *values.shape[1:]), np.nan, dtype=np.float32)
            spread[track.frames] = values
            return spread

        return cls(
            boxes=dense(track.boxes),
            scores=dense(track.scores),
            keypoints=dense(track.keypoints),
            landmarks=dense(track.landmarks),
            valid=found if valid is None else found & valid,
            embedding=track.embedding,
            faces=faces,
        )


def _check_array(name: str, array: np.ndarray, shape: tuple[int, ...], *, dtype: type = np.float32) -> None:
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise DataError(f"{name} must be {np.dtype(dtype)} {shape}, found {array.dtype} {array.shape}")


@dataclass(frozen=True, slots=True, eq=False)
class ClipMasks:
    """Run-length coded masks [T, M, height, width] of a clip: the `runs`, `offsets` of media/masks.

    `ids` are the M numbers by which tracks name their masks (`ClipTrack.mask_ids`), in the masks' order;
    `source` says where they come from: "sam2", "parsing", "hull" or "ellipse".
    """

    runs: np.ndarray
    offsets: np.ndarray
    ids: tuple[int, ...]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipSample:
    """One tracked clip, or one photo, as the shard writer takes it.

    key              see `make_key`
    video            a closed-GOP mp4 of media/encode (clip); exactly one of video and image is set
    image            a JPEG (photo): num_frames 1, fps 0
    num_frames, fps, width, height   of the picture stored; width and height multiples of 4
    tracks           people, the main one first; all over the same T frames and landmark scheme
    landmark_scheme  name of the K landmarks, such as "ibug68"
    affine           float32 [2, 3] or [T, 2, 3]: pixels of the clip -> pixels of the source
    audio            WAV bytes, 16 kHz mono s16, or None
    source           {"uri", "sha256", "t0", "t1", "licence"}: where the clip comes from
    scores           numbers to filter on at load time, such as min_face, sync_conf, head_motion
    """

    key: str
    num_frames: int
    fps: Fraction
    width: int
    height: int
    tracks: tuple[ClipTrack, ...]
    landmark_scheme: str
    affine: np.ndarray
    source: Mapping[str, Any]
    video: bytes | None = None
    image: bytes | None = None
    audio: bytes | None = None
    masks: ClipMasks | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    caption: str | None = None

    def __post_init__(self) -> None:
        check_key(self.key)
        if (self.video is None) == (self.image is None):
            raise DataError(f"sample {self.key}: give either video or image")
        if self.image is not None and self.num_frames != 1:
            raise DataError(f"sample {self.key}: a photo has num_frames 1, not {self.num_frames}")
        if self.width % 4 or self.height % 4 or min(self.width, self.height) < 4:
            raise DataError(
                f"sample {self.key}: {self.width}x{self.height}: both sides must be multiples of 4"
            )
        if not self.tracks:
            raise DataError(f"sample {self.key} has no track: a sample shows at least one face")
        for track in self.tracks:
            if len(track.boxes) != self.num_frames:
                raise DataError(
                    f"sample {self.key}: a track has {len(track.boxes)} frames, the clip {self.num_frames}"
                )
            ids = () if self.masks is None else self.masks.ids
            if not set(track.mask_ids.values()) <= set(ids):
                raise DataError(
                    f"sample {self.key}: a track names the masks {dict(track.mask_ids)}, there are {ids}"
                )
        if self.masks is not None and len(self.masks.offsets) != self.num_frames * len(self.masks.ids) + 1:
            raise DataError(
                f"sample {self.key}: there are {len(self.masks.offsets) - 1} masks, not"
                f" {len(self.masks.ids)} in each of {self.num_frames} frames"
            )
        if len({track.landmarks.shape[1] for track in self.tracks}) > 1:
            raise DataError(f"sample {self.key}: all tracks must have the same number of landmarks")
        if self.affine.shape not in ((2, 3), (self.num_frames, 2, 3)):
            raise DataError(
                f"sample {self.key}: affine must be [2, 3] or [T, 2, 3], found {self.affine.shape}"
            )
