"""What ConsisID's generator is told of a face: who it is (ArcFace), and what it looks like (CLIP, by layers).

ConsisID takes the identity from the largest face and the looks from the most central one, which in a group
are two people. Here both are of one face, unless `compat` asks for what the official code does
(`process_face_embeddings`). What commands use is `faces/conditioner`, which does this a batch at a time
with the networks themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from portraitgen.faces.backend import largest_face
from portraitgen.faces.eva_clip import MEAN, STD
from portraitgen.faces.parsing.parser import IMAGENET, background_of, normalised
from portraitgen.faces.templates import FACEXLIB, upright_crop, upright_matrix
from portraitgen.faces.types import Face
from portraitgen.media.geometry import apply_affine

_LUMA = (0.299, 0.587, 0.114)
BORDER = (132, 133, 135)
"""RGB beyond a picture, as facexlib has it."""


@dataclass(frozen=True, slots=True, eq=False)
class ConditionModels:
    """The networks that look at a face; pictures are uint8 [H, W, 3] RGB.

    Attributes:
        find: faces of a picture, with embeddings as long as the recognition network gives them, not of unit
            length.
        parse: [1, 3, 512, 512], normalised as ImageNet's, -> scores [1, 19, 512, 512] of BiSeNet's classes.
        look: [1, 3, h, w], normalised as CLIP's -> (projection [1, C], its inner layers, each [1, N, D]).
        image_size: shorter side of the picture that `look` takes.
        align_centre: compat: the most central face, upright 512x512, and its key points [5, 2]; None if there
            is none.
        embed_aligned: compat: the embedding [D] of such a crop, where `find` found nobody.
    """

    find: Callable[[np.ndarray], list[Face]]
    parse: Callable[[Tensor], Tensor]
    look: Callable[[Tensor], tuple[Tensor, list[Tensor]]]
    image_size: int = 336
    align_centre: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray] | None] | None = None
    embed_aligned: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class IdentityCondition:
    """The features of one face.

    Attributes:
        identity: float32 [1, D + C], the raw embedding and CLIP's projection of unit length.
        layers: CLIP's inner layers.
        picture: float [1, 3, H, W], 0 to 1: the face that was looked at, in colour, on white when aligned.
        keypoints: float32 [5, 2] in pixels of `picture` (compat: of the picture that was given).
    """

    identity: Tensor
    layers: list[Tensor]
    picture: Tensor
    keypoints: np.ndarray


def identity_condition(
    image: np.ndarray, models: ConditionModels, *, align: bool = True, compat: bool = False
) -> IdentityCondition:
    """Features of the largest face of a picture.

    Args:
        image: uint8 [H, W, 3] RGB.
        align: look at the face upright, grey and without its background; else at the picture as it is.
        compat: as ConsisID: the looks are those of the most central face, the key points are in pixels of the
            picture that was given, and where nobody is found the aligned crop is embedded.

    Raises:
        ValueError: no face.
    """
    if compat:
        aligned, embedding, keypoints = _official_face(image, models)
    else:
        face = largest_face(models.find(image))
        if face is None or face.embedding is None:
            raise ValueError("no face found in this picture: take one that shows it larger, or whole")
        aligned, embedding, keypoints = image, face.embedding, face.keypoints
        if align:
            aligned = upright_crop(image, keypoints, FACEXLIB, fill=BORDER)
            matrix = upright_matrix(keypoints, FACEXLIB)
            keypoints = apply_affine(keypoints, matrix).astype(np.float32)
    picture = seen = _as_tensor(aligned if align else image)
    if align:
        background = background_of(models.parse(normalised(picture, IMAGENET)))
        picture, seen = on_white(picture, background)
    projection, layers = models.look(normalised(resized(seen, models.image_size), (MEAN, STD)))
    identity = torch.from_numpy(np.asarray(embedding, np.float32))[None].to(projection.device)
    looks = projection / projection.norm(dim=-1, keepdim=True)
    return IdentityCondition(torch.cat([identity, looks.float()], dim=-1), layers, picture, keypoints)


def _official_face(image: np.ndarray, models: ConditionModels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The central face upright, and embedding and key points of the largest."""
    assert models.align_centre is not None
    assert models.embed_aligned is not None
    face = largest_face(models.find(image))
    central = models.align_centre(image)
    if central is None:
        raise ValueError("no face could be aligned in this picture: take one that shows it larger, or whole")
    aligned, points = central
    if face is None or face.embedding is None:
        return aligned, models.embed_aligned(aligned), points
    return aligned, face.embedding, face.keypoints


def shrink_long_side(image: np.ndarray, longest: int = 1024) -> np.ndarray:
    """A picture [H, W, 3] with its longer side at most `longest` pixels (Lanczos, fractions cut off)."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = (int(width * scale), int(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LANCZOS4))


def _as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255


def on_white(pictures: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures [B, 3, H, W] in [0, 1] with a white background [B, 1, H, W]: in colour, and as CLIP sees it,
    grey.
    """
    luma = torch.tensor(_LUMA, device=pictures.device).view(1, 3, 1, 1)
    grey = (pictures * luma).sum(dim=1, keepdim=True).expand_as(pictures)
    white = torch.ones_like(pictures)
    return torch.where(background, white, pictures), torch.where(background, white, grey)


def resized(picture: Tensor, shorter: int) -> Tensor:
    """[B, 3, H, W] with the shorter side of `shorter` pixels, bicubic and filtered."""
    height, width = picture.shape[-2:]
    size = (
        (shorter, int(shorter * width / height))
        if height <= width
        else (int(shorter * height / width), shorter)
    )
    return F.interpolate(picture, size, mode="bicubic", antialias=True)
