"""A mask of every face of a sample, from what is known of the face: its landmarks, or its box."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from portraitgen.data.sample import ClipMasks, ClipSample, ClipTrack
from portraitgen.faces.hull import FOREHEAD, MARGIN, face_hull
from portraitgen.media.geometry import expand_box
from portraitgen.media.masks import ellipse_mask, encode_rle_batch


@dataclass(frozen=True, slots=True)
class HullMasks:
    """The convex hull of the landmarks, with the forehead where they have none, and a little wider.

    Lengths are in distances from the eyes to the mouth, see `faces/hull`.

    Attributes:
        forehead: by which all landmarks above the eyes are also taken further up.
        margin: by which the hull is grown to all sides.
    """

    forehead: float = FOREHEAD
    margin: float = MARGIN

    def __post_init__(self) -> None:
        if self.forehead < 0 or self.margin < 0:
            raise ValueError(
                f"masks.forehead={self.forehead}, masks.margin={self.margin}: give 0 or more,"
                " in distances from eyes to mouth"
            )

    def __call__(self, sample: ClipSample) -> ClipSample:
        def mask(track: ClipTrack, frame: int) -> np.ndarray:
            return face_hull(
                track.landmarks[frame],
                track.keypoints[frame],
                scheme=sample.landmark_scheme,
                image_size=(sample.height, sample.width),
                forehead=self.forehead,
                margin=self.margin,
            )

        return _with_face_masks(sample, mask, source="hull")


@dataclass(frozen=True, slots=True)
class EllipseMasks:
    """The ellipse in the face's box.

    With the default size the ellipses have an IoU of 0.90 with the masks that SAM2 made of ConsisID's sample
    clip for its detector's boxes, which hold the whole face, and of 0.71 for dlib's, from the brows on.

    Attributes:
        scale: of the ellipse's axes to the sides of the box.
    """

    scale: float = 1.1

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"masks.scale={self.scale}: give a factor above 0")

    def __call__(self, sample: ClipSample) -> ClipSample:
        def mask(track: ClipTrack, frame: int) -> np.ndarray:
            box = expand_box(track.boxes[frame], self.scale)
            return ellipse_mask(box, (sample.height, sample.width))

        return _with_face_masks(sample, mask, source="ellipse")


def _with_face_masks(
    sample: ClipSample, mask: Callable[[ClipTrack, int], np.ndarray], *, source: str
) -> ClipSample:
    """The sample with the mask of each person's face in each frame; mask ids count the people from 1."""
    frames = ([mask(track, frame) for track in sample.tracks] for frame in range(sample.num_frames))
    runs, offsets = encode_rle_batch(frames)
    ids = tuple(range(1, len(sample.tracks) + 1))
    tracks = tuple(
        replace(track, mask_ids={"face": number}) for number, track in zip(ids, sample.tracks, strict=True)
    )
    return replace(sample, masks=ClipMasks(runs, offsets, ids, source), tracks=tracks)
