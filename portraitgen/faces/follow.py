"""Follow the main face of a video, or find that of a photo: what drives a generated clip."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.choice import LARGEST, choose, choose_face, detect_enlarged, in_words
from portraitgen.faces.landmark_sequence import LandmarkSequence, sequence_of_faces
from portraitgen.faces.padded_search import sure_faces
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
    which: str = LARGEST,
    on_frame: Callable[[int, int], None] | None = None,
) -> FollowedFace:
    """The landmarks of the main face of a video, at a constant rate.

    The main face is the one that fills most of the picture over all frames; while it is away, the next one
    that is there. Frames without a face, and damaged ones, are filled in from those around. One frame is in
    memory at a time.

    Args:
        fps: rate of the result; None: the video's own.
        which: of several people, by where they mostly are (see `choice`); "largest" is the main face.
        on_frame: called after each frame with how many are read and how many the container claims.

    Raises:
        ValueError: the video cannot be read, its picture changes size, or no face is found in it.
    """
    info = probe_video(video)
    size = (info.height, info.width)
    found, times, corrupt = _look(video, backend.detect, size, info.num_frames, on_frame)
    if not any(face.score >= backend.min_score for faces in found for face in faces) and corrupt < len(found):
        log.info("%s: no face found, looking once more at twice the size", video)
        enlarged = partial(detect_enlarged, backend=backend)
        found, times, corrupt = _look(video, enlarged, size, info.num_frames, on_frame)
    faces = _chosen_face(found, backend.min_score, which, name=str(video))
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


def _look(
    video: Path,
    detect: Callable[[np.ndarray], list[Face]],
    size: tuple[int, int],
    num_frames: int,
    on_frame: Callable[[int, int], None] | None,
) -> tuple[list[list[Face]], list[float], int]:
    """The faces of each frame, its time, and how many frames are damaged."""
    found: list[list[Face]] = []
    times: list[float] = []
    corrupt = 0
    for frame in iter_frames(video):
        if frame.image.shape[:2] != size:
            raise ValueError(f"{video}: its picture changes size on the way; split it there")
        # What the decoder made up in a damaged frame is no face to follow.
        found.append([] if frame.corrupt else detect(frame.image))
        corrupt += frame.corrupt
        times.append(frame.time_s)
        if on_frame is not None:
            on_frame(len(times), max(num_frames, len(times)))
    return found, times, corrupt


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


def face_in_photo(
    image: np.ndarray, backend: FaceBackend, *, which: str = LARGEST, name: str = "the photo"
) -> Face | None:
    """The sure face of a photo that is meant, uint8 [H, W, 3] RGB; None when there is none.

    Where none is found it is looked at once more with a border around it, and at twice the size.

    Args:
        which: of several, see `choice`.
        name: of the photo, for messages.
    """
    face = choose_face(sure_faces(image, backend), which, name=name)
    if face is None:
        enlarged = [face for face in detect_enlarged(image, backend) if face.score >= backend.min_score]
        face = choose_face(enlarged, which, name=name)
    return face


_SEEN_SHARE = 0.1
"""Of the frames: who is seen in fewer is not counted when people are numbered."""


def _chosen_face(
    found: Sequence[list[Face]], min_score: float, which: str, *, name: str
) -> list[Face | None]:
    """For each frame the face that is followed.

    The largest: the track that fills most, and while it is away the next one that is there. Any other: that
    person's tracks alone, which lie where the chosen one mostly is.
    """
    tracks = track_faces(found, min_score=min_score, min_hits=min(3, len(found)))
    tracks.sort(key=lambda track: -float(np.prod(track.boxes[:, 2:] - track.boxes[:, :2], axis=1).sum()))
    often = [track for track in tracks if len(track.frames) >= _SEEN_SHARE * len(found)] or tracks
    if len(often) > 1:
        log.info("%s: %d faces are followed in it, %s is taken", name, len(often), in_words(which))
    if tracks and which != LARGEST:
        means = np.array([track.boxes.mean(axis=0) for track in often])
        main = means[choose(means, which, name=name)]
        reach = float((main[2:] - main[:2]).max())
        distances = [
            float(np.linalg.norm(_centre(track.boxes.mean(axis=0)) - _centre(main))) for track in tracks
        ]
        order = np.argsort(distances, kind="stable")
        tracks = [tracks[place] for place in order if distances[place] < reach]
    chosen: list[Face | None] = [None] * len(found)
    for track in tracks:
        if any(chosen[frame] is not None for frame in track.frames):
            continue
        for frame, box in zip(track.frames, track.boxes, strict=True):
            chosen[frame] = next(face for face in found[frame] if np.array_equal(face.box, box))
    return chosen


def _centre(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2
