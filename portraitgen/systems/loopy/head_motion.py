"""How a face is held and how much it moves in a clip: the strong conditions of audio-to-latents."""

from collections.abc import Sequence

import torch
from torch import Tensor

from portraitgen.faces.measure import upper_face

UNIT_SIZE = 512
"""Variances are in pixels² of a frame of this height."""


def head_motion(
    landmarks: Tensor,
    *,
    scheme: str,
    height: int,
    nose_tip: int | None = None,
    expression_points: Sequence[int] | None = None,
    log_variance: bool = True,
) -> dict[str, Tensor]:
    """Landmarks, movement and expression as conditions.

    Movement is the variance over the clip of the tip of the nose, expression that of 37 points of the upper
    face about it (Loopy, section 3.4), each the mean over points and axes: `metrics.motion`'s Glo and Exp.

    Args:
        landmarks: [B, T, K, 2] in pixels.
        scheme: of the landmarks.
        height: of the frames in pixels.
        nose_tip, expression_points: numbers of landmarks; None: those of the scheme, see `upper_face`.
        log_variance: give log(1 + variance), which a linear layer can read for small and large motion; else
            the variance itself, as the paper's sentence has it.

    Returns:
        `landmarks` [B, T, 2K], in heights of the frame from its middle, `movement` and `expression` [B, 1].

    Raises:
        ValueError: no upper face is known in landmarks of this scheme, and none is given.
    """
    tip, points = nose_tip, expression_points
    if tip is None or points is None:
        known_tip, known_points = upper_face(scheme)
        tip, points = known_tip if tip is None else tip, known_points if points is None else points
    at_unit = landmarks * (UNIT_SIZE / height)
    nose = at_unit[:, :, tip]
    expression = at_unit[:, :, list(points)] - nose[:, :, None]

    def motion(positions: Tensor) -> Tensor:
        variance = positions.var(dim=1, correction=0).flatten(1).mean(dim=1, keepdim=True)
        return torch.log1p(variance) if log_variance else variance

    return {
        "landmarks": (landmarks / height - 0.5).flatten(2),
        "movement": motion(nose),
        "expression": motion(expression),
    }
