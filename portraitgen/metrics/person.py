"""One person of a video, from its first to its last frame, whoever else is in the picture."""

from collections.abc import Sequence

import numpy as np

from portraitgen.faces.tracking import trail_faces
from portraitgen.faces.types import Face


def follow_person(
    faces: Sequence[Sequence[Face]], *, min_score: float, driving: np.ndarray | None = None
) -> list[Face | None]:
    """The face of one person in each frame, or None where they are not found.

    Faces are joined into tracks. The person is the track that lies longest and nearest to the driving face;
    without one, the largest for longest. Tracks that share no frame with it continue it after a gap or a cut,
    the next best first.

    Args:
        faces: those of each frame.
        min_score: from which the backend counts a face as found.
        driving: [T, K, 2] landmarks of the face that was to be followed, in the same pixels; NaN where there
            is none.
    """
    wanted = None if driving is None or not np.isfinite(driving).any() else driving
    trails = trail_faces([list(found) for found in faces], min_score=min_score, min_hits=1)

    def weight(frame: int, place: int) -> float:
        face = faces[frame][place]
        size = float(np.sqrt(np.prod(face.box[2:] - face.box[:2])))
        if wanted is None:
            return size
        points = wanted[frame]
        if not np.isfinite(points).all():
            return 0.0
        apart = np.linalg.norm(face.landmarks.mean(axis=0) - points.mean(axis=0))
        return 1 / (1 + float((apart / np.ptp(points, axis=0).max()) ** 2))

    places = [list(zip(trail.frames.tolist(), trail.places.tolist(), strict=True)) for trail in trails]
    places.sort(key=lambda trail: -sum(weight(frame, place) for frame, place in trail))
    person: list[Face | None] = [None] * len(faces)
    for trail in places:
        if all(person[frame] is None for frame, _ in trail):
            for frame, place in trail:
                person[frame] = faces[frame][place]
    return person
