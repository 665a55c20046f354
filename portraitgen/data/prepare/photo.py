"""A photo as one sample: the picture, everybody in it, and a square crop of each face."""

import io
from fractions import Fraction

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from portraitgen.data.prepare.crop import choose_crop
from portraitgen.data.prepare.scores import picture_scores
from portraitgen.data.prepare.settings import PrepareSettings
from portraitgen.data.prepare.sources import Source, SourceError
from portraitgen.data.sample import ClipSample, ClipTrack, make_key
from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.types import Face

_JPEG_QUALITY = 95


def prepare_photo(source: Source, backend: FaceBackend, settings: PrepareSettings) -> ClipSample:
    """Find the faces of a photo; the largest comes first.

    The photo is stored whole, its longer side at most `photo_size` pixels, both sides cut to a multiple of 4
    at the right and the lower edge. Each face also comes as a square crop of `size` pixels.

    Raises:
        SourceError: unreadable, or nobody in it.
    """
    photo = _read(source)
    faces = [face for face in backend.detect(photo) if face.score >= backend.min_score]
    if not faces:
        raise SourceError(source, "detect", "no face found in this photo")
    faces.sort(key=lambda face: float(np.prod(face.box[2:] - face.box[:2])), reverse=True)

    height, width = photo.shape[:2]
    scale = min(1.0, settings.photo_size / max(height, width))
    scaled = cv2.resize(photo, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    stored = scaled[: scaled.shape[0] // 4 * 4, : scaled.shape[1] // 4 * 4]
    zoom = np.array([width / scaled.shape[1], height / scaled.shape[0]])  # source pixels a stored pixel
    tracks = tuple(_as_track(face, photo, zoom, settings) for face in faces)
    main = faces[0].box
    return ClipSample(
        key=make_key(source.key),
        num_frames=1,
        fps=Fraction(0),
        width=stored.shape[1],
        height=stored.shape[0],
        tracks=tracks,
        landmark_scheme=backend.landmark_scheme,
        affine=np.diag([*zoom, 0.0])[:2].astype(np.float32),
        source=source.origin(settings.licence),
        image=_jpeg(stored),
        scores={
            "num_faces": len(faces),
            "min_face": float((main[2:] - main[:2]).max()),
            "detection": faces[0].score,
            **picture_scores(stored, tracks[0].boxes[0]),
        },
    )


def _read(source: Source) -> np.ndarray:
    """uint8 [H, W, 3] RGB, upright (the EXIF orientation is applied)."""
    try:
        with Image.open(source.path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError:
        raise SourceError(source, "decode", "not a readable picture; remove it or save it anew") from None
    # PIL raises SyntaxError on a damaged PNG.
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = f"the picture is damaged ({error}); fetch it again or remove it"
        raise SourceError(source, "decode", reason) from error


def _as_track(face: Face, photo: np.ndarray, zoom: np.ndarray, settings: PrepareSettings) -> ClipTrack:
    """A face as a track of one frame, in pixels of the stored photo."""
    crop = choose_crop(face.box[None], image_size=photo.shape[:2], size=settings.size, margin=settings.margin)
    return ClipTrack(
        boxes=(face.box / np.tile(zoom, 2)).astype(np.float32)[None],
        scores=np.array([face.score], np.float32),
        keypoints=(face.keypoints / zoom).astype(np.float32)[None],
        landmarks=(face.landmarks / zoom).astype(np.float32)[None],
        valid=np.ones(1, bool),
        embedding=face.embedding,
        faces=(_jpeg(crop.cut(photo)),),
    )


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
