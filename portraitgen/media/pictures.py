"""Picture files as arrays."""

from pathlib import Path

import cv2
import numpy as np

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""What the names of picture files end in."""


def is_picture(path: Path) -> bool:
    """Whether a file is a picture, by its name."""
    return path.suffix.lower() in PICTURES


def read_picture(path: Path) -> np.ndarray:
    """A picture file as uint8 [H, W, 3] RGB, upright.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: no such picture, or it cannot be read")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
