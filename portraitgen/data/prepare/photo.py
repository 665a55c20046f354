"""A photo as one sample: the picture, everybody in it, and an upright crop of each face."""

from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np

from portraitgen.data.prepare.picture import encode_jpeg, read_picture
from portraitgen.data.prepare.scores import picture_scores
from portraitgen.data.prepare.settings import PrepareSettings
from portraitgen.data.prepare.sources import Source, SourceError
from portraitgen.data.sample import ClipSample, ClipTrack, make_key
from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.padded_search import sure_faces
from portraitgen.faces.templates import ARCFACE, upright_crop
from portraitgen.faces.types import Face


def prepare_photo(source: Source, backend: FaceBackend, settings: PrepareSettings) -> ClipSample:
    """Find the faces of a photo; the largest comes first.

    The photo is stored whole, its longer side at most `photo_size` pixels, both sides cut to a multiple of 4
    at the right and the lower edge. Each face also comes cut out of the source as recognition networks and
    UniPortrait want it: upright, its key points where ArcFace's template has them, `face_size` pixels a side.
    The source's identity names the largest face.

    Raises:
        SourceError: unreadable, or nobody in it.
    """
    photo = read_picture(source)
    embed = settings.embed_every > 0 and backend.embedding_dim > 0
    faces = sorted(sure_faces(photo, backend, embed=embed), key=_area, reverse=True)
    if not faces:
        raise SourceError(source, "detect", "no face found in this photo")

    height, width = photo.shape[:2]
    scale = min(1.0, settings.photo_size / max(height, width))
    scaled = cv2.resize(photo, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    stored = scaled[: scaled.shape[0] // 4 * 4, : scaled.shape[1] // 4 * 4]
    zoom = np.array([width / scaled.shape[1], height / scaled.shape[0]])  # source pixels a stored pixel
    try:
        main, *others = (_as_track(face, photo, zoom, settings) for face in faces)
    except ValueError as error:
        raise SourceError(source, "detect", f"a face cannot be turned upright: {error}") from error
    return ClipSample(
        key=make_key(source.key),
        num_frames=1,
        fps=Fraction(0),
        width=stored.shape[1],
        height=stored.shape[0],
        tracks=(replace(main, identity_name=source.identity_name), *others),
        landmark_scheme=backend.landmark_scheme,
        affine=np.diag([*zoom, 0.0])[:2].astype(np.float32),
        source=source.origin(settings.licence),
        image=encode_jpeg(stored),
        scores={
            "num_faces": len(faces),
            "min_face": float((faces[0].box[2:] - faces[0].box[:2]).max()),
            "detection": faces[0].score,
            **picture_scores(stored, main.boxes[0]),
        },
        caption=source.caption,
    )


def _area(face: Face) -> float:
    return float(np.prod(face.box[2:] - face.box[:2]))


def _as_track(face: Face, photo: np.ndarray, zoom: np.ndarray, settings: PrepareSettings) -> ClipTrack:
    """A face as a track of one frame, in pixels of the stored photo."""
    crop = upright_crop(photo, face.keypoints, ARCFACE.scaled(settings.face_size))
    return ClipTrack(
        boxes=(face.box / np.tile(zoom, 2)).astype(np.float32)[None],
        scores=np.array([face.score], np.float32),
        keypoints=(face.keypoints / zoom).astype(np.float32)[None],
        landmarks=(face.landmarks / zoom).astype(np.float32)[None],
        valid=np.ones(1, bool),
        embedding=face.embedding,
        faces=(encode_jpeg(crop),),
    )
