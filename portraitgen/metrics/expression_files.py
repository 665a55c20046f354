"""Expression coefficients that Deep3DFaceRecon has written: read from .npy or .mat files, no code run."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from portraitgen.media.bounded import read_array
from portraitgen.media.matlab import read_matrices
from portraitgen.metrics.feature_metric import deep3d_expression

NUM_EXPRESSION = 64
SUFFIXES = (".npy", ".mat")
_WHOLE = ("coeff", "coeff_3dmm")
_PART = "exp"


def find_coefficients(folder: Path, video: str) -> Path | None:
    """The file of a video in a folder, `<video>.npy` or `<video>.mat`; None without one."""
    if Path(video).name != video:
        return None
    paths = (folder / f"{video}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def read_expression(path: Path) -> Tensor:
    """Expression coefficients float32 [T, 64] of a file.

    Args:
        path: a .npy of all 257 coefficients [T, 257], or a .mat with them as `coeff` or with the 64 as `exp`,
            as Deep3DFaceRecon writes it.

    Raises:
        ValueError: something else, or values that are not finite.
    """
    try:
        if path.suffix == ".npy":
            whole: np.ndarray | None = read_array(path)
            part = None
        else:
            content = read_matrices(path, (*_WHOLE, _PART))
            whole = next((content[name] for name in _WHOLE if name in content), None)
            part = content.get(_PART)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as coefficients: {error}") from error
    if whole is None and part is None:
        raise ValueError(f"{path} has neither {' nor '.join((*_WHOLE, _PART))}: not of Deep3DFaceRecon")
    if whole is not None:
        found = deep3d_expression(torch.from_numpy(np.asarray(whole, np.float32)[..., :257]))
    else:
        found = torch.from_numpy(np.asarray(part, np.float32))
    if found.ndim != 2 or found.shape[1] != NUM_EXPRESSION or not found.isfinite().all():
        raise ValueError(f"{path}: expected finite [T, {NUM_EXPRESSION}], got {list(found.shape)}")
    return found
