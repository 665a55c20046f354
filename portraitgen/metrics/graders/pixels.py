"""PSNR and SSIM of each frame against the true frame."""

from collections.abc import Mapping

from portraitgen.metrics.grader import Fact, GradedClip
from portraitgen.metrics.quality import MAX_PSNR, frame_psnr, frame_ssim
from portraitgen.metrics.scores import TRUTH, Grades, MetricInfo, missing_grades

METRICS = {
    "psnr": MetricInfo(
        "PSNR",
        " dB",
        2,
        True,
        "peak signal-to-noise ratio of each 8-bit RGB frame against the true frame (peak 255, all pixels and "
        f"channels, at most {MAX_PSNR:.0f} dB), mean over frames",
    ),
    "ssim": MetricInfo(
        "SSIM",
        "",
        3,
        True,
        "structural similarity of each 8-bit RGB frame (Gaussian window of 11 pixels, sigma 1.5, mean of the "
        "three channels), mean over frames",
    ),
}


class PixelGrader:
    """Figures that compare pixels with those of the truth; the truth itself has none."""

    metrics = METRICS
    facts: Mapping[str, Fact] = {}

    def grade(self, clip: GradedClip) -> Grades:
        """PSNR in dB and SSIM of every frame."""
        if clip.method == TRUTH:
            return Grades({}, {})
        if clip.truth is None:
            return missing_grades(METRICS, len(clip.pictures.frames), "no true frames are given")
        shown, true = clip.pictures.frames, clip.truth.frames
        return Grades(
            {"psnr": frame_psnr(shown, true).cpu().numpy(), "ssim": frame_ssim(shown, true).cpu().numpy()}, {}
        )
