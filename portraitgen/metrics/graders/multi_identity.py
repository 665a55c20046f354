"""Are all of the people there, each once and each themselves: pictures of one person or several."""

from collections.abc import Mapping

import numpy as np

from portraitgen.metrics.copy_paste import copy_paste
from portraitgen.metrics.frame_choice import NUM_FRAMES, spread_frames
from portraitgen.metrics.grader import Chunk, Fact, GradedClip, Watch
from portraitgen.metrics.graders.identity import Embeddings, IdentityGrader, in_order
from portraitgen.metrics.identity import match_identities, mean_found
from portraitgen.metrics.scores import Grades, MetricInfo, missing_grades

_NO_TRUTH = "no true picture is given"


class MultiIdentityGrader:
    """Likeness of each person of the references to their face in the picture, and to the true one.

    Faces are given to people one to one so that the sum of cosines is largest (Hungarian); FastComposer's
    script takes pairs greedily, which for two people seldom differs and is never more alike.

    SimRef alone rewards copies of the reference; SimGT, likeness to the true picture of the same person,
    does not. Where both are known they stand side by side, and `copy_paste` says which one is nearer.

    Args:
        recognizer, weights, frames: see `IdentityGrader`.

    Raises:
        ValueError, MissingWeights: as `IdentityGrader`.
    """

    def __init__(
        self, recognizer: str = "dlib", *, weights: str | None = None, frames: int = NUM_FRAMES
    ) -> None:
        self.identity = IdentityGrader(recognizer, weights=weights, frames=frames, people="all")
        self.num_frames = frames
        self.facts: Mapping[str, Fact] = self.identity.facts
        by = f"by {recognizer}"
        self.name = name = recognizer
        label = f"({recognizer})"
        text = f"cosine {by} of each person's face, matched one to one, and"
        self.metrics = {
            f"sim_ref_{name}": MetricInfo(
                f"SimRef {label}", "", 3, True, f"{text} the reference; mean over people found", "clip"
            ),
            f"sim_ref_min_{name}": MetricInfo(
                f"SimRef, least {label}",
                "",
                3,
                True,
                f"{text} the reference; the least of all people, 0 where one has no face or it is below 0",
                "clip",
            ),
            f"sim_gt_{name}": MetricInfo(
                f"SimGT {label}",
                "",
                3,
                True,
                f"{text} that of the true picture; mean over people found",
                "clip",
            ),
            f"copy_paste_{name}": MetricInfo(
                f"Copy-paste {label}",
                "",
                3,
                False,
                f"(θ_gt − θ_gr) / θ_tr of angles {by}: 1 a copy of the reference, -1 of the true picture",
                "clip",
            ),
            f"people_missing_{name}": MetricInfo(
                f"People missing {label}", "", 2, False, "people of the references without a face", "clip"
            ),
            f"people_extra_{name}": MetricInfo(
                f"Faces too many {label}", "", 2, False, "faces beyond the people of the references", "clip"
            ),
        }

    def grade(self, clip: GradedClip) -> Grades | Watch[tuple[Embeddings, Embeddings]]:
        """Means over the frames looked at; a picture is one frame."""
        if clip.reference is None and not clip.people:
            return missing_grades(self.metrics, 1, "no reference picture")
        references = self.identity.embed_references(clip)
        if isinstance(references, str):
            return missing_grades(self.metrics, 1, references)
        count, truth = len(clip.pictures), clip.truth
        chosen = np.arange(count) if count <= self.num_frames else spread_frames(count, self.num_frames)

        def see(chunk: Chunk) -> tuple[Embeddings, Embeddings]:
            true = {} if truth is None else self.identity.embed_chunk(truth, chunk, chosen, true=True)
            return self.identity.embed_chunk(clip.pictures, chunk, chosen), true

        def conclude(seen: list[tuple[Embeddings, Embeddings]]) -> Grades:
            shown, true = zip(*seen, strict=True)
            return self._compare(
                references,
                in_order(shown, chosen),
                None if truth is None else in_order(true, chosen),
            )

        return Watch(see, conclude)

    def _compare(
        self, references: np.ndarray, faces: list[np.ndarray], true_faces: list[np.ndarray] | None
    ) -> Grades:
        """Figures from embeddings [P, D] of the references, and [M, D] of each frame and true frame."""
        match = match_identities(references, faces)
        least = np.nan_to_num(match.similarity, nan=0.0).min(axis=1).clip(min=0)
        shown = f"no face found in {int(np.isnan(match.similarity).all(axis=1).sum())} of {len(faces)} frames"
        values = {
            "sim_ref": (mean_found(match.similarity), shown),
            "sim_ref_min": (least, ""),
            "people_missing": (match.num_missing.astype(np.float64), ""),
            "people_extra": (match.num_extra.astype(np.float64), ""),
            "sim_gt": (np.full(1, np.nan), _NO_TRUTH),
            "copy_paste": (np.full(1, np.nan), _NO_TRUTH),
        }
        if true_faces is not None:
            true = match_identities(references, true_faces).embeddings
            alike = (match.embeddings * true).sum(axis=-1)
            values["sim_gt"] = mean_found(alike), "no person has a face both here and in the true picture"
            copied = copy_paste(match.embeddings, true, np.broadcast_to(references, true.shape))
            values["copy_paste"] = (
                mean_found(copied),
                "the references are the true picture itself"
                if np.isfinite(alike).any()
                else "no person has a face both here and in the true picture",
            )
        name = self.name
        means = {f"{figure}_{name}": mean_found(each) for figure, (each, _) in values.items()}
        reasons = {f"{figure}_{name}": reason for figure, (_, reason) in values.items()}
        return Grades(means, {figure: reasons[figure] for figure, value in means.items() if np.isnan(value)})
