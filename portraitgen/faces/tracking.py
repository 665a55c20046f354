"""Join the faces found in the frames of a video into tracks, one face each.

Offline tracking by detection: constant-velocity prediction, one-to-one assignment on box overlap (and
identity, where embeddings are there), two score thresholds as in ByteTrack (Zhang et al., ECCV 2022): a
track begins on a sure detection and may continue on a weak one, such as a turned or blurred face. Identity
then corrects what positions got wrong: a track that passes from one person to another is cut there, and
tracks of one person that was lost for long are joined.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from portraitgen.faces.types import Face, Track, Trail
from portraitgen.media.geometry import box_iou

# Share of the newest displacement in the velocity; detector boxes jitter by a few pixels.
_VELOCITY_GAIN = 0.3
# Embeddings on each side of a change of person, at most and at least; single ones are led astray by a hand
# before the face, two in a row are not.
_SIDE_BY_SIDE = (4, 2)


@dataclass(slots=True)
class _Path:
    """The faces of a track by their place in their frame, and of them what decides who it is.

    Columns of numbers and not faces: an hour of video has some 100 000 of them.
    """

    frames: "array[int]" = field(default_factory=lambda: array("q"))
    places: "array[int]" = field(default_factory=lambda: array("q"))
    scores: "array[float]" = field(default_factory=lambda: array("d"))
    embeddings: dict[int, np.ndarray] = field(default_factory=dict)  # by frame, where there are any

    def insert(self, row: int, frame: int, place: int, face: Face) -> None:
        self.frames.insert(row, frame)
        self.places.insert(row, place)
        self.scores.insert(row, face.score)
        if face.embedding is not None:
            self.embeddings[frame] = face.embedding.copy()  # not a view of all that was found in the frame

    def embedded(self, min_score: float) -> list[int]:
        """Rows of the faces whose embedding counts: the sure ones, or else all that have one."""
        known = [row for row, frame in enumerate(self.frames) if frame in self.embeddings]
        return [row for row in known if self.scores[row] >= min_score] or known

    def directions(self, rows: Sequence[int]) -> list[np.ndarray]:
        return [self.embeddings[self.frames[row]] for row in rows]

    def embedding(self, min_score: float) -> np.ndarray | None:
        """Mean identity, unit length."""
        rows = self.embedded(min_score)
        return _mean_direction(self.directions(rows)) if rows else None

    def part(self, begin: int, end: int) -> "_Path":
        rows = slice(begin, end)
        frames = self.frames[rows]
        known = {frame: self.embeddings[frame] for frame in frames if frame in self.embeddings}
        return _Path(frames, self.places[rows], self.scores[rows], known)

    def joined(self, other: "_Path") -> "_Path":
        """With a path in other frames."""
        rows = sorted(
            row for path in (self, other) for row in zip(path.frames, path.places, path.scores, strict=True)
        )
        frames, places, scores = zip(*rows, strict=True)
        known = self.embeddings | other.embeddings
        return _Path(array("q", frames), array("q", places), array("d", scores), known)


@dataclass(slots=True)
class _Growing:
    """A path to which faces are added at either end."""

    path: _Path
    first: np.ndarray
    last: np.ndarray
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(4))

    @classmethod
    def begin(cls, frame: int, place: int, face: Face) -> "_Growing":
        path = _Path()
        path.insert(0, frame, place, face)
        return cls(path, face.box, face.box)

    def predict(self, frame: int) -> np.ndarray:
        return self.last + self.velocity * (frame - self.path.frames[-1])

    def extend(self, frame: int, place: int, face: Face) -> None:
        step = (face.box - self.last) / (frame - self.path.frames[-1])
        self.velocity += _VELOCITY_GAIN * (step - self.velocity)
        self.path.insert(len(self.path.frames), frame, place, face)
        self.last = face.box

    def lead_up(self, frame: int, place: int, face: Face) -> None:
        self.path.insert(0, frame, place, face)
        self.first = face.box


def _mean_direction(vectors: Sequence[np.ndarray]) -> np.ndarray:
    mean = np.mean(vectors, axis=0)
    return np.asarray(mean / np.linalg.norm(mean), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """The settings of `track_faces`."""

    min_score: float
    iou_gate: float
    max_gap: int
    identity_threshold: float | None


def _assign(paths: list[_Growing], faces: list[Face], frame: int, rules: _Rules) -> list[tuple[int, int]]:
    """Pairs (path, face), one to one, of least total cost; a pair must overlap by `iou_gate`."""
    if not paths or not faces:
        return []
    predicted = np.stack([path.predict(frame) for path in paths])
    overlap = box_iou(predicted[:, None], np.stack([face.box for face in faces])[None])
    cost = 1 - overlap
    if rules.identity_threshold is not None and len(paths) + len(faces) > 2:
        known = [next(reversed(each.path.embeddings.values()), None) for each in paths]
        for row, last in enumerate(known):
            for column, face in enumerate(faces):
                if last is not None and face.embedding is not None:
                    # 1 at the threshold, whatever the backend's cosines look like: as much as no overlap.
                    apart = 1 - float(last @ face.embedding)
                    cost[row, column] += apart / (1 - rules.identity_threshold)
    # An impossible pair costs more than any number of possible ones, so it is chosen only for want of
    # another.
    cost[overlap < rules.iou_gate] = 1e3
    rows, columns = linear_sum_assignment(cost)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if overlap[r, c] >= rules.iou_gate]


def _track_shot(detections: Sequence[list[Face]], begin: int, end: int, rules: _Rules) -> list[_Growing]:
    """Paths through the frames begin..end-1 of one shot."""
    closed: list[_Growing] = []
    active: list[_Growing] = []
    for frame in range(begin, end):
        closed += [each for each in active if frame - each.path.frames[-1] > rules.max_gap]
        active = [each for each in active if frame - each.path.frames[-1] <= rules.max_gap]
        waiting = active
        found = list(enumerate(detections[frame]))
        for faces in (
            [(place, face) for place, face in found if face.score >= rules.min_score],
            [(place, face) for place, face in found if face.score < rules.min_score],
        ):
            pairs = _assign(waiting, [face for _, face in faces], frame, rules)
            for row, column in pairs:
                waiting[row].extend(frame, *faces[column])
            taken_rows, taken_columns = {row for row, _ in pairs}, {column for _, column in pairs}
            waiting = [each for row, each in enumerate(waiting) if row not in taken_rows]
            active = active + [
                _Growing.begin(frame, place, face)
                for column, (place, face) in enumerate(faces)
                if column not in taken_columns and face.score >= rules.min_score
            ]
    return closed + active


def _grow_back(shot: list[_Growing], detections: Sequence[list[Face]], begin: int, rules: _Rules) -> None:
    """Prepend the weak detections that led up to each path's first sure one."""
    used = {key for each in shot for key in zip(each.path.frames, each.path.places, strict=True)}
    for each in shot:
        for frame in range(each.path.frames[0] - 1, begin - 1, -1):
            if each.path.frames[0] - frame > rules.max_gap:
                break
            free = [
                (place, face) for place, face in enumerate(detections[frame]) if (frame, place) not in used
            ]
            overlap = [float(box_iou(each.first, face.box)) for _, face in free]
            if free and max(overlap) >= rules.iou_gate:
                place, face = free[int(np.argmax(overlap))]
                each.lead_up(frame, place, face)
                used.add((frame, place))


def _split_by_identity(path: _Path, min_score: float, threshold: float) -> list[_Path]:
    """Cut a path where another person takes the place of the first, as in a dissolve or behind a passer-by.

    What lies between the last embedding of the one and the first of the other is nobody's.
    """
    most, least = _SIDE_BY_SIDE
    rows = path.embedded(min_score)
    likeness = {}
    for turn in range(least, len(rows) - least + 1):
        before, after = (
            _mean_direction(path.directions(side))
            for side in (rows[max(turn - most, 0) : turn], rows[turn : turn + most])
        )
        likeness[turn] = float(before @ after)
    if not likeness or min(likeness.values()) >= threshold:
        return [path]
    turn = min(likeness, key=lambda turn: likeness[turn])
    first, second = path.part(0, rows[turn - 1] + 1), path.part(rows[turn], len(path.frames))
    return [part for half in (first, second) for part in _split_by_identity(half, min_score, threshold)]


def _merge_by_identity(paths: list[_Path], min_score: float, threshold: float) -> list[_Path]:
    """Join paths of one person that was lost for long, most alike first; they must not overlap in time."""
    merged = [(path, path.embedding(min_score)) for path in paths]
    while True:
        best, pair = threshold, None
        for i, (first, one) in enumerate(merged):
            for second, other in merged[i + 1 :]:
                if one is None or other is None or float(one @ other) < best:
                    continue
                if set(first.frames).isdisjoint(second.frames):
                    best, pair = float(one @ other), (first, second)
        if pair is None:
            return [path for path, _ in merged]
        joined = pair[0].joined(pair[1])
        merged = [item for item in merged if item[0] is not pair[0] and item[0] is not pair[1]]
        merged.append((joined, joined.embedding(min_score)))


def trail_faces(
    detections: Sequence[list[Face]],
    *,
    cuts: Sequence[int] = (),
    min_score: float,
    iou_gate: float = 0.3,
    max_gap: int = 12,
    min_hits: int = 3,
    identity_threshold: float | None = None,
) -> list[Trail]:
    """Follow every face through a video.

    Args:
        detections: the faces found in each frame, weak ones included (`FaceBackend.detect`).
        cuts: first frame of each new shot; no track spans one.
        min_score: a track must begin, going forward, on a detection at least this sure; detections below only
            continue one, forward or backward from its beginning.
        iou_gate: least overlap of a detection with the predicted box.
        max_gap: a face that is missing for more than this many frames has ended its track.
        min_hits: tracks with fewer sure detections are dropped; a false face is sure for a frame or two only.
        identity_threshold: cosine of two embeddings from which they are of one person, as the backend states
            it; decides between overlapping faces, cuts a track at a change of person, and joins tracks in one
            shot however long the gap. Not every face needs an embedding. None: identity is not looked at.

    Returns:
        Trails, the longest first.
    """
    rules = _Rules(
        min_score=min_score, iou_gate=iou_gate, max_gap=max_gap, identity_threshold=identity_threshold
    )
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(detections)}), len(detections)]
    paths: list[_Path] = []
    for begin, end in pairwise(edges):
        growing = _track_shot(detections, begin, end, rules)
        _grow_back(growing, detections, begin, rules)
        shot = [each.path for each in growing]
        if identity_threshold is not None:
            shot = [part for path in shot for part in _split_by_identity(path, min_score, identity_threshold)]
            shot = _merge_by_identity(shot, min_score, identity_threshold)
        paths += [path for path in shot if sum(score >= min_score for score in path.scores) >= min_hits]
    paths.sort(key=lambda path: (-len(path.frames), path.frames[0]))
    return [
        Trail(np.array(path.frames, np.int64), np.array(path.places, np.int64), path.embedding(min_score))
        for path in paths
    ]


def track_faces(detections: Sequence[list[Face]], **settings: Any) -> list[Track]:
    """The tracks of a video whose faces fit into memory; takes the settings of `trail_faces`."""
    return [trail.track(detections) for trail in trail_faces(detections, **settings)]
