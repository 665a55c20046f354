"""Does the clip show what its text says, and what its reference picture shows: CLIP's judgement."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

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
        truth: compare the pictures also with the true frames at their places, where there are any.
        consisid_compat: show red and blue exchanged to CLIP, as ConsisID's script does by mistake; the
            figure is then called so.

    Raises:
        ValueError: a folder without a CLIP model.
        MissingWeights: no such folder.
    """

    def __init__(
        self,
        weights: str | None = None,
        *,
        consisid_compat: bool = False,
        truth: bool = False,
    ) -> None:
        folder = Path("" if weights is None else weights).expanduser()
        files = [folder / name for name in _WEIGHT_FILES if (folder / name).is_file()]
        if weights is None or not files:
            # A setting that names one of OpenAI's models means that one.
            named = folder.name.startswith("clip-vit-")
            raise MissingWeights(
                weights,
                file=f"the folder of {folder.name}" if named else CLIP_WEIGHTS.name,
                origin=f"huggingface.co/openai/{folder.name}" if named else CLIP_WEIGHTS.source,
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
            text = (
                "cosine of CLIP's embeddings with the reference picture, or of several people the mean over "
                f"theirs, {how}"
            )
            self.metrics["clip_image"] = MetricInfo("CLIP-I", "", 3, True, text, "clip")
            if truth:
                text = f"cosine of CLIP's embeddings with the true frame at the same place {how}"
                self.metrics["clip_image_truth"] = MetricInfo("CLIP-I, truth", "", 3, True, text, "clip")

    def grade(self, clip: GradedClip) -> Grades:
        """The figures of a clip that has a prompt, or a reference picture."""
        chosen = strided_frames(len(clip.pictures.frames))
        frames = clip.pictures.frames[chosen]
        scores = dict.fromkeys(self.metrics, np.array(np.nan))
        reasons = {}
        if clip.prompt is None:
            reasons[self.text] = "no prompt"
        else:
            texts = self.scorer.text_scores(frames, clip.prompt, bgr=self.bgr)
            scores[self.text] = texts.double().mean().cpu().numpy()
        photos = clip.people if clip.reference is None else (clip.reference,)
        if "clip_image" in scores and photos:
            likeness = [self.scorer.picture_scores(frames, photo.frames[0]).double() for photo in photos]
            scores["clip_image"] = torch.stack(likeness).mean().cpu().numpy()
        elif "clip_image" in scores:
            reasons["clip_image"] = "no reference picture"
        if "clip_image_truth" in scores and clip.truth is not None:
            likeness_to_truth = self.scorer.pair_scores(frames, clip.truth.frames[chosen])
            scores["clip_image_truth"] = likeness_to_truth.double().mean().cpu().numpy()
        elif "clip_image_truth" in scores:
            reasons["clip_image_truth"] = "no true frames are given"
        return Grades(scores, reasons)
