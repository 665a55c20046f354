"""FID and KID of the frames of generated clips from true ones, or from photos: whole frames, or their
faces.
"""

from collections.abc import Mapping
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from portraitgen.faces.backend import largest_face
from portraitgen.metrics.face_crops import FACE_SIDE, upright_faces
from portraitgen.metrics.frame_choice import NUM_FRAMES, distinct_frames
from portraitgen.metrics.frames import is_still
from portraitgen.metrics.grader import Chunk, Fact, GradedClip, SetFigure
from portraitgen.metrics.graders.feature_sets import FeatureSets
from portraitgen.metrics.graders.weights import require, weights_facts
from portraitgen.metrics.last_seen import LastSeen, LastStill
from portraitgen.metrics.networks.inception import WEIGHTS, Resize, load_inception
from portraitgen.metrics.networks.inception_blocks import NUM_FEATURES
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.scores import TRUTH, MetricInfo

BATCH = 2
"""Pictures taken through the network at a time: its first maps are 5 MB a picture."""


class FidGrader:
    """Fréchet and kernel distance of Inception features between generated and true frames.

    FID is biased upwards at small N: between two samples of one distribution it is about 3400 at N = 100 and
    1000 at N = 2048 for unit variances. Compare only figures of one N; KID has no such bias.

    Args:
        weights: pt_inception-2015-12-05-6726825d.pth.
        resize: how pictures are brought to 299x299, a value of `inception.RESIZES`.
        crop: `frame` takes whole frames, `face` the largest face of each, upright at 224x224; frames without
            a face are left out and counted.
        against: `truth`, the true frames; `reference`, the photos of all clips, for generators that are
            given a face and words and have no truth. A photo counts once for each clip that it was given for.
        frames: so many frames of each clip, from the first to the last, all of a shorter clip, one of a
            picture; None takes all.
        kid_subset: frames in each subset of KID.

    Raises:
        ValueError: unknown settings, or a file that does not fit.
        MissingWeights: no weights file.
    """

    def __init__(
        self,
        weights: str | None = None,
        *,
        resize: Resize = "clean_fid",
        crop: Literal["frame", "face"] = "frame",
        against: Literal["truth", "reference"] = "truth",
        frames: int | None = NUM_FRAMES,
        kid_subset: int = 100,
    ) -> None:
        if crop not in ("frame", "face"):
            raise ValueError(f"crop must be 'frame' or 'face', got {crop!r}")
        if against not in ("truth", "reference"):
            raise ValueError(f"against must be 'truth' or 'reference', got {against!r}")
        path = require(weights, WEIGHTS, setting="weights")
        self.against = against
        self.network = load_inception(path, resize=resize)
        self.crop, self.num_frames = crop, frames
        self.sets = FeatureSets(NUM_FEATURES, kernel_subset=kid_subset)
        self._seen: LastSeen[Tensor] = LastSeen()
        self._still: WeakKeyDictionary[Pictures, LastStill[Tensor]] = WeakKeyDictionary()
        self.facts: dict[str, Fact] = {
            **weights_facts(path),
            "resize": resize,
            "crop": crop,
            "against": against,
            "frames": frames,
            "frames of shorter clips": "each once",
            "kid_subset": kid_subset,
        }
        of = "whole frames" if crop == "frame" else f"the largest faces, upright at {FACE_SIDE}x{FACE_SIDE}"
        how = f"of InceptionV3-2015 features of {of}, resized as {resize}"
        suffix, label = ("_face", " (faces)") if crop == "face" else ("", "")
        if against == "reference":
            suffix, label, how = (
                f"{suffix}_reference",
                f"{label}, references",
                f"{how}, from the reference pictures",
            )
        self.names = {"frechet": f"fid{suffix}", "kernel": f"kid{suffix}"}
        self.metrics = {
            f"fid{suffix}": MetricInfo(f"FID{label}", "", 2, False, f"Fréchet distance {how}", "set"),
            f"kid{suffix}": MetricInfo(f"KID{label}", "", 4, False, f"kernel distance (cubic) {how}", "set"),
        }

    def add(self, clip: GradedClip, chunk: Chunk) -> None:
        """Take frames of a clip, and what it is held against where there is that."""
        if clip.method == TRUTH:
            return
        places = chunk.of(self._chosen(len(clip.pictures)))
        here = places - chunk.first
        real: list[Tensor] = []
        if self.against == "truth" and clip.truth is not None and chunk.truth is not None:
            real = [self._features(clip.truth, chunk.truth[here], places)]
        elif self.against == "reference":
            photos = [photo for photo in (clip.reference, *clip.people) if photo is not None]
            first = np.zeros(0 if chunk.first else 1, np.int64)  # each photo once
            real = [self._features(photo, photo.first[: len(first)], first) for photo in photos]
        if not real:
            return
        generated = self._features(clip.pictures, chunk.frames[here], places)
        self.sets.add(clip.method, generated, torch.cat(real), missing=len(places) - len(generated))

    def compute(self, method: str) -> Mapping[str, SetFigure]:
        """`fid` and `kid`; the truth has none."""
        if method == TRUTH:
            return {}
        return {self.names[name]: figure for name, figure in self.sets.compute(method).items()}

    def _chosen(self, count: int) -> np.ndarray:
        return np.arange(count) if self.num_frames is None else distinct_frames(count, self.num_frames)

    @torch.no_grad()
    def _features(self, pictures: Pictures, frames: Tensor, places: np.ndarray) -> Tensor:
        """Features [M, 2048] of those of the frames [N, 3, H, W] of a clip that have what is looked at."""

        def look() -> Tensor:
            images = frames.to(next(self.network.parameters()).device)
            if self.crop == "face" and len(places):
                images = upright_faces(images, [largest_face(pictures.faces[place]) for place in places])
            if len(images) == 1 or is_still(images):
                still = self._still.setdefault(pictures, LastStill())
                one = still.of(images[:1], lambda: self.network(images[:1]))
                return one.expand(len(images), -1)
            nothing = images.new_zeros(0, NUM_FEATURES).float()
            found = [self.network(few) for few in images.split(BATCH) if len(few)]
            return torch.cat([nothing, *found])

        return self._seen.of(pictures, int(places[0]) if len(places) else -1, look)
