"""Photos of any format as they are meant to be seen: upright, sRGB, 8 bits, nothing hidden shown."""

import io
import logging
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

log = logging.getLogger(__name__)

PHOTO_SUFFIXES = frozenset(
    {".avif", ".bmp", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
"""What the names of photos end in."""

MAX_PIXELS = 500_000_000
"""Of a photo, 1.5 GB as RGB: larger ones are refused by what their header says."""

# PIL raises SyntaxError on a damaged PNG, RuntimeError on AVIF, others on damaged chunks of other formats.
_DAMAGE = (
    *(OSError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, MemoryError, RuntimeError),
    *(AttributeError, struct.error),
)
_BACKGROUND = (255, 255, 255)
_SRGB = ImageCms.createProfile("sRGB")

pillow_heif.register_heif_opener()


class _NoLimit:
    """PIL's own limit of pixels, a sixth of `MAX_PIXELS`, is one for the whole process: it is off while any
    thread reads a photo, and back when the last one has."""

    def __init__(self) -> None:
        self._change = threading.Lock()
        self._readers = 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._change:
            if not self._readers:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._readers -= 1
            if not self._readers:
                Image.MAX_IMAGE_PIXELS = self._limit


_NO_LIMIT = _NoLimit()


class PhotoError(ValueError):
    """A photo cannot be used; `reason` says why and what to do, the message names the file too."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def is_photo(path: Path) -> bool:
    """Whether a file is a photo, by its name."""
    return path.suffix.lower() in PHOTO_SUFFIXES


def read_photo(path: Path) -> np.ndarray:
    """A photo as uint8 [H, W, 3] RGB.

    Turned as EXIF says; colours brought to sRGB by its ICC profile; 16 bits scaled to 8; floats up to 1 taken
    as shares of white, up to 255 as 8-bit and above as 16-bit values; what is transparent is white. Of
    several pictures in a file the first.

    Raises:
        PhotoError: there is none, it cannot be read, or it has more than `MAX_PIXELS`.
    """
    with _opened(path) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise PhotoError(
                path,
                f"{width}x{height} are more than {MAX_PIXELS // 1_000_000} million pixels; scale it down",
            )
        return _as_rgb(ImageOps.exif_transpose(image), path)


def photo_size(path: Path) -> tuple[int, int]:
    """(width, height) that a photo's header states, before it is turned as EXIF says; no pixel is read.

    Raises:
        PhotoError: there is none, or its header cannot be read.
    """
    with _opened(path) as image:
        width, height = image.size
        return width, height


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture of any size, and what is wrong with it in words."""
    if not path.is_file():
        raise PhotoError(path, "no such picture")
    try:
        with _NO_LIMIT, Image.open(path) as image:
            yield image
    except UnidentifiedImageError:
        raise PhotoError(path, "not a readable picture; remove it or save it anew") from None
    except _DAMAGE as error:
        raise PhotoError(path, f"the picture is damaged ({error}); fetch it again or remove it") from error
    except ValueError as error:
        if isinstance(error, PhotoError):
            raise
        raise PhotoError(path, f"the picture is damaged ({error}); fetch it again or remove it") from error


def _as_rgb(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode.startswith("I"):
        return _grey(np.asarray(image, dtype=np.float64) / 257)
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
        peak = values.max(initial=0.0)
        return _grey(values * 255 if peak <= 1 else values if peak <= 255 else values / 257)
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (*_BACKGROUND, 255))
        composed = Image.alpha_composite(background, seen).convert("RGB")
        composed.info = image.info
        image = composed
    return np.asarray(_in_srgb(image, path).convert("RGB"))


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=2)


def _in_srgb(image: Image.Image, path: Path) -> Image.Image:
    """The picture with its ICC profile applied; the same where it has none, or that of sRGB."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    try:
        known = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(known):
            return image
        converted = ImageCms.profileToProfile(image, known, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        log.warning("%s: its colour profile cannot be applied (%s); taken as sRGB", path, error)
        return image
    assert converted is not None
    return converted
