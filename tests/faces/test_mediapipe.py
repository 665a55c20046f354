"""The MediaPipe backend with its real model on real pictures; skips where the extra is not installed."""

import importlib.util
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from omegaconf import OmegaConf

from portraitgen.faces.backend import FaceBackend, largest_face
from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.face_geometry import face_geometry
from portraitgen.faces.measure import head_yaw
from portraitgen.faces.mediapipe import MediaPipeBackend
from portraitgen.media.decode import read_video
from portraitgen.runs.config.check import find_problems

INSTALLED = importlib.util.find_spec("mediapipe") is not None
needs_mediapipe = pytest.mark.skipif(not INSTALLED, reason="pip install 'portraitgen[mediapipe]'")


@pytest.fixture(scope="module")
def model_file(shared: Path) -> Path:
    return shared / "testdata" / "models" / "face_landmarker_v2_with_blendshapes.task"


@pytest.fixture(scope="module")
def backend(model_file: Path) -> FaceBackend:
    return MediaPipeBackend(str(model_file))


@pytest.fixture(scope="module")
def frames(carphone: Path) -> np.ndarray:
    return read_video(carphone)[::10]


def read_photo(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def sure_faces(backend: FaceBackend, image: np.ndarray) -> list:
    return [face for face in backend.detect(image) if face.score >= backend.min_score]


@needs_mediapipe
def test_every_frame_of_a_small_clip_has_its_face(backend: FaceBackend, frames: np.ndarray) -> None:
    for frame in frames:
        (face,) = sure_faces(backend, frame)
        assert abs(head_yaw(face.keypoints)) < 0.6, "he looks about, but into the camera"
        assert face.landmarks.shape == (backend.num_landmarks, 2) == (478, 2)
        assert face.embedding is None
        assert ((face.keypoints > face.box[:2]) & (face.keypoints < face.box[2:])).all()


@needs_mediapipe
def test_key_points_are_those_of_real_arcface_detectors(backend: FaceBackend, shared: Path) -> None:
    """Against SCRFD's key points, recorded from the real model on a real clip."""
    clip = "RD_Radio10_0_clip_0"
    frames = read_video(shared / "testdata" / "clips" / f"{clip}.mp4")[::6]
    with np.load(shared / "testdata" / "golden" / f"{clip}.npz", allow_pickle=False) as recorded:
        theirs = recorded["kps"][::6]
    ours = np.stack([backend.detect(frame)[0].keypoints for frame in frames])
    eye_distance = np.linalg.norm(theirs[:, 1] - theirs[:, 0], axis=-1)[:, None]
    error = np.linalg.norm(ours - theirs, axis=-1) / eye_distance
    assert error.mean() < 0.05
    assert error.max() < 0.1


@needs_mediapipe
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_mirrored_face_gives_mirrored_points(backend: FaceBackend, frames: np.ndarray, scale: int) -> None:
    """What MediaPipe gives fails this by 0.7 pixels at one end and -0.3 at the other."""
    differences = []
    for frame in frames:
        picture = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        face = backend.detect(picture)[0]
        mirror = backend.detect(np.ascontiguousarray(picture[:, ::-1]))[0]
        back = mirror.keypoints * (-1, 1) + (picture.shape[1], 0)
        differences.append(back[[1, 0, 2, 4, 3]] - face.keypoints)
    assert np.abs(np.mean(differences, axis=(0, 1))).max() < 0.15


@needs_mediapipe
def test_heads_lying_on_the_side_have_no_shift_either(backend: FaceBackend, frames: np.ndarray) -> None:
    """Mirrored along the face's own height: the same for the other direction of the face."""
    differences = []
    for frame in frames:
        picture = cv2.resize(np.rot90(frame, 3), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        face = backend.detect(picture)[0]
        mirror = backend.detect(np.ascontiguousarray(picture[:, ::-1]))[0]
        back = mirror.keypoints * (-1, 1) + (picture.shape[1], 0)
        differences.append(back[[1, 0, 2, 4, 3]] - face.keypoints)
    assert abs(np.mean(differences, axis=(0, 1))[0]) < 0.25


@needs_mediapipe
def test_positions_scale_with_the_picture(backend: FaceBackend, frames: np.ndarray) -> None:
    small = backend.detect(frames[0])[0]
    large = backend.detect(cv2.resize(frames[0], None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC))[0]
    assert np.abs((large.landmarks / 3 - small.landmarks).mean(axis=0)).max() < 0.1


@needs_mediapipe
def test_photos_with_one_face_and_none(backend: FaceBackend, shared: Path) -> None:
    photos = shared / "testdata" / "photos"
    for path in sorted((photos / "single").iterdir()):
        image = read_photo(path)
        face = largest_face(sure_faces(backend, image))
        assert face is not None, path.name
        expected = largest_face(sure_faces(DlibBackend(min_score=0.15), image))
        assert expected is not None
        centre, wanted = face.keypoints.mean(axis=0), expected.keypoints.mean(axis=0)
        assert np.linalg.norm(centre - wanted) < 0.15 * (expected.box[2] - expected.box[0]), path.name
    for path in sorted((photos / "negative").iterdir()):
        assert backend.detect(read_photo(path)) == [], path.name


@needs_mediapipe
def test_two_people_are_two_faces(backend: FaceBackend, shared: Path) -> None:
    image = read_photo(shared / "testdata" / "photos" / "multi" / "obama_biden.jpg")
    faces = sure_faces(backend, image)
    assert len(faces) == 2
    assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)


@needs_mediapipe
def test_the_mesh_has_expression_and_pose(backend: FaceBackend, shared: Path, model_file: Path) -> None:
    """One talking man: the points are MediaPipe's own, the pose is the one that our geometry finds."""
    with_mesh = MediaPipeBackend(str(model_file), mesh=True)
    mouth, jaw = [], []
    for frame in read_video(shared / "testdata" / "clips" / "pose_ref_video.mp4")[::12]:
        (face,), (plain,) = sure_faces(with_mesh, frame), sure_faces(backend, frame)
        assert plain.mesh is None
        np.testing.assert_array_equal(face.landmarks, plain.landmarks)
        height, width = frame.shape[:2]
        raw = face.mesh.points[:, :2] * (width, height)
        assert 0 < np.abs(raw - face.landmarks).max() < 2, "the landmarks are corrected, the mesh is not"
        _, pose = face_geometry(face.mesh.points, image_size=(height, width))
        np.testing.assert_allclose(face.mesh.pose, pose, atol=1e-3)
        assert face.mesh.points[4, 2] < face.mesh.points[234, 2], "the nose tip is in front of the ear"
        mouth.append(np.linalg.norm(face.landmarks[14] - face.landmarks[13]))
        jaw.append(face.mesh.blendshapes[25])
    assert np.corrcoef(mouth, jaw)[0, 1] > 0.8, "blend shape 25 is jawOpen"


@needs_mediapipe
def test_results_repeat_and_the_backend_travels(backend: FaceBackend, frames: np.ndarray) -> None:
    copy = pickle.loads(pickle.dumps(backend))
    assert copy == backend
    first, second = backend.detect(frames[0])[0], copy.detect(frames[0])[0]
    np.testing.assert_array_equal(first.landmarks, second.landmarks)
    assert first.score == second.score


@needs_mediapipe
def test_what_cannot_be_is_named(backend: FaceBackend, frames: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no identity embedding: take faces=dlib"):
        backend.detect(frames[0], embed=True)
    with pytest.raises(ValueError, match="uint8"):
        backend.detect(frames[0].astype(np.float32))
    with pytest.raises(ValueError, match=r"face_landmarker\.task and set faces\.model_file"):
        MediaPipeBackend(str(tmp_path / "absent.task"))
    (tmp_path / "page.task").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"page\.task is no face landmarker"):
        MediaPipeBackend(str(tmp_path / "page.task")).detect(frames[0])


@pytest.mark.skipif(INSTALLED, reason="mediapipe is installed")
def test_without_the_package_the_extra_is_named() -> None:
    with pytest.raises(ValueError, match=r"pip install 'portraitgen\[mediapipe\]'"):
        MediaPipeBackend("face_landmarker.task")


def test_the_config_builds_it_once_the_model_is_given(repository: Path) -> None:
    config = OmegaConf.create({"faces": OmegaConf.load(repository / "conf" / "faces" / "mediapipe.yaml")})
    assert find_problems(config) == ["faces.model_file: no value given (???)"]
    config.faces.model_file = "face_landmarker.task"
    assert find_problems(config) == []
