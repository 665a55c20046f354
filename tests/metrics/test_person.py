"""Two faces in a picture: one person is followed, however the detector ranks them."""

import numpy as np
import pytest

from portraitgen.faces.types import Face
from portraitgen.metrics.person import follow_person


def face(x: float, *, size: float = 40, score: float = 1.0) -> Face:
    landmarks = np.random.default_rng(0).uniform(0, size, (68, 2)) + (x, 20)
    box = np.array([x, 20, x + size, 20 + size], np.float32)
    return Face(box, score, landmarks.astype(np.float32), landmarks[:5].astype(np.float32))


LEFT = [face(10 + 0.5 * frame) for frame in range(20)]
RIGHT = [face(120 - 0.5 * frame, size=50) for frame in range(20)]
FLIPPING = [(a, b) if frame % 2 else (b, a) for frame, (a, b) in enumerate(zip(LEFT, RIGHT, strict=True))]


@pytest.mark.parametrize("people", [LEFT, RIGHT])
def test_the_person_nearest_to_the_driving_face_is_followed(people):
    driving = np.stack([each.landmarks for each in people]) + 3
    driving[4] = np.nan
    assert follow_person(FLIPPING, min_score=0, driving=driving) == people


def test_without_a_driving_face_it_is_the_largest():
    assert follow_person(FLIPPING, min_score=0) == RIGHT
    nobody = np.full((20, 68, 2), np.nan)
    assert follow_person(FLIPPING, min_score=0, driving=nobody) == RIGHT


def test_a_face_that_is_lost_for_long_or_jumps_is_still_the_person():
    """A lone face counts however far it is from where it should be: the error is its, not the tracker's."""
    far = [face(300)] * 5
    faces = [(each,) for each in LEFT[:3]] + [()] * 15 + [(each,) for each in far]
    driving = np.repeat(LEFT[0].landmarks[None], len(faces), axis=0)
    assert follow_person(faces, min_score=0, driving=driving) == [*LEFT[:3], *[None] * 15, *far]


def test_while_the_person_is_hidden_nobody_else_takes_their_place():
    faces = [*FLIPPING[:8], *((each,) for each in RIGHT[8:12]), *FLIPPING[12:]]
    driving = np.stack([each.landmarks for each in LEFT])
    person = follow_person(faces, min_score=0, driving=driving)
    assert person == [*LEFT[:8], *[None] * 4, *LEFT[12:]]


def test_a_picture_has_its_face():
    assert follow_person([(LEFT[0],)], min_score=0) == [LEFT[0]]
    assert follow_person([(), ()], min_score=0) == [None, None]
