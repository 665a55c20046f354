"""People whose names are known from photos of them, and who of them is in other pictures."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from portraitgen.data.prepare.picture import read_picture
from portraitgen.data.prepare.sources import Source, SourceError, find_sources
from portraitgen.data.sample import ClipSample
from portraitgen.faces.backend import FaceBackend, largest_face

log = logging.getLogger(__name__)


def find_people(folder: str) -> list[Source]:
    """The photos of a folder with one folder for each person, named like the person.

    Raises:
        ValueError: no such folder, no photo, or something else in there.
    """
    photos = find_sources(folder, setting="identities")
    for photo in photos:
        if photo.is_video or photo.name.count("/") != 1:
            raise ValueError(
                f"identities={folder}: {photo.name} is not a photo in a person's folder, as ann/1.jpg is; "
                "keep other files elsewhere"
            )
    return photos


def people_digest(photos: Sequence[Source]) -> str:
    """Digest of the photos' names and bytes."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(f"{photo.name}\0{photo.path.stat().st_size}\0".encode() + photo.path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """Known people; called on a sample, it names those whom it shows.

    Attributes:
        names: P of them.
        embeddings: float32 [P, D], the mean over each one's photos, of unit length.
        threshold: cosine from which a face is somebody's.
    """

    names: tuple[str, ...]
    embeddings: np.ndarray
    threshold: float

    def name_faces(self, embeddings: Sequence[np.ndarray]) -> list[str | None]:
        """Who each of the faces of one picture is, or None; nobody is in a picture twice.

        Args:
            embeddings: float32 [D] of each face, unit length.
        """
        likeness = np.stack(embeddings) @ self.embeddings.T
        # One to one: as many as are somebody's, then the largest sum of likeness.
        worth = np.where(likeness >= self.threshold, 1 + likeness, 0)
        named: list[str | None] = [None] * len(embeddings)
        for face, person in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
            if likeness[face, person] >= self.threshold:
                named[face] = self.names[person]
        return named

    def __call__(self, sample: ClipSample) -> ClipSample:
        """The sample with its people named; labels that it has stay where nobody is recognised."""
        embeddings = [track.embedding for track in sample.tracks if track.embedding is not None]
        if len(embeddings) < len(sample.tracks):
            return sample
        found = self.name_faces(embeddings)
        tracks = []
        for track, name in zip(sample.tracks, found, strict=True):
            label = None if track.identity_name in found else track.identity_name
            tracks.append(replace(track, identity_name=name or label))
        return replace(sample, tracks=tuple(tracks))


def read_gallery(photos: Sequence[Source], backend: FaceBackend) -> Gallery:
    """Learn people from photos of them (see `find_people`); of each photo the largest face counts.

    A photo without a face is left out and one whose face is not like the person's others is kept; both are
    named in a warning.

    Raises:
        ValueError: the backend has no embedding, a person has no usable photo, or two people look like one.
    """
    if backend.embedding_dim == 0:
        raise ValueError(f"identities: faces={backend.name} computes no embeddings to recognise people by")
    vectors: dict[str, list[np.ndarray]] = {photo.name.partition("/")[0]: [] for photo in photos}
    for photo in photos:
        try:
            faces = backend.detect(read_picture(photo), embed=True)
        except SourceError as error:
            log.warning(f"identities: {error}")
            continue
        face = largest_face([face for face in faces if face.score >= backend.min_score])
        if face is None or face.embedding is None:
            log.warning(f"identities: no face found in {photo.name}, which is left out")
        else:
            vectors[photo.name.partition("/")[0]].append(face.embedding)
    for name, found in vectors.items():
        if not found:
            raise ValueError(
                f"identities: no face found in any photo of {name}: add others or remove the folder"
            )
    means = np.stack([np.mean(found, axis=0) for found in vectors.values()])
    embeddings = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
    gallery = Gallery(tuple(vectors), embeddings, backend.identity_threshold)
    _check_people(gallery, vectors)
    return gallery


def _check_people(gallery: Gallery, vectors: dict[str, list[np.ndarray]]) -> None:
    likeness = gallery.embeddings @ gallery.embeddings.T - 3 * np.eye(len(gallery.names))
    one, other = np.unravel_index(int(likeness.argmax()), likeness.shape)
    if likeness[one, other] >= gallery.threshold:
        raise ValueError(
            f"identities: {gallery.names[one]} and {gallery.names[other]} look like one person (cosine "
            f"{likeness[one, other]:.3f}, one person from {gallery.threshold:.3f} on): put their photos into "
            "one folder, or remove wrong ones"
        )
    for name, mean in zip(gallery.names, gallery.embeddings, strict=True):
        worst = min(float(vector @ mean) for vector in vectors[name])
        if worst < gallery.threshold:
            log.warning(
                f"identities: a photo of {name} is not like the others (cosine {worst:.3f} to their mean)"
            )
