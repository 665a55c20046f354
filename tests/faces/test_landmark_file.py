"""Landmark files keep all that was found, are plain arrays, and are refused in clear words."""

from fractions import Fraction

import numpy as np
import pytest

from portraitgen.faces.face_geometry import canonical_face, face_geometry
from portraitgen.faces.landmark_file import load_landmarks, save_landmarks
from portraitgen.faces.landmark_sequence import LandmarkSequence


@pytest.fixture
def sequence():
    """A face before the camera, with irises in its middle."""
    points = np.concatenate([canonical_face().vertices, np.zeros((10, 3))]) / 40 + 0.5
    return LandmarkSequence(
        points=np.arange(3 * 478 * 2, dtype=np.float32).reshape(3, 478, 2),
        scheme="mediapipe478",
        image_size=(360, 640),
        fps=Fraction(30000, 1001),
        found=np.array([True, False, True]),
        mesh=np.stack([points] * 3).astype(np.float32),
        blendshapes=np.random.default_rng(0).random((3, 52)).astype(np.float32),
    )


def test_everything_comes_back(sequence, tmp_path):
    save_landmarks(tmp_path / "talk.npz", sequence)
    back = load_landmarks(tmp_path / "talk.npz")
    for name in LandmarkSequence.__dataclass_fields__:
        assert np.array_equal(getattr(back, name), getattr(sequence, name)), name
    with np.load(tmp_path / "talk.npz", allow_pickle=False) as file:
        expected = face_geometry(sequence.mesh[0], image_size=(360, 640))[1]
        np.testing.assert_allclose(file["transforms"][0], expected, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["talk.npz"]


def test_a_file_of_points_alone_is_enough(tmp_path):
    np.savez(tmp_path / "own.npz", points=np.ones((4, 68, 2)), scheme="ibug68", size=[64, 48], fps=[25, 1])
    back = load_landmarks(tmp_path / "own.npz")
    assert back.found.all()
    assert back.mesh is None
    assert back.points.dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"points": np.ones((4, 68, 2))}, "it has no scheme, size, fps"),
        (
            {"points": np.ones((4, 68)), "scheme": "ibug68", "size": [64, 48], "fps": [25, 1]},
            r"points must be \[4, \*, 2\]",
        ),
        (
            {"points": np.ones((4, 68, 2)), "scheme": "ibug68", "size": [64, 48], "fps": [25, 0]},
            r"bad\.npz",
        ),
        ({"points": np.array([{}])}, "an .npz of plain arrays"),
    ],
)
def test_other_files_are_refused_by_name(arrays, message, tmp_path):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message) as error:
        load_landmarks(tmp_path / "bad.npz")
    assert "bad.npz" in str(error.value)


def test_no_archive_at_all_is_refused(tmp_path):
    (tmp_path / "no.npz").write_bytes(b"noise")
    (tmp_path / "empty.npz").write_bytes(b"")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros((4, 68, 2)))
    for name in ("no.npz", "nowhere.npz", "empty.npz", "array.npz"):
        with pytest.raises(ValueError, match=f"{name}: not a landmark file"):
            load_landmarks(tmp_path / name)
