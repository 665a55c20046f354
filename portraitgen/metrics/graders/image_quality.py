"""Image quality by Q-Align, from logits that its own code has written."""

from collections.abc import Mapping
from pathlib import Path

import torch

from portraitgen.media.bounded import read_array
from portraitgen.metrics.grader import Fact, GradedClip, MissingWeights
from portraitgen.metrics.image_quality import WORDS, quality_score
from portraitgen.metrics.scores import GENERATED, Grades, MetricInfo, missing_grades

METRICS = {
    "iqa": MetricInfo(
        "IQA (Q-Align)",
        "",
        3,
        True,
        f"Q-Align's opinion score from 1 to 5 of each frame, from the logits of {', '.join(WORDS)}",
    )
}


class ImageQualityGrader:
    """Q-Align's score of each frame of a generated clip.

    q-future/one-align is a language model of 7 billion parameters whose code comes with its weights;
    programs out of weights folders are not run here. So its logits are read from files.

    Args:
        logits: folder with `<video>.npy`, float [T, 5] in the order excellent, good, fair, poor, bad.

    Raises:
        MissingWeights: no such folder.
    """

    metrics = METRICS
    facts: Mapping[str, Fact] = {"logits": "Q-Align, precomputed"}

    def __init__(self, logits: str | None = None) -> None:
        if logits is None or not Path(logits).is_dir():
            raise MissingWeights(
                logits,
                file="a folder of <video>.npy logits",
                origin="huggingface.co/q-future/one-align run on your videos",
                licence="S-Lab, non-commercial",
                setting="logits",
            )
        self.folder = Path(logits)

    def grade(self, clip: GradedClip) -> Grades:
        """`iqa` of every frame of a generated clip; other methods have none.

        Raises:
            ValueError: a file that holds something else.
        """
        if clip.method != GENERATED:
            return Grades({}, {})
        count, path = len(clip.pictures), self.folder / f"{clip.video}.npy"
        if Path(clip.video).name != clip.video or not path.is_file():
            return missing_grades(METRICS, count, f"no {clip.video}.npy in {self.folder}")
        try:
            logits = read_array(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as an array of logits: {error}") from error
        if logits.shape != (count, len(WORDS)):
            raise ValueError(f"{path}: expected logits [{count}, {len(WORDS)}], got {list(logits.shape)}")
        return Grades({"iqa": quality_score(torch.from_numpy(logits)).numpy()}, {})
