"""Pictures of any format in, JPEG out."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from portraitgen.data.prepare.sources import Source, SourceError

_JPEG_QUALITY = 95


def read_picture(source: Source) -> np.ndarray:
    """uint8 [H, W, 3] RGB, upright (the EXIF orientation is applied).

    Raises:
        SourceError: it is no picture, or damaged.
    """
    try:
        with Image.open(source.path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError:
        raise SourceError(source, "decode", "not a readable picture; remove it or save it anew") from None
    # PIL raises SyntaxError on a damaged PNG.
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = f"the picture is damaged ({error}); fetch it again or remove it"
        raise SourceError(source, "decode", reason) from error


def encode_jpeg(image: np.ndarray) -> bytes:
    """A JPEG of uint8 [H, W, 3] RGB."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
