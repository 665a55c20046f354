"""Landmarks at a constant rate: filled gaps, any source timing, resampling."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from portraitgen.faces.landmark_sequence import LandmarkSequence, resample, sequence_of_faces
from portraitgen.faces.types import Face, FaceMesh


def face(value: float, *, mesh: bool = False) -> Face:
    """A face all of whose numbers are `value`."""
    extra = None
    if mesh:
        extra = FaceMesh(
            *(np.full(shape, value, np.float32) for shape in ((478, 3), (52,), (4, 4))),
        )
    return Face(
        np.array([0, 0, 9, 9], np.float32),
        1.0,
        np.full((68, 2), value, np.float32),
        np.zeros((5, 2), np.float32),
        mesh=extra,
    )


def sequence(faces, times, fps=25, **settings):
    return sequence_of_faces(
        faces,
        np.array(times, float),
        period=0.04,
        fps=Fraction(fps),
        scheme="ibug68",
        image_size=(10, 20),
        **settings,
    )


def test_gaps_are_filled_in_straight_lines_and_the_ends_are_held():
    faces = [None, face(1), None, None, face(4), None]
    filled = sequence(faces, np.arange(6) / 25)
    assert filled.points[:, 0, 0].tolist() == [1, 1, 2, 3, 4, 4]
    assert filled.found.tolist() == [False, True, False, False, True, False]


def test_faces_at_the_frames_are_taken_bit_for_bit():
    """Also when the container has rounded their times to milliseconds and begins late."""
    values = np.random.default_rng(0).random(50).astype(np.float32)
    times = 1.5 + np.round(np.arange(50) * 1001 / 30000, 3)
    taken = sequence([face(value) for value in values], times, Fraction(30000, 1001))
    assert np.array_equal(taken.points[:, 0, 0], values)


@pytest.mark.parametrize(("fps", "length"), [(25, 50), (50, 100), (12.5, 25), (30, 60), (23.976, 48)])
def test_a_motion_keeps_its_speed_at_any_rate(fps, length):
    times = np.arange(50) / 25
    moved = sequence([face(time) for time in times], times, Fraction(fps).limit_denominator(1001))
    assert len(moved) == length
    expected = np.minimum(np.arange(length) / fps, times[-1])
    np.testing.assert_allclose(moved.points[:, 0, 0], expected, atol=1e-4)
    again = resample(sequence([face(time) for time in times], times), moved.fps)
    np.testing.assert_allclose(again.points, moved.points, atol=1e-4)


def test_frames_of_uneven_length_are_brought_to_one_rate():
    times = np.array([0, 0.03, 0.12, 0.2, 0.21, 0.4])
    moved = sequence([face(time) for time in times], times)
    np.testing.assert_allclose(moved.points[:, 0, 0], np.arange(11) / 25, atol=1e-6)


def test_the_mesh_comes_along():
    faces = [face(0, mesh=True), None, face(1, mesh=True)]
    moved = sequence(faces, np.arange(3) / 25)
    assert moved.mesh[:, 3, 2].tolist() == [0, 0.5, 1]
    assert moved.blendshapes[:, 7].tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(moved.positions(raw=True)[1, 0], [10, 5])
    assert np.array_equal(moved.meshes(raw=True), moved.mesh)
    with pytest.raises(ValueError, match="faces=mediapipe"):
        sequence([face(0)], [0]).positions(raw=True)


def test_meshes_lie_where_the_corrected_points_are():
    moved = sequence([face(1, mesh=True)], [0])
    moved = replace(moved, points=np.full((1, 478, 2), 5, np.float32))
    np.testing.assert_allclose(moved.meshes()[0, 9], [0.25, 0.5, 1])


def test_one_picture_is_a_sequence_and_none_is_an_error():
    assert sequence([face(3)], [0]).points.shape == (1, 68, 2)
    with pytest.raises(ValueError, match="no face in any frame"):
        sequence([None, None], [0, 0.04])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": np.zeros((0, 68, 2), np.float32)}, "there is no frame"),
        ({"points": np.zeros((2, 68), np.float32)}, r"points must be \[2, \*, 2\], is \[2, 68\]"),
        ({"points": np.full((2, 68, 2), np.nan, np.float32)}, "points has values that are not finite"),
        ({"found": np.ones(3, bool)}, r"found must be \[2\]"),
        ({"mesh": np.zeros((2, 478, 3), np.float32)}, "go together"),
        ({"fps": Fraction(0)}, "above 0"),
    ],
)
def test_what_is_no_sequence_is_refused(change, message):
    settings = {
        "points": np.zeros((2, 68, 2), np.float32),
        "scheme": "ibug68",
        "image_size": (10, 20),
        "fps": Fraction(25),
        "found": np.ones(2, bool),
    }
    LandmarkSequence(**settings)
    with pytest.raises(ValueError, match=message):
        LandmarkSequence(**{**settings, **change})
