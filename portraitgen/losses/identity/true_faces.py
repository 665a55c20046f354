"""The true faces of a batch: where in the pictures they are, and what the drawn ones are compared with."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from portraitgen.faces.backend import FaceBackend
from portraitgen.losses.identity.batch_faces import BatchFaces
from portraitgen.losses.identity.face_crops import FaceCrops

AlignSource = Literal["target_kps", "detect_target", "detect"]
FaceTarget = Literal["picture", "latents", "reference", "identity"]

_REFERENCES = ("ref", "reference")


class TrueFaces:
    """See `DifferentiableFaceLoss` for the arguments.

    Faces that are looked at are given as int64 [N, 3]: sample, frame and place of each.
    """

    def __init__(
        self, crops: FaceCrops, *, source: AlignSource, target: FaceTarget, detector: FaceBackend | None
    ) -> None:
        self.crops, self.source, self.target, self.detector = crops, source, target, detector
        self._key = "key_points" if crops.mode == "kps" else "boxes"

    def places(self, faces: BatchFaces) -> Tensor:
        """Key points [B, T, P, 5, 2] or boxes [B, T, P, 4]; NaN where none is known.

        Raises:
            ValueError: the batch does not say where faces are, and no detector is asked.
        """
        known = faces.key_points if self.crops.mode == "kps" else faces.boxes
        if known is not None and self.source != "detect_target":
            return known.float()
        if self.source == "target_kps":
            raise ValueError(
                f"losses: the batches hold no {self._key.replace('_', ' ')} of faces: set data.examples."
                f"{self._key}=true, or align_source=detect_target"
            )
        if faces.pictures is None:
            raise ValueError("losses: the batches hold no pictures to find faces in: decode them")
        found = self.found(faces.pictures.flatten(0, 1))
        # One person of each picture, the largest.
        places = torch.full((*faces.there.shape, *found.shape[1:]), torch.nan, device=found.device)
        places[:, :, 0] = found.unflatten(0, faces.pictures.shape[:2])
        return places

    def found(self, pictures: Tensor) -> Tensor:
        """Where the detector finds the largest face of each picture."""
        assert self.detector is not None
        return self.crops.detect(pictures, self.detector)

    def cut(
        self,
        batch: Mapping[str, Any],
        faces: BatchFaces,
        places: Tensor,
        index: Tensor,
        decoded: Callable[[], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Crops [N, 3, side, side] of the faces `index`, and bool [N], which of them show one.

        Args:
            decoded: gives the pictures [N, 3, H, W] that the codec makes of the true latents.

        Raises:
            ValueError: the batch lacks what is compared with.
        """
        if self.target == "reference":
            pictures, where = self._reference(batch)
            return self.crops(pictures[index[:, 0]], where[index[:, 0]])
        if self.target == "latents":
            return self.crops(decoded(), places[index.unbind(1)])
        if faces.pictures is None:
            raise ValueError(
                "losses: the batches hold no pictures to compare with: decode them "
                "(data.examples.pictures=true), or take face_target=latents"
            )
        return self.crops(faces.pictures[index[:, 0], index[:, 1]], places[index.unbind(1)])

    def _reference(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The reference picture [B, 3, H, W] and where its face is."""
        for key in _REFERENCES:
            if key in batch and f"{key}_{self._key}" in batch:
                return batch[key], batch[f"{key}_{self._key}"]
        raise ValueError(
            f"losses: face_target=reference, but the batches hold no {' or '.join(_REFERENCES)} with its "
            f"{self._key}"
        )


def stored_embeddings(batch: Mapping[str, Any], index: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings [N, D] that were stored of the people `index`, and bool [N], of whom there is one.

    Raises:
        ValueError: the batch holds none.
    """
    if "identity" not in batch:
        raise ValueError(
            "losses: face_target=identity, but the batches hold none: set data.examples.features=[identity]"
        )
    stored: Tensor = batch["identity"]
    vectors = stored[index[:, 0]] if stored.ndim == 2 else stored[index[:, 0], index[:, 2]]
    return vectors.float(), vectors.any(dim=1)
