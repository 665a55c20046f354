"""Face analysis with a pack of insightface models: buffalo_l, antelopev2 or any other that the user has.

The library is MIT licensed; every pretrained pack is for non-commercial research only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from portraitgen.faces.templates import ARCFACE, upright_crop
from portraitgen.faces.types import Face

_RELEASES = "https://github.com/deepinsight/insightface/releases"
_USUAL_FILES = {
    "buffalo_l": "det_10g.onnx, w600k_r50.onnx, 1k3d68.onnx, 2d106det.onnx",
    "antelopev2": "scrfd_10g_bnkps.onnx, glintr100.onnx, 1k3d68.onnx, 2d106det.onnx",
}

# Landmark scheme → number of points, insightface's name of the model that finds them, its usual file.
_LANDMARKS = {
    "ibug68": (68, "landmark_3d_68", "1k3d68.onnx"),
    "insightface106": (106, "landmark_2d_106", "2d106det.onnx"),
}


def _pack_folder(model_dir: str) -> Path:
    """The pack's folder, once it is sure that insightface finds models there: else it starts a download."""
    folder = Path(model_dir).expanduser().absolute()
    if not any(folder.glob("*.onnx")) and not (folder / "manifest.json").is_file():
        files = _USUAL_FILES.get(folder.name, _USUAL_FILES["buffalo_l"])
        raise ValueError(
            f"no insightface models in {folder}: unpack a pack from {_RELEASES} (buffalo_l.zip for instance; "
            "licensed for non-commercial research only) so that its .onnx files lie directly in a folder "
            f"({files}), and set faces.model_dir to that folder; nothing is downloaded here"
        )
    return folder


# Kept per process, not per backend: a backend is only settings and travels to worker processes as such.
@cache
def _load_pack(folder: Path, providers: tuple[str, ...] | None, num_threads: int) -> dict[str, Any]:
    """The pack's models by insightface's task names."""
    import onnxruntime
    from insightface.app import FaceAnalysis
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidProtobuf

    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = num_threads
    tasks = ["detection", "recognition", *(task for _, task, _ in _LANDMARKS.values())]
    try:
        pack = FaceAnalysis(str(folder), allowed_modules=tasks, providers=providers, sess_options=session)
    except (Fail, InvalidArgument, InvalidProtobuf) as error:
        raise ValueError(
            f"broken model in the insightface pack {folder}, unpack it again: {error}"
        ) from error
    except AssertionError as error:  # how insightface says that it found no detector
        raise ValueError(f"the insightface pack {folder} has no face detector: unpack it again") from error
    return dict(pack.models)


@dataclass(frozen=True, slots=True)
class InsightFaceBackend:
    """Face analysis with a pack of insightface models (see `FaceBackend`).

    Boxes are the detector's (SCRFD): forehead to chin, without the hair. Positions are continuous pixels: the
    detector's already are (it was trained on positions that are mirrored as width - x and scaled by plain
    multiplication), the landmark models count pixel centres and are shifted by half a pixel.

    Attributes:
        model_dir: folder with the pack's .onnx files.
        landmark_scheme: "ibug68", the pack's 3D landmarks without their depth (the jaw of a turned head is
            that of the skull, not the visible outline), or "insightface106".
        min_score: a photo's face, or a new track, needs this; 0.5 is insightface's own threshold.
        weak_score: detections are returned down to this score, for tracks to continue on.
        identity_threshold: two embeddings with at least this cosine are of one person. It depends on the
            pack; the default is usual for networks trained with ArcFace's loss.
        det_size: (width, height), multiples of 32, into which a picture is fitted for detection.
        providers: of ONNX Runtime, in order of preference; None takes the GPU if the installed onnxruntime
            has one, else the CPU.
        num_threads: CPU threads of each process.

    Raises:
        ValueError: no models in `model_dir`, or a setting that cannot be.
    """

    model_dir: str = "~/.insightface/models/buffalo_l"
    landmark_scheme: Literal["ibug68", "insightface106"] = "ibug68"
    min_score: float = 0.5
    weak_score: float = 0.3
    identity_threshold: float = 0.35
    det_size: Sequence[int] = (640, 640)
    providers: Sequence[str] | None = None
    num_threads: int = 1

    def __post_init__(self) -> None:
        if self.landmark_scheme not in _LANDMARKS:
            raise ValueError(
                f"faces.landmark_scheme must be one of {', '.join(_LANDMARKS)}, got {self.landmark_scheme!r}"
            )
        if len(self.det_size) != 2 or any(side <= 0 or side % 32 for side in self.det_size):
            raise ValueError(f"faces.det_size must be two multiples of 32, got {list(self.det_size)}")
        _pack_folder(self.model_dir)

    @property
    def name(self) -> str:
        """With the pack's name: embeddings of two packs cannot be compared."""
        return f"insightface-{_pack_folder(self.model_dir).name}"

    @property
    def num_landmarks(self) -> int:
        return _LANDMARKS[self.landmark_scheme][0]

    @property
    def embedding_dim(self) -> int:
        """As the pack's recognition model says, 512 in every public pack; loads the pack."""
        return int(
            self._model("recognition", "recognition model (embed_every=0 prepares without)").output_shape[1]
        )

    def detect(self, image: np.ndarray, *, embed: bool = False) -> list[Face]:
        """Faces in a picture (uint8 [H, W, 3] RGB), surest first, weak ones included.

        Raises:
            ValueError: not such a picture, or the pack lacks a model that is needed.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"picture must be uint8 [H, W, 3] RGB, got {image.dtype} {image.shape}")
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        detector = self._model("detection", "face detector")
        width, height = self.det_size
        rows, keypoints = detector.detect(bgr, input_size=(width, height), det_thresh=self.weak_score)
        if keypoints is None:
            raise ValueError(f"the detector of {self.name} gives no key points: take another pack")
        faces = []
        for row, points in zip(rows, keypoints, strict=True):
            landmarks = self._landmarks(bgr, row[:4])
            embedding = self._embedding(bgr, points) if embed else None
            box, score = row[:4].astype(np.float32), float(row[4])
            faces.append(Face(box, score, landmarks, points.astype(np.float32), embedding))
        return sorted(faces, key=lambda face: -face.score)

    def _model(self, task: str, what: str) -> Any:
        """One model of the pack; `what` it is called when it is missing."""
        providers = None if self.providers is None else tuple(self.providers)
        models = _load_pack(_pack_folder(self.model_dir), providers, self.num_threads)
        if task not in models:
            raise ValueError(f"the insightface pack {_pack_folder(self.model_dir)} has no {what}")
        return models[task]

    def _landmarks(self, bgr: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Landmarks, float32 [K, 2]; the model cuts the face out itself."""
        from insightface.app.common import Face as PackFace

        _, task, file = _LANDMARKS[self.landmark_scheme]
        model = self._model(task, f"{file} for faces.landmark_scheme={self.landmark_scheme}")
        return (model.get(bgr, PackFace(bbox=box))[:, :2] + 0.5).astype(np.float32)

    def _embedding(self, bgr: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
        """Identity, float32 [D] of unit length."""
        model = self._model("recognition", "recognition model")
        chip = upright_crop(bgr, keypoints, ARCFACE.scaled(model.input_size[0]))
        vector = model.get_feat(chip)[0].astype(np.float32)
        return np.asarray(vector / np.linalg.norm(vector))

    def raw_embeddings(self, crops: np.ndarray) -> np.ndarray:
        """Embeddings, float32 [B, D] as long as the pack's network gives them, of faces that were cut out.

        Args:
            crops: uint8 [B, S, S, 3] RGB, by `templates.ARCFACE` at `recognition_side`.
        """
        model = self._model("recognition", "recognition model")
        return np.asarray(model.get_feat(list(np.ascontiguousarray(crops[..., ::-1]))), np.float32)

    @property
    def recognition_file(self) -> Path:
        """Of the pack's recognition network."""
        return Path(self._model("recognition", "recognition model").model_file)

    @property
    def recognition_side(self) -> int:
        """Of the crops that it looks at."""
        return int(self._model("recognition", "recognition model").input_size[0])
