"""The landmarks of one face along a video: dense in time, at a constant rate, with what MediaPipe adds."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from portraitgen.faces.types import Face

_MESH_POINTS, _BLENDSHAPES = 478, 52


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LandmarkSequence:
    """T frames of one face; a photo is a sequence of one.

    Attributes:
        points: float32 [T, K, 2] in continuous pixels.
        scheme: order and meaning of the points (see `FaceBackend`).
        image_size: (height, width) of the picture that the points refer to.
        fps: frames a second.
        found: bool [T]; where False the face was not found and is filled in from the frames around.
        mesh: float32 [T, 478, 3], `FaceMesh.points`; None unless MediaPipe found the face.
        blendshapes: float32 [T, 52], `FaceMesh.blendshapes`, with `mesh`.

    Raises:
        ValueError: an array of another shape or with values that are not finite (named).
    """

    points: np.ndarray
    scheme: str
    image_size: tuple[int, int]
    fps: Fraction
    found: np.ndarray
    mesh: np.ndarray | None = None
    blendshapes: np.ndarray | None = None

    def __post_init__(self) -> None:
        length = len(self.points)
        if length == 0:
            raise ValueError("landmarks: there is no frame")
        if self.fps <= 0 or min(self.image_size) < 1:
            raise ValueError(f"landmarks: fps {self.fps} and size {self.image_size} must be above 0")
        if (self.mesh is None) != (self.blendshapes is None):
            raise ValueError("landmarks: mesh and blendshapes go together, one of them is missing")
        shapes: dict[str, tuple[int | None, ...]] = {
            "points": (length, None, 2),
            "found": (length,),
            "mesh": (length, _MESH_POINTS, 3),
            "blendshapes": (length, _BLENDSHAPES),
        }
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is None:
                continue
            if array.ndim != len(shape) or any(
                want not in (None, have) for want, have in zip(shape, array.shape, strict=True)
            ):
                wanted = ", ".join("*" if want is None else str(want) for want in shape)
                raise ValueError(f"landmarks: {name} must be [{wanted}], is {list(array.shape)}")
            if not np.isfinite(array).all():
                raise ValueError(f"landmarks: {name} has values that are not finite")

    def __len__(self) -> int:
        return len(self.points)

    def positions(self, *, raw: bool = False) -> np.ndarray:
        """Where the points are, float32 [T, K, 2] in pixels.

        Args:
            raw: MediaPipe's own points, which lie up to a pixel beside `points`. The published AniPortrait
                weights know these.

        Raises:
            ValueError: raw points are asked for, and there is no mesh.
        """
        if not raw:
            return self.points
        height, width = self.image_size
        return np.asarray(self._mesh()[..., :2] * np.array([width, height], np.float32))

    def meshes(self, *, raw: bool = False) -> np.ndarray:
        """The mesh as `face_geometry` takes it, float32 [T, 478, 3], at the same places as `positions`.

        Raises:
            ValueError: there is no mesh.
        """
        if raw:
            return self._mesh()
        height, width = self.image_size
        places = self.points / np.array([width, height], np.float32)
        return np.concatenate([places, self._mesh()[..., 2:]], axis=-1)

    def _mesh(self) -> np.ndarray:
        if self.mesh is None:
            raise ValueError("raw_points and depth are MediaPipe's: find the face with faces=mediapipe")
        return self.mesh


def sequence_of_faces(
    faces: Sequence[Face | None],
    times: np.ndarray,
    *,
    period: float,
    fps: Fraction,
    scheme: str,
    image_size: tuple[int, int],
) -> LandmarkSequence:
    """Faces found in pictures at any times, as a sequence at a constant rate.

    Between two faces the landmarks move in a straight line, before the first and after the last one they
    stand still. A frame at the time of a face has that face's landmarks, unchanged.

    Args:
        faces: at each time, at least one of them; None where none was found.
        times: float64 [N], increasing, in seconds; the sequence begins at the first.
        period: how long the last picture lasts, in seconds.

    Raises:
        ValueError: there is no face at all.
    """
    seen = [(time, face) for time, face in zip(times, faces, strict=True) if face is not None]
    if not seen:
        raise ValueError("landmarks: there is no face in any frame")
    length = max(round((times[-1] - times[0] + period) * float(fps)), 1)
    wanted = times[0] + np.arange(length) / float(fps)
    nearest = _nearest(times, wanted)
    # Containers round times, Matroska to milliseconds: pictures all so near are the frames themselves.
    if (np.abs(times[nearest] - wanted) < 0.05 / float(fps)).all():
        wanted = times[nearest]
    known = np.array([time for time, _ in seen])
    meshes = [face.mesh for _, face in seen if face.mesh is not None]
    complete = len(meshes) == len(seen)
    return LandmarkSequence(
        points=_between(known, np.stack([face.landmarks for _, face in seen]), wanted),
        scheme=scheme,
        image_size=image_size,
        fps=fps,
        found=np.array([face is not None for face in faces])[nearest],
        mesh=_between(known, np.stack([mesh.points for mesh in meshes]), wanted) if complete else None,
        blendshapes=_between(known, np.stack([mesh.blendshapes for mesh in meshes]), wanted)
        if complete
        else None,
    )


def resample(sequence: LandmarkSequence, fps: Fraction, *, length: int | None = None) -> LandmarkSequence:
    """The same motion at another rate, in straight lines between the frames.

    Args:
        length: of the result in frames, which holds the last position if need be; None: as long in time, to
            half a frame.
    """
    if fps == sequence.fps and length in (None, len(sequence)):
        return sequence
    known = np.arange(len(sequence)) / float(sequence.fps)
    length = length or max(round(len(sequence) * fps / sequence.fps), 1)
    wanted = np.arange(length) / float(fps)
    return LandmarkSequence(
        points=_between(known, sequence.points, wanted),
        scheme=sequence.scheme,
        image_size=sequence.image_size,
        fps=fps,
        found=sequence.found[_nearest(known, wanted)],
        mesh=None if sequence.mesh is None else _between(known, sequence.mesh, wanted),
        blendshapes=None if sequence.blendshapes is None else _between(known, sequence.blendshapes, wanted),
    )


def _nearest(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of the nearest of increasing `times` [N] for each `wanted` time [T]."""
    after = np.searchsorted(times, wanted).clip(1, max(len(times) - 1, 1))
    if len(times) == 1:
        return np.zeros(len(wanted), np.int64)
    return np.asarray(after - (wanted - times[after - 1] < times[after] - wanted))


def _between(known: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Values [N, ...] at increasing times `known` [N], in straight lines between them: float32 [T, ...]."""
    after = np.searchsorted(known, wanted).clip(0, len(known) - 1)
    before = np.where(wanted < known[after], np.maximum(after - 1, 0), after)
    span = known[after] - known[before]
    share = np.divide(wanted - known[before], span, out=np.zeros(len(wanted)), where=span > 0)
    share = share.clip(0, 1).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray((1 - share) * values[before] + share * values[after], np.float32)
