"""Cut faces out upright, differentiable with respect to the pictures, a batch at a time."""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from portraitgen.faces.templates import FaceTemplate


def fit_similarities(keypoints: Tensor, target: Tensor) -> Tensor:
    """Rotation, uniform scale and shift that take key points nearest to `target`, in closed form.

    In two dimensions Umeyama's least squares (PAMI 1991), without reflections, needs no SVD: with s and d
    centred, a = Σ s·d / Σ|s|² and b = Σ s×d / Σ|s|² make the matrix [[a, −b], [b, a]].

    Args:
        keypoints: [B, K, 2]; NaN where a face was not found.
        target: [K, 2].

    Returns:
        float64 [B, 2, 3]; NaN where key points are missing or all lie in one place.
    """
    source, target = keypoints.double(), target.double()
    source_mean, target_mean = source.mean(dim=-2, keepdim=True), target.mean(dim=-2, keepdim=True)
    s, d = source - source_mean, (target - target_mean).expand_as(source)
    size = s.square().sum(dim=(-2, -1))
    size = torch.where(size > 0, size, torch.nan)
    a = (s * d).sum(dim=(-2, -1)) / size
    b = (s[..., 0] * d[..., 1] - s[..., 1] * d[..., 0]).sum(dim=-1) / size
    linear = torch.stack([torch.stack([a, -b], dim=-1), torch.stack([b, a], dim=-1)], dim=-2)
    shift = target_mean.mT - linear @ source_mean.mT
    return torch.cat([linear, shift], dim=-1)


def warp_crops(images: Tensor, matrices: Tensor, *, side: int) -> Tensor:
    """Resample so that what was at p comes to lie at M p, in pixels with whole numbers at their centres.

    Bilinear without antialiasing and zeros outside the picture, as cv2.warpAffine with its defaults.

    Args:
        images: [B, C, H, W].
        matrices: float64 [B, 2, 3], finite and invertible.
        side: height and width of the crops.

    Returns:
        [B, C, side, side], of the images' type; differentiable in `images`.
    """
    linear, shift = matrices[..., :2], matrices[..., 2:]
    steps = torch.arange(side, dtype=torch.float64, device=matrices.device)
    centres = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1)
    source = torch.linalg.solve(linear, centres.view(1, -1, 2).mT - shift).mT
    size = torch.tensor(images.shape[:-3:-1], dtype=torch.float64, device=matrices.device)
    grid = ((2 * source + 1) / size - 1).view(-1, side, side, 2)
    return grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
    )


def align_faces(images: Tensor, keypoints: Tensor, template: FaceTemplate) -> tuple[Tensor, Tensor]:
    """Upright crops of one face in each picture.

    Args:
        images: [B, C, H, W] floating point.
        keypoints: [B, 5, 2] as in `Face.keypoints`; NaN where there is no face.
        template: where the key points shall lie.

    Returns:
        Crops [B, C, side, side], differentiable in `images`, and bool [B], whether the row has a face. A row
        without one is black and passes no gradient.

    Raises:
        ValueError: shapes that do not belong together.
    """
    if images.ndim != 4 or keypoints.shape != (len(images), 5, 2):
        raise ValueError(
            f"need one face of 5 key points for each picture [B, C, H, W], got {list(keypoints.shape)} key "
            f"points for pictures {list(images.shape)}"
        )
    target = torch.as_tensor(template.keypoints, device=images.device)
    offset = 0.0 if template.whole_is_centre else 0.5
    matrices = fit_similarities(keypoints.to(images.device) - offset, target - offset)
    valid = matrices.isfinite().all(dim=(-2, -1)) & (matrices[..., :2].det() > 0)
    anything = torch.eye(2, 3, dtype=matrices.dtype, device=matrices.device)
    crops = warp_crops(images, torch.where(valid[:, None, None], matrices, anything), side=template.side)
    return torch.where(valid[:, None, None, None], crops, 0.0), valid


def upright_faces(pictures: Tensor, keypoints: Tensor, template: FaceTemplate) -> tuple[Tensor, Tensor]:
    """As `align_faces`, of pictures in [-1, 1]: outside them, and in rows without a face, is black (−1).

    So are the crops of insightface and dlib, of bytes, on which recognition networks were trained; zeros of
    `align_faces` would be grey.
    """
    crops, valid = align_faces(pictures + 1, keypoints, template)
    return crops - 1, valid
