"""Join the faces found in the frames of a video into tracks, one face each.

Offline tracking by detection: constant-velocity prediction, one-to-one assignment on box overlap (and
identity, where embeddings are there), two score thresholds as in ByteTrack (Zhang et al., ECCV 2022): a
track begins on a sure detection and may continue on a weak one, such as a turned or blurred face.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from portraitgen.faces.types import Face, Track
from portraitgen.media.geometry import box_iou

# Share of the newest displacement in the velocity; detector boxes jitter by a few pixels.
_VELOCITY_GAIN = 0.3


@dataclass(slots=True)
class _Path:
    """A track that is growing."""

    frames: list[int]
    faces: list[Face]
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(4))

    def predict(self, frame: int) -> np.ndarray:
        return self.faces[-1].box + self.velocity * (frame - self.frames[-1])

    def extend(self, frame: int, face: Face) -> None:
        step = (face.box - self.faces[-1].box) / (frame - self.frames[-1])
        self.velocity += _VELOCITY_GAIN * (step - self.velocity)
        self.frames.append(frame)
        self.faces.append(face)

    def embedding(self) -> np.ndarray | None:
        """Mean identity, unit length."""
        vectors = [face.embedding for face in self.faces if face.embedding is not None]
        if not vectors:
            return None
        mean = np.mean(vectors, axis=0)
        return np.asarray(mean / np.linalg.norm(mean), np.float32)


def _assign(paths: list[_Path], faces: list[Face], frame: int, iou_gate: float) -> list[tuple[int, int]]:
    """Pairs (path, face), one to one, of least total cost; a pair must overlap by `iou_gate`."""
    if not paths or not faces:
        return []
    predicted = np.stack([path.predict(frame) for path in paths])
    overlap = box_iou(predicted[:, None], np.stack([face.box for face in faces])[None])
    cost = 1 - overlap
    for row, path in enumerate(paths):
        for column, face in enumerate(faces):
            last = path.faces[-1].embedding
            if last is not None and face.embedding is not None:
                cost[row, column] += 1 - float(last @ face.embedding)
    # An impossible pair costs more than any number of possible ones, so it is chosen only for want of
    # another.
    cost[overlap < iou_gate] = 1e3
    rows, columns = linear_sum_assignment(cost)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if overlap[r, c] >= iou_gate]


def _track_shot(
    detections: Sequence[list[Face]], begin: int, end: int, *, min_score: float, iou_gate: float, max_gap: int
) -> list[_Path]:
    """Paths through the frames begin..end-1 of one shot."""
    closed: list[_Path] = []
    active: list[_Path] = []
    for frame in range(begin, end):
        closed += [path for path in active if frame - path.frames[-1] > max_gap]
        active = [path for path in active if frame - path.frames[-1] <= max_gap]
        waiting = active
        for faces in (
            [face for face in detections[frame] if face.score >= min_score],
            [face for face in detections[frame] if face.score < min_score],
        ):
            pairs = _assign(waiting, faces, frame, iou_gate)
            for row, column in pairs:
                waiting[row].extend(frame, faces[column])
            taken_rows, taken_columns = {row for row, _ in pairs}, {column for _, column in pairs}
            waiting = [path for row, path in enumerate(waiting) if row not in taken_rows]
            active = active + [
                _Path([frame], [face])
                for column, face in enumerate(faces)
                if column not in taken_columns and face.score >= min_score
            ]
    return closed + active


def _grow_back(
    paths: list[_Path], detections: Sequence[list[Face]], begin: int, iou_gate: float, max_gap: int
) -> None:
    """Prepend the weak detections that led up to each path's first sure one."""
    used = {id(face) for path in paths for face in path.faces}
    for path in paths:
        for frame in range(path.frames[0] - 1, begin - 1, -1):
            if path.frames[0] - frame > max_gap:
                break
            free = [face for face in detections[frame] if id(face) not in used]
            overlap = [float(box_iou(path.faces[0].box, face.box)) for face in free]
            if free and max(overlap) >= iou_gate:
                face = free[int(np.argmax(overlap))]
                path.frames.insert(0, frame)
                path.faces.insert(0, face)
                used.add(id(face))


def _merge_by_identity(paths: list[_Path], threshold: float) -> list[_Path]:
    """Join paths of one person that was lost for long, most alike first; they must not overlap in time."""
    paths = list(paths)
    while True:
        best, pair = threshold, None
        for i, first in enumerate(paths):
            for second in paths[i + 1 :]:
                one, other = first.embedding(), second.embedding()
                apart = first.frames[-1] < second.frames[0] or second.frames[-1] < first.frames[0]
                if apart and one is not None and other is not None and float(one @ other) >= best:
                    best, pair = float(one @ other), (first, second)
        if pair is None:
            return paths
        earlier, later = sorted(pair, key=lambda path: path.frames[0])
        paths = [path for path in paths if path is not earlier and path is not later]
        paths.append(_Path(earlier.frames + later.frames, earlier.faces + later.faces))


def track_faces(
    detections: Sequence[list[Face]],
    *,
    cuts: Sequence[int] = (),
    min_score: float,
    iou_gate: float = 0.3,
    max_gap: int = 12,
    min_hits: int = 3,
    identity_threshold: float | None = None,
) -> list[Track]:
    """Follow every face through a video.

    Args:
        detections: the faces found in each frame, weak ones included (`FaceBackend.detect`).
        cuts: first frame of each new shot; no track spans one.
        min_score: a track must begin, going forward, on a detection at least this sure; detections below only
            continue one, forward or backward from its beginning.
        iou_gate: least overlap of a detection with the predicted box.
        max_gap: a face that is missing for more than this many frames has ended its track.
        min_hits: tracks with fewer sure detections are dropped; a false face is sure for a frame or two only.
        identity_threshold: cosine of two embeddings from which tracks in one shot are one person and are
            joined, however long the gap; None joins nothing.

    Returns:
        Tracks, the longest first.
    """
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(detections)}), len(detections)]
    paths: list[_Path] = []
    for begin, end in pairwise(edges):
        shot = _track_shot(detections, begin, end, min_score=min_score, iou_gate=iou_gate, max_gap=max_gap)
        _grow_back(shot, detections, begin, iou_gate, max_gap)
        if identity_threshold is not None:
            shot = _merge_by_identity(shot, identity_threshold)
        paths += [path for path in shot if sum(face.score >= min_score for face in path.faces) >= min_hits]
    paths.sort(key=lambda path: (-len(path.frames), path.frames[0]))
    return [
        Track(
            frames=np.array(path.frames, np.int64),
            boxes=np.stack([face.box for face in path.faces]),
            scores=np.array([face.score for face in path.faces], np.float32),
            landmarks=np.stack([face.landmarks for face in path.faces]),
            keypoints=np.stack([face.keypoints for face in path.faces]),
            embedding=path.embedding(),
        )
        for path in paths
    ]
