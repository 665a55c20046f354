"""Is it the same person: the faces of a clip against those of the reference picture, or of the truth."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias
from weakref import WeakValueDictionary

import numpy as np
from torch import Tensor

from portraitgen.faces.backend import FaceBackend, largest_face
from portraitgen.faces.dlib_files import EMBEDDING_FILE, model_file
from portraitgen.faces.recognition.recognizer import FaceRecognizer, load_recognition, recognition_file
from portraitgen.faces.types import Face
from portraitgen.media.public_weights import file_digest
from portraitgen.metrics.frame_choice import NUM_FRAMES, spread_frames
from portraitgen.metrics.grader import Chunk, Fact, GradedClip, Watch
from portraitgen.metrics.graders.weights import require, weights_facts
from portraitgen.metrics.identity import match_identities, mean_found
from portraitgen.metrics.landmarks import find_faces
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.scores import Grades, MetricInfo, missing_grades

Embeddings: TypeAlias = dict[int, np.ndarray]
"""Place of a frame in its clip -> embeddings [M, D] of its faces."""
BACKEND = "backend"
"""The identity embedding of the face backend itself: buffalo_l's ArcFace with faces=insightface."""


class IdentityGrader:
    """Cosine similarity of the faces of a clip to those of the reference, or to the true face of each frame.

    A copy of the reference is as like it as can be; only the truth tells whether it is the person as the
    frame should show them.

    The network that grades must not be the one that an identity loss looked with: evaluate.py refuses that. A
    face that is not found is left out and counted; a clip without any is missing, not 0.

    Args:
        recognizer: `arcface`, `curricularface`, `dlib`, `mobileface`, or `backend` for the embedding of the
            face backend of the evaluation.
        weights: file of the recognizer; dlib's comes with its package, the backend has its own.
        frames: look at so many frames from the first to the last; None looks at all and has a figure for
            each.
        people: `largest` follows the largest face of each picture; `all` takes every face of the reference
            for a person of its own, or of several photos the largest face of each, and gives each person at
            most one face of a frame.
        against: `reference`, or `truth`, the true frame at the same place (of the largest face).

    Raises:
        ValueError: unknown settings, or a file that does not fit.
        MissingWeights: no weights file.
    """

    def __init__(
        self,
        recognizer: str = "dlib",
        *,
        weights: str | None = None,
        frames: int | None = NUM_FRAMES,
        people: Literal["largest", "all"] = "largest",
        against: Literal["reference", "truth"] = "reference",
    ) -> None:
        if people not in ("largest", "all"):
            raise ValueError(f"people must be 'largest' or 'all', got {people!r}")
        if against not in ("reference", "truth"):
            raise ValueError(f"against must be 'reference' or 'truth', got {against!r}")
        if against == "truth" and people == "all":
            raise ValueError("against=truth follows the largest face: leave out people=all")
        self.people, self.against = people, against
        self.num_frames = frames
        self.recognizer = None
        self.facts: dict[str, Fact] = {"recognizer": recognizer, "frames": frames, "people": people}
        self.facts["against"] = against
        if recognizer != BACKEND:
            path = model_file(EMBEDDING_FILE, None) if recognizer == "dlib" and weights is None else weights
            file = require(path, recognition_file(recognizer), setting="weights")
            self.recognizer = _shared(recognizer, str(file))
            self.facts |= {"recognizer": self.recognizer.name, **weights_facts(file)}
        self.name = f"identity_{recognizer}" + ("_truth" if against == "truth" else "")
        self.metrics = self._describe(recognizer)

    def _describe(self, recognizer: str) -> Mapping[str, MetricInfo]:
        level: Literal["frame", "clip"] = "frame" if self.num_frames is None else "clip"
        looked_at = "every frame" if self.num_frames is None else f"{self.num_frames} frames, first to last"
        whom = "the largest face" if self.people == "largest" else "each person, matched one to one,"
        where = "the reference picture" if self.against == "reference" else "the true frame at its place"
        text = (
            f"cosine of the {recognizer} embeddings of {whom} in {looked_at} and in {where}, "
            "mean over the frames with a face"
        )
        label = f"Identity ({recognizer})" + (", truth" if self.against == "truth" else "")
        metrics = {self.name: MetricInfo(label, "", 3, True, text, level)}
        if self.against == "truth":
            return metrics
        if self.people == "largest":
            share = "share of the frames looked at in which a face is found"
            return metrics | {
                f"{self.name}_faces": MetricInfo(f"Identity ({recognizer}), faces", "", 2, True, share, level)
            }
        worst, lost, extra = (f"{self.name}_{what}" for what in ("worst", "faces_missing", "faces_extra"))
        of_worst = f"{text}, of the least like person of each frame"
        of_lost = "people of the reference without a face, mean over frames"
        of_extra = "faces beyond the people of the reference, mean over frames"
        return metrics | {
            worst: MetricInfo(f"Identity ({recognizer}), worst", "", 3, True, of_worst, level),
            lost: MetricInfo(f"Identity ({recognizer}), faces missing", "", 2, False, of_lost, level),
            extra: MetricInfo(f"Identity ({recognizer}), faces too many", "", 2, False, of_extra, level),
        }

    def looks_with(self, backend: FaceBackend) -> tuple[str, str | None]:
        """See `RecognizingGrader`."""
        return (
            (backend.name, None)
            if self.recognizer is None
            else (self.recognizer.name, self.recognizer.digest)
        )

    def grade(self, clip: GradedClip) -> Grades | Watch[Any]:
        """Similarity of the clip or of each frame."""
        return self.grade_frames(clip, self._chosen(len(clip.pictures)))

    def grade_frames(self, clip: GradedClip, chosen: np.ndarray) -> Grades | Watch[Any]:
        """As `grade`, of these frames, int64 [N] places, alone."""
        count = len(chosen)
        if self.against == "truth":
            return self._grade_by_frame(clip, chosen)
        if clip.people and self.people == "largest":
            return missing_grades(self.metrics, count, "several people were given: set people=all")
        if clip.reference is None and not clip.people:
            return missing_grades(self.metrics, count, "no reference picture")
        references = self.embed_references(clip)
        if isinstance(references, str):
            return missing_grades(self.metrics, count, references)

        def see(chunk: Chunk) -> Embeddings:
            return self.embed_chunk(clip.pictures, chunk, chosen)

        def conclude(seen: list[Embeddings]) -> Grades:
            return self._compare(references, in_order(seen, chosen))

        return Watch(see, conclude)

    def _chosen(self, count: int) -> np.ndarray:
        return np.arange(count) if self.num_frames is None else spread_frames(count, self.num_frames)

    def _compare(self, references: np.ndarray, faces: list[np.ndarray]) -> Grades:
        """Figures from embeddings [P, D] of the references, and [M, D] of the faces of each frame."""
        match = match_identities(references, faces)
        figures = {self.name: mean_found(match.similarity)}
        if self.people == "largest":
            figures[f"{self.name}_faces"] = np.isfinite(figures[self.name]).astype(np.float64)
        else:
            worst = np.where(np.isfinite(match.similarity), match.similarity, np.inf).min(axis=1)
            figures[f"{self.name}_worst"] = np.where(np.isfinite(worst), worst, np.nan)
            figures[f"{self.name}_faces_missing"] = match.num_missing.astype(np.float64)
            figures[f"{self.name}_faces_extra"] = match.num_extra.astype(np.float64)
        faceless = int(np.isnan(figures[self.name]).sum())
        if self.num_frames is not None:
            figures = {name: mean_found(values) for name, values in figures.items()}
        reason = f"no face found in {faceless} of {len(faces)} frames"
        return Grades(figures, {name: reason for name, values in figures.items() if np.isnan(values).any()})

    def embed_references(self, clip: GradedClip) -> np.ndarray | str:
        """Embeddings [P, D] of the people that were given, or why there are none."""
        if clip.reference is not None:
            found = self.embed(clip.reference, clip.reference.first, np.zeros(1, np.int64))[0]
            return found if len(found) else "no face found in the reference picture"
        people = [
            self.embed(photo, photo.first, np.zeros(1, np.int64), largest=True)[0] for photo in clip.people
        ]
        faceless = [str(number) for number, each in enumerate(people, start=1) if not len(each)]
        return f"no face found in photo {', '.join(faceless)}" if faceless else np.concatenate(people)

    def _grade_by_frame(
        self, clip: GradedClip, chosen: np.ndarray
    ) -> Grades | Watch[tuple[Embeddings, Embeddings]]:
        """Similarity of each frame's face to that of the true frame."""
        truth = clip.truth
        if truth is None:
            return missing_grades(self.metrics, len(chosen), "no true frames are given")

        def see(chunk: Chunk) -> tuple[Embeddings, Embeddings]:
            return (
                self.embed_chunk(clip.pictures, chunk, chosen),
                self.embed_chunk(truth, chunk, chosen, true=True),
            )

        def conclude(seen: list[tuple[Embeddings, Embeddings]]) -> Grades:
            return self._compare_pairs(*(in_order(each, chosen) for each in zip(*seen, strict=True)))

        return Watch(see, conclude)

    def _compare_pairs(self, faces: list[np.ndarray], true_faces: list[np.ndarray]) -> Grades:
        pairs = zip(faces, true_faces, strict=True)
        cosines = [found[0] @ true[0] if len(found) and len(true) else np.nan for found, true in pairs]
        values = np.array(cosines, np.float64)
        reason = f"no face found in {int(np.isnan(values).sum())} of {len(faces)} frames or true frames"
        figure = values if self.num_frames is None else mean_found(values)
        return Grades({self.name: figure}, {self.name: reason} if np.isnan(figure).any() else {})

    def embed_chunk(
        self, pictures: Pictures, chunk: Chunk, chosen: np.ndarray, *, true: bool = False
    ) -> Embeddings:
        """Of those of the chosen frames that lie in a chunk, or of the true frames at their places.

        Args:
            pictures: whose frames they are, generated or true.
        """
        places = chunk.of(chosen)
        frames = chunk.truth if true else chunk.frames
        assert frames is not None
        if not len(places):
            return {}
        found = self.embed(pictures, frames[places - chunk.first], places)
        return dict(zip(places.tolist(), found, strict=True))

    def embed(
        self, pictures: Pictures, frames: Tensor, places: np.ndarray, *, largest: bool = False
    ) -> list[np.ndarray]:
        """Embeddings [M, D] of the faces that count in each of these frames, or of the `largest`.

        Args:
            pictures: whose frames they are.
            frames: uint8 [N, 3, H, W].
            places: int64 [N], theirs in the clip.
        """
        if self.recognizer is not None:
            of_largest = largest or self.people == "largest"
            return pictures.embed(self.recognizer, frames, places, largest=of_largest)
        nobody = np.zeros((0, pictures.backend.embedding_dim), np.float32)
        return [
            np.concatenate(
                [nobody, *(np.array(face.embedding, ndmin=2) for face in self._who_counts(found, largest))]
            )
            for found in find_faces([frames], pictures.backend, embed=True)
        ]

    def _who_counts(self, faces: tuple[Face, ...], largest: bool) -> tuple[Face, ...]:
        face = largest_face(faces)
        return faces if face is None or (self.people == "all" and not largest) else (face,)


_LOADED: WeakValueDictionary[tuple[str, str, str], FaceRecognizer] = WeakValueDictionary()


def _shared(kind: str, file: str) -> FaceRecognizer:
    """The network of a file, one for all graders that look with it at the same time."""
    key = kind, file, file_digest(file)
    recognizer = _LOADED.get(key)
    if recognizer is None:
        recognizer = _LOADED[key] = load_recognition(kind, file)
    return recognizer


def in_order(seen: Sequence[Embeddings], chosen: np.ndarray) -> list[np.ndarray]:
    """What was kept of all chunks, for each of the chosen frames, some of which may come again."""
    by_place = {place: found for kept in seen for place, found in kept.items()}
    return [by_place[place] for place in chosen.tolist()]
