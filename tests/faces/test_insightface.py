"""The insightface backend on a stand-in pack (real names and shapes, no real weights), and what the outputs
of the real pack, recorded from a real clip, say about its conventions."""

import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from insightface.app import FaceAnalysis
from omegaconf import OmegaConf

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.insightface import InsightFaceBackend
from portraitgen.media.decode import read_video
from portraitgen.runs.check import find_problems

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
    message = r"no insightface models in .*antelopev2: .*/releases .*non-commercial.*faces\.model_dir"
    with pytest.raises(ValueError, match=message):
        InsightFaceBackend(str(folder))
    shutil.copytree(pack, folder / "antelopev2")  # as the archive unpacks
    with pytest.raises(ValueError, match=message):
        InsightFaceBackend(str(folder))


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


def test_real_key_points_are_in_our_order(frames: np.ndarray, recorded: dict[str, np.ndarray]) -> None:
    """Those of the real detector lie where dlib's do."""
    theirs = recorded["kps"][::6]
    ours = np.stack([DlibBackend().detect(frame)[0].keypoints for frame in frames[::6]])
    eye_distance = np.linalg.norm(theirs[:, 1] - theirs[:, 0], axis=-1)[:, None]
    assert (np.linalg.norm(ours - theirs, axis=-1) / eye_distance).max() < 0.1


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
