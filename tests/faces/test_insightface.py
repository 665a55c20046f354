"""The insightface backend on a stand-in pack (real names and shapes, no real weights), and what the outputs
of the real pack, recorded from a real clip, say about its conventions."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from insightface.app import FaceAnalysis
from omegaconf import OmegaConf

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.insightface import InsightFaceBackend
from portraitgen.faces.tracking import track_faces
from portraitgen.faces.types import Face
from portraitgen.media.decode import read_video
from portraitgen.media.geometry import box_containment, box_iou
from portraitgen.runs.config.check import find_problems

CLIP = "RD_Radio10_0_clip_0"


@pytest.fixture(scope="module")
def pack(shared: Path) -> Path:
    return shared / "testdata" / "models" / "stub_buffalo" / "models" / "buffalo_l"


@pytest.fixture(scope="module")
def backend(pack: Path) -> FaceBackend:
    return InsightFaceBackend(str(pack))


@pytest.fixture(scope="module")
def frames(shared: Path) -> np.ndarray:
    return read_video(shared / "testdata" / "clips" / f"{CLIP}.mp4")


@pytest.fixture(scope="module")
def recorded(shared: Path) -> dict[str, np.ndarray]:
    """What insightface with the real buffalo_l found in the frames of the clip."""
    with np.load(shared / "testdata" / "golden" / f"{CLIP}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def partial_pack(pack: Path, folder: Path, *left_out: str) -> str:
    """A copy of the pack without some of its files."""
    shutil.copytree(pack, folder, ignore=shutil.ignore_patterns(*left_out))
    return str(folder)


@pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")
@pytest.mark.parametrize("size", [(512, 512), (360, 640), (144, 176)])
def test_finds_what_insightface_itself_finds(
    backend: FaceBackend, pack: Path, frames: np.ndarray, size: tuple[int, int]
) -> None:
    """The same pictures through insightface's own pipeline, which wants them as BGR."""
    image = cv2.resize(frames[0], size[::-1])
    analysis = FaceAnalysis(str(pack), providers=["CPUExecutionProvider"])
    analysis.prepare(ctx_id=-1, det_size=(640, 640))
    (theirs,) = analysis.get(np.ascontiguousarray(image[..., ::-1]))
    (ours,) = backend.detect(image, embed=True)
    assert ours.score == pytest.approx(theirs.det_score)
    np.testing.assert_allclose(ours.box, theirs.bbox, atol=1e-3)
    np.testing.assert_allclose(ours.keypoints, theirs.kps, atol=1e-3)
    np.testing.assert_allclose(ours.landmarks, theirs.landmark_3d_68[:, :2] + 0.5, atol=1e-3)
    assert ours.embedding @ theirs.normed_embedding > 0.9999
    assert np.linalg.norm(ours.embedding) == pytest.approx(1, abs=1e-5)
    swapped = backend.detect(np.ascontiguousarray(image[..., ::-1]), embed=True)[0]
    assert swapped.embedding @ theirs.normed_embedding < 0.999, "the order of the colours must matter"


def test_keeps_the_protocol(backend: FaceBackend, frames: np.ndarray) -> None:
    (face,) = backend.detect(frames[0])
    assert face.embedding is None
    assert backend.landmark_scheme == "ibug68"
    assert face.landmarks.shape == (backend.num_landmarks, 2)
    assert backend.embedding_dim == 512
    assert backend.name == "insightface-buffalo_l"
    assert backend.weak_score < backend.min_score <= face.score


def test_106_landmarks_on_request(pack: Path, frames: np.ndarray) -> None:
    backend = InsightFaceBackend(str(pack), landmark_scheme="insightface106")
    assert backend.detect(frames[0])[0].landmarks.shape == (backend.num_landmarks, 2) == (106, 2)


def test_weak_faces_end_at_the_weak_score(pack: Path, frames: np.ndarray) -> None:
    score = InsightFaceBackend(str(pack)).detect(frames[0])[0].score
    assert InsightFaceBackend(str(pack), weak_score=score + 0.01).detect(frames[0]) == []


def test_the_backend_travels(backend: FaceBackend, frames: np.ndarray) -> None:
    copy = pickle.loads(pickle.dumps(backend))
    assert copy == backend
    first, second = backend.detect(frames[0], embed=True)[0], copy.detect(frames[0], embed=True)[0]
    np.testing.assert_array_equal(first.embedding, second.embedding)


def test_a_missing_pack_is_named_before_insightface_would_download_it(pack: Path, tmp_path: Path) -> None:
    folder = tmp_path / "antelopev2"
    message = (
        r"no insightface models in .*antelopev2: .*/releases .*non-commercial.*"
        r"scrfd_10g_bnkps\.onnx, glintr100\.onnx.*faces\.model_dir"
    )
    with pytest.raises(ValueError, match=message):
        InsightFaceBackend(str(folder))
    shutil.copytree(pack, folder / "antelopev2")  # as the archive unpacks
    with pytest.raises(ValueError, match=message):
        InsightFaceBackend(str(folder))


def test_any_pack_will_do(pack: Path, frames: np.ndarray, tmp_path: Path, backend: FaceBackend) -> None:
    """antelopev2 has other file names; insightface goes by what the models take and give."""
    folder = tmp_path / "antelopev2"
    folder.mkdir()
    names = {"det_10g": "scrfd_10g_bnkps", "w600k_r50": "glintr100", "1k3d68": "1k3d68"}
    for ours, theirs in names.items():
        shutil.copy(pack / f"{ours}.onnx", folder / f"{theirs}.onnx")
    other = InsightFaceBackend(str(folder))
    assert other.name == "insightface-antelopev2", "its embeddings are not comparable with buffalo_l's"
    assert other.embedding_dim == 512
    (found,), (expected,) = (which.detect(frames[0], embed=True) for which in (other, backend))
    np.testing.assert_array_equal(found.embedding, expected.embedding)
    np.testing.assert_array_equal(found.landmarks, expected.landmarks)


def test_incomplete_and_broken_packs_are_named(pack: Path, frames: np.ndarray, tmp_path: Path) -> None:
    image = frames[0]
    no_landmarks = InsightFaceBackend(partial_pack(pack, tmp_path / "flat", "1k3d68.onnx"))
    with pytest.raises(ValueError, match=r"flat has no 1k3d68.onnx for faces.landmark_scheme=ibug68"):
        no_landmarks.detect(image)
    no_identity = InsightFaceBackend(partial_pack(pack, tmp_path / "anonymous", "w600k_r50.onnx"))
    assert len(no_identity.detect(image)) == 1, "only embeddings need the recognition model"
    with pytest.raises(ValueError, match="anonymous has no recognition model"):
        no_identity.detect(image, embed=True)
    with pytest.raises(ValueError, match="blind has no face detector"):
        InsightFaceBackend(partial_pack(pack, tmp_path / "blind", "det_10g.onnx")).detect(image)
    broken = Path(partial_pack(pack, tmp_path / "broken", "det_10g.onnx"))
    (broken / "det_10g.onnx").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"broken model.*unpack it again.*det_10g.onnx"):
        InsightFaceBackend(str(broken)).detect(image)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"landmark_scheme": "ibug86"}, "faces.landmark_scheme must be one of ibug68, insightface106"),
        ({"det_size": [640, 600]}, "faces.det_size must be two multiples of 32"),
        ({"det_size": [640]}, "faces.det_size"),
    ],
)
def test_impossible_settings_are_named(pack: Path, setting: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InsightFaceBackend(str(pack), **setting)


def test_wrong_pictures_are_named(backend: FaceBackend) -> None:
    with pytest.raises(ValueError, match="uint8"):
        backend.detect(np.zeros((8, 8, 3), np.float32))


def test_real_faces_are_where_dlib_finds_them(frames: np.ndarray, recorded: dict[str, np.ndarray]) -> None:
    """Boxes of the one reach to the forehead, of the other to the brows; key points are in one order."""
    faces = [DlibBackend().detect(frame)[0] for frame in frames[::6]]
    boxes, theirs = np.stack([face.box for face in faces]), recorded["bbox"][::6]
    assert box_iou(boxes, theirs.astype(np.float32)).min() > 0.5
    assert box_containment(boxes, theirs.astype(np.float32)).min() > 0.8
    points, recorded_points = np.stack([face.keypoints for face in faces]), recorded["kps"][::6]
    eye_distance = np.linalg.norm(recorded_points[:, 1] - recorded_points[:, 0], axis=-1)[:, None]
    error = np.linalg.norm(points - recorded_points, axis=-1) / eye_distance
    assert error.mean() < 0.05
    assert error.max() < 0.1


def recorded_faces(recorded: dict[str, np.ndarray]) -> list[list[Face]]:
    vectors = recorded["embedding"] / np.linalg.norm(recorded["embedding"], axis=1, keepdims=True)
    columns = [recorded[name].astype(np.float32) for name in ("bbox", "det_score", "landmark_2d_106", "kps")]
    return [
        [Face(box, float(score), landmarks, points, vector.astype(np.float32))]
        for box, score, landmarks, points, vector in zip(*columns, vectors, strict=True)
    ]


def test_real_outputs_are_one_track(backend: FaceBackend, recorded: dict[str, np.ndarray]) -> None:
    """With a hole of 20 frames too, longer than positions bridge: embeddings say that it is one person."""
    faces = recorded_faces(recorded)
    rules = {"min_score": backend.min_score, "identity_threshold": backend.identity_threshold}
    (track,) = track_faces(faces, **rules)
    assert track.frames.tolist() == list(range(61))
    assert np.linalg.norm(track.embedding) == pytest.approx(1, abs=1e-5)
    holed = [*faces[:20], *([] for _ in range(20)), *faces[40:]]
    assert len(track_faces(holed, min_score=backend.min_score)) == 2
    (joined,) = track_faces(holed, **rules)
    assert len(joined.frames) == 41
    assert joined.embedding @ track.embedding > 0.98


def test_another_person_in_the_same_place_is_another_track(
    backend: FaceBackend, recorded: dict[str, np.ndarray]
) -> None:
    """Real boxes throughout, from frame 30 on with embeddings as far off as other people's are."""
    direction = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    direction /= np.linalg.norm(direction)
    faces = recorded_faces(recorded)
    faces[30:] = [[replace(face, embedding=direction)] for (face,) in faces[30:]]
    tracks = track_faces(faces, min_score=backend.min_score, identity_threshold=backend.identity_threshold)
    assert sorted(track.frames.tolist() for track in tracks) == [list(range(30)), list(range(30, 61))]


def test_real_embeddings_of_one_person_pass_the_threshold(
    backend: FaceBackend, recorded: dict[str, np.ndarray]
) -> None:
    vectors = recorded["embedding"]
    norms = np.linalg.norm(vectors, axis=1)
    assert norms.min() > 10, "the pack's vectors are not of unit length by themselves"
    vectors = vectors / norms[:, None]
    assert (vectors @ vectors.T).min() > backend.identity_threshold


def test_the_config_builds_it(repository: Path) -> None:
    config = OmegaConf.create({"faces": OmegaConf.load(repository / "conf" / "faces" / "insightface.yaml")})
    assert find_problems(config) == []
