"""Does the clip show what its text says, and what its reference picture shows: CLIP's judgement."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from portraitgen.media.public_weights import file_digest
from portraitgen.metrics.clip_weights import CLIP_WEIGHTS
from portraitgen.metrics.frame_choice import NUM_FRAMES, strided_frames
from portraitgen.metrics.grader import Fact, GradedClip, MissingWeights
from portraitgen.metrics.scores import Grades, MetricInfo

_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Where transformers finds the weights in a folder, in its order."""


class ClipGrader:
    """CLIPScore of a clip with its prompt, and likeness of a clip to its reference picture.

    Args:
        weights: folder of a CLIP model with its tokenizer; the published figures use ViT-B/32.
        consisid_compat: show red and blue exchanged to CLIP, as ConsisID's script does by mistake; the
            figure is then called so.

    Raises:
        ValueError: a folder without a CLIP model.
        MissingWeights: no such folder.
    """

    def __init__(self, weights: str | None = None, *, consisid_compat: bool = False) -> None:
        folder = Path("" if weights is None else weights).expanduser()
        files = [folder / name for name in _WEIGHT_FILES if (folder / name).is_file()]
        if weights is None or not files:
            raise MissingWeights(
                weights,
                file=CLIP_WEIGHTS.name,
                origin=CLIP_WEIGHTS.source,
                licence=CLIP_WEIGHTS.licence,
                setting="weights",
            )
        # transformers takes seconds to import, and a configuration is checked without it.
        from portraitgen.metrics.clip_score import load_clip

        self.scorer = load_clip(folder)
        self.bgr = consisid_compat
        self.facts: Mapping[str, Fact] = {
            "weights": folder.name,
            "weights sha256": file_digest(files[0]),
            "frames": NUM_FRAMES,
            "channels": "BGR, as ConsisID" if consisid_compat else "RGB",
        }
        how = f"of {NUM_FRAMES} frames ⌊i·T/{NUM_FRAMES}⌋, mean"
        self.text = "consisid_compat_clip_text" if consisid_compat else "clip_text"
        self.metrics = {
            self.text: MetricInfo(
                "CLIPScore" + (" (ConsisID's, BGR)" if consisid_compat else ""),
                "",
                2,
                True,
                f"100 times the cosine of CLIP's picture and text embeddings (its logit scale) {how}",
                "clip",
            )
        }
        if not consisid_compat:
            self.metrics["clip_image"] = MetricInfo(
                "CLIP-I", "", 3, True, f"cosine of CLIP's embeddings with the reference picture {how}", "clip"
            )

    def grade(self, clip: GradedClip) -> Grades:
        """The figures of a clip that has a prompt, or a reference picture."""
        frames = clip.pictures.frames[strided_frames(len(clip.pictures.frames))]
        scores = dict.fromkeys(self.metrics, np.array(np.nan))
        reasons = {}
        if clip.prompt is None:
            reasons[self.text] = "no prompt"
        else:
            texts = self.scorer.text_scores(frames, clip.prompt, bgr=self.bgr)
            scores[self.text] = texts.double().mean().cpu().numpy()
        if not self.bgr and clip.reference is None:
            reasons["clip_image"] = "no reference picture"
        elif not self.bgr and clip.reference is not None:
            likeness = self.scorer.picture_scores(frames, clip.reference.frames[0])
            scores["clip_image"] = likeness.double().mean().cpu().numpy()
        return Grades(scores, reasons)
