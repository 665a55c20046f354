"""Drawn photos of several people with known landmarks, masks and names."""

import io
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from portraitgen.data.prepare.masks import HullMasks
from portraitgen.data.sample import ClipSample, ClipTrack, make_key
from portraitgen.faces.backend import keypoints_from_ibug68
from portraitgen.faces.templates import ARCFACE, upright_crop
from tests.synthetic import synthetic_frames, synthetic_landmarks


class Person(NamedTuple):
    """A face in a square of `side` pixels from (x, y) on."""

    x: int
    y: int
    side: int
    seed: int = 0
    name: str | None = None


def jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def draw(
    size: tuple[int, int], people: Sequence[Person], *, seed: int = 0
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The picture, uint8 [*size, 3] RGB, and the landmarks [68, 2] of each person."""
    coarse = np.random.default_rng(seed).integers(60, 180, (6, 6, 3)).astype(np.float32)
    image = (
        cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    )
    found = []
    for person in people:
        landmarks = synthetic_landmarks(1, person.side, seed=person.seed)
        patch = synthetic_frames(landmarks, person.side, seed=person.seed)[0]
        image[person.y : person.y + person.side, person.x : person.x + person.side] = patch
        found.append(landmarks[0] + np.array([person.x, person.y], np.float32))
    return image, found


def photo(
    name: str,
    size: tuple[int, int],
    people: Sequence[Person],
    *,
    seed: int = 0,
    caption: str | None = None,
    crops: bool = True,
    masks: bool = False,
) -> ClipSample:
    """A sample as preparation makes it, the largest face first; with `crops` of the faces or without."""
    image, landmarks = draw(size, people, seed=seed)
    tracks = []
    for person, points in zip(people, landmarks, strict=True):
        key_points = keypoints_from_ibug68(points)
        crop = jpeg(upright_crop(image, key_points, ARCFACE.scaled(224)))
        track = ClipTrack(
            boxes=np.concatenate([points.min(axis=0), points.max(axis=0)])[None].astype(np.float32),
            scores=np.ones(1, np.float32),
            keypoints=key_points[None].astype(np.float32),
            landmarks=points[None].astype(np.float32),
            valid=np.ones(1, bool),
            identity_name=person.name,
            faces=(crop,) if crops else (),
        )
        tracks.append(track)
    order = np.argsort([-person.side for person in people], kind="stable")
    sample = ClipSample(
        key=make_key(name),
        num_frames=1,
        fps=Fraction(0),
        width=size[1],
        height=size[0],
        tracks=tuple(tracks[place] for place in order),
        landmark_scheme="ibug68",
        affine=np.eye(2, 3, dtype=np.float32),
        source={"uri": name, "licence": "CC0-1.0"},
        image=jpeg(image),
        scores={"num_faces": len(people), "min_face": float(people[0].side)},
        caption=caption,
    )
    return HullMasks()(sample) if masks else replace(sample)
