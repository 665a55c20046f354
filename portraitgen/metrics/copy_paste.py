"""Was the person drawn, or the photo copied: MultiID-Bench's measure (WithAnyone, arXiv:2510.14975)."""

import numpy as np

SAME = 1e-3
"""Angle below which two embeddings are of one and the same picture."""


def copy_paste(generated: np.ndarray, truth: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(θ_gt − θ_gr) / θ_tr by angles between embeddings: 1 a copy of the reference, −1 of the true picture.

    θ_gt lies between the generated face and the true one, θ_gr between the generated face and the reference,
    θ_tr between the true face and the reference; the triangle inequality keeps it in [−1, 1]. 0 is as near
    to the one as to the other.

    Args:
        generated, truth, reference: [N, D] unit vectors of N people; NaN where there is no face.

    Returns:
        float64 [N]; NaN without a face, and where true picture and reference are the same.
    """
    to_truth, to_reference = angles(generated, truth), angles(generated, reference)
    apart = angles(truth, reference)
    apart = np.where(apart < SAME, np.nan, apart)
    return (to_truth - to_reference) / apart


def angles(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[N] in radians, of unit vectors [N, D], exact for small angles too (Kahan)."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    return 2 * np.arctan2(np.linalg.norm(one - other, axis=-1), np.linalg.norm(one + other, axis=-1))
