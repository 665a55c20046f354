"""Pictures of any format in, JPEG out."""

import io

import numpy as np
from PIL import Image

from portraitgen.data.prepare.sources import Source, SourceError
from portraitgen.media.photo import PhotoError, read_photo

_JPEG_QUALITY = 95


def read_picture(source: Source) -> np.ndarray:
    """uint8 [H, W, 3] RGB, as `read_photo` reads it.

    Raises:
        SourceError: it is no picture, damaged, or too large.
    """
    try:
        return read_photo(source.path)
    except PhotoError as error:
        raise SourceError(source, "decode", error.reason) from error


def encode_jpeg(image: np.ndarray) -> bytes:
    """A JPEG of uint8 [H, W, 3] RGB."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
