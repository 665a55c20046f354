"""Does the clip show what its text says, and what its reference picture shows: CLIP's judgement."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from portraitgen.media.public_weights import file_digest
from portraitgen.metrics.clip_weights import CLIP_WEIGHTS
from portraitgen.metrics.consisid import to_bgr
from portraitgen.metrics.frame_choice import NUM_FRAMES, strided_frames
from portraitgen.metrics.grader import Chunk, Fact, GradedClip, MissingWeights, Watch
from portraitgen.metrics.scores import Grades, MetricInfo

_Scores: TypeAlias = dict[str, dict[int, Tensor]]
"""Figure -> place of a frame in its clip -> value, or a value for each person."""
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

    def grade(self, clip: GradedClip) -> Grades | Watch[_Scores]:
        """The figures of a clip that has a prompt, or a reference picture."""
        wanted = self._lacking(clip)
        reasons = {name: why for name, why in wanted.items() if why is not None}
        if len(reasons) == len(self.metrics):
            return Grades(dict.fromkeys(self.metrics, np.array(np.nan)), reasons)
        chosen = strided_frames(len(clip.pictures))
        text = None if self.text in reasons else self.scorer.embed_text(clip.prompt or "")
        people = clip.people if clip.reference is None else (clip.reference,)
        people = people if "clip_image" in wanted else ()
        photos = [self.scorer.embed_pictures(photo.first)[0] for photo in people]

        def see(chunk: Chunk) -> _Scores:
            places = chunk.of(chosen)
            if not len(places):
                return {}
            here = places - chunk.first
            frames = chunk.frames[here]
            pictures = self.scorer.embed_pictures(to_bgr(frames) if self.bgr else frames)
            found = {}
            if text is not None:
                found[self.text] = self.scorer.logits(pictures, text)
            if photos:
                found["clip_image"] = torch.stack([pictures @ photo for photo in photos], dim=1)
            if "clip_image_truth" in wanted and chunk.truth is not None:
                true = self.scorer.embed_pictures(chunk.truth[here])
                found["clip_image_truth"] = (pictures * true).sum(dim=-1)
            return {
                name: dict(zip(places.tolist(), values.double(), strict=True))
                for name, values in found.items()
            }

        def conclude(seen: list[_Scores]) -> Grades:
            scores = dict.fromkeys(self.metrics, np.array(np.nan))
            for name in self.metrics:
                by_place = {place: value for kept in seen for place, value in kept.get(name, {}).items()}
                if by_place:
                    values = torch.stack([by_place[place] for place in chosen.tolist()])
                    scores[name] = values.mean().cpu().numpy()
            return Grades(scores, reasons)

        return Watch(see, conclude)

    def _lacking(self, clip: GradedClip) -> dict[str, str | None]:
        """Figure -> why it cannot be taken, or None."""
        nobody = clip.reference is None and not clip.people
        why = {
            self.text: "no prompt" if clip.prompt is None else None,
            "clip_image": "no reference picture" if nobody else None,
            "clip_image_truth": "no true frames are given" if clip.truth is None else None,
        }
        return {name: why[name] for name in self.metrics}
