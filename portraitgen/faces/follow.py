"""Follow the main face of a video, or find that of a photo: what drives a generated clip."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from portraitgen.faces.backend import FaceBackend, largest_face
from portraitgen.faces.landmark_sequence import LandmarkSequence, sequence_of_faces
from portraitgen.faces.tracking import track_faces
from portraitgen.faces.types import Face
from portraitgen.media.decode import iter_frames, probe_video

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FollowedFace:
    """The face of a video: its landmarks, and the time in the file at which they begin, in seconds."""

    landmarks: LandmarkSequence
    start_s: float


def follow_face(
    video: Path,
    backend: FaceBackend,
    *,
    fps: Fraction | None = None,
    on_frame: Callable[[int, int], None] | None = None,
) -> FollowedFace:
    """The landmarks of the main face of a video, at a constant rate.

    The main face is the one that fills most of the picture over all frames; while it is away, the next one
    that is there. Frames without a face, and damaged ones, are filled in from those around. One frame is in
    memory at a time.

    Args:
        fps: rate of the result; None: the video's own.
        on_frame: called after each frame with how many are read and how many the container claims.

    Raises:
        ValueError: the video cannot be read, its picture changes size, or no face is found in it.
    """
    info = probe_video(video)
    size = (info.height, info.width)
    found: list[list[Face]] = []
    times: list[float] = []
    corrupt = 0
    for frame in iter_frames(video):
        if frame.image.shape[:2] != size:
            raise ValueError(f"{video}: its picture changes size on the way; split it there")
        # What the decoder made up in a damaged frame is no face to follow.
        found.append([] if frame.corrupt else backend.detect(frame.image))
        corrupt += frame.corrupt
        times.append(frame.time_s)
        if on_frame is not None:
            on_frame(len(times), max(info.num_frames, len(times)))
    faces = _main_face(found, backend.min_score)
    without = sum(face is None for face in faces)
    if without == len(faces):
        raise ValueError(f"{video}: {_why_no_face(found, corrupt, backend)}")
    if without:
        log.warning(
            "%s: %d of %d frames show no face; they are filled in from those around",
            video,
            without,
            len(faces),
        )
    sequence = sequence_of_faces(
        faces,
        np.array(times),
        period=float(1 / info.fps),
        fps=fps or info.fps,
        scheme=backend.landmark_scheme,
        image_size=size,
    )
    return FollowedFace(sequence, times[0])


def _why_no_face(found: Sequence[list[Face]], corrupt: int, backend: FaceBackend) -> str:
    """What is wrong with a video in which nobody can be followed: damage is no lack of faces."""
    if corrupt == len(found):
        return f"all of its {corrupt} frames are damaged; fetch it again"
    shown = sum(any(face.score >= backend.min_score for face in faces) for faces in found)
    damaged = f", {corrupt} of them damaged" if corrupt else ""
    if not shown:
        return f"no face found in any of its {len(found)} frames{damaged} ({backend.name})"
    return (
        f"a face is found in {shown} of its {len(found)} frames{damaged}, never in enough in a row to be "
        "followed"
    )


def face_in_photo(image: np.ndarray, backend: FaceBackend) -> Face | None:
    """The largest sure face of a photo, uint8 [H, W, 3] RGB; None when there is none."""
    return largest_face([face for face in backend.detect(image) if face.score >= backend.min_score])


def _main_face(found: Sequence[list[Face]], min_score: float) -> list[Face | None]:
    """For each frame the face of the track that fills most, among those that are there."""
    tracks = track_faces(found, min_score=min_score, min_hits=min(3, len(found)))
    tracks.sort(key=lambda track: -float(np.prod(track.boxes[:, 2:] - track.boxes[:, :2], axis=1).sum()))
    chosen: list[Face | None] = [None] * len(found)
    for track in tracks:
        if any(chosen[frame] is not None for frame in track.frames):
            continue
        for frame, box in zip(track.frames, track.boxes, strict=True):
            chosen[frame] = next(face for face in found[frame] if np.array_equal(face.box, box))
    return chosen
