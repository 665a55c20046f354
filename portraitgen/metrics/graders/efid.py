"""E-FID: how far generated expressions are from true ones, from files of coefficients."""

from collections.abc import Mapping
from pathlib import Path

import torch

from portraitgen.metrics.expression_files import NUM_EXPRESSION, find_coefficients, read_expression
from portraitgen.metrics.grader import Chunk, Fact, GradedClip, MissingWeights, SetFigure
from portraitgen.metrics.graders.feature_sets import FeatureSets
from portraitgen.metrics.scores import GENERATED, MetricInfo

METRICS = {
    "efid_deep3d": MetricInfo(
        "E-FID (Deep3D)",
        "",
        3,
        False,
        "Fréchet distance of the 64 expression coefficients [80:144] of Deep3DFaceRecon of all frames",
        "set",
    )
}


class EfidGrader:
    """Fréchet distance of the 64 expression coefficients of Deep3DFaceRecon, from precomputed files.

    Its face model (BFM) needs a registration, so the coefficients are not computed here. E-FIDs of other
    papers use other face models (trackers, Inception features): the figure is called `efid_deep3d` and is
    comparable only with itself.

    Args:
        generated: folder with `<video>.npy` or `<video>.mat` of each generated video.
        real: the same of the true videos.

    Raises:
        MissingWeights: a folder is not there.
    """

    metrics = METRICS
    facts: Mapping[str, Fact] = {"coefficients": "Deep3DFaceRecon [80:144], precomputed"}

    def __init__(self, generated: str | None = None, real: str | None = None) -> None:
        folders = {"generated": generated, "real": real}
        for setting, folder in folders.items():
            if folder is None or not Path(folder).is_dir():
                raise MissingWeights(
                    folder,
                    file="a folder of <video>.npy or .mat coefficients",
                    origin="sicxu/Deep3DFaceRecon_pytorch run on your videos",
                    licence="MIT; its face model BFM: non-commercial, by registration",
                    setting=setting,
                )
        self.generated, self.real = Path(str(generated)), Path(str(real))
        self.sets = FeatureSets(NUM_EXPRESSION)

    def add(self, clip: GradedClip, chunk: Chunk) -> None:
        """Read the coefficients of a generated clip and of its truth; without both it counts as missing."""
        if clip.method != GENERATED or chunk.first:
            return
        paths = [find_coefficients(folder, clip.video) for folder in (self.generated, self.real)]
        if None in paths:
            nothing = torch.zeros(0, NUM_EXPRESSION)
            self.sets.add(GENERATED, nothing, nothing, missing=1)
        else:
            generated, real = (read_expression(path) for path in paths if path is not None)
            self.sets.add(GENERATED, generated, real)

    def compute(self, method: str) -> Mapping[str, SetFigure]:
        """`efid_deep3d` of the generated clips."""
        return {"efid_deep3d": self.sets.compute(method)["frechet"]} if method == GENERATED else {}
