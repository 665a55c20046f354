"""PSNR and SSIM of each frame against the true frame."""

from collections.abc import Mapping

import torch
from torch import Tensor

from portraitgen.metrics.grader import Chunk, Fact, GradedClip, Watch
from portraitgen.metrics.quality import MAX_PSNR, SsimBorder, frame_psnr, frame_ssim
from portraitgen.metrics.scores import TRUTH, Grades, MetricInfo, missing_grades

_BORDERS: Mapping[str, str] = {
    "valid": "windows within the frame alone",
    "reflected": "the frame mirrored at its borders",
}


def _describe(border: str) -> dict[str, MetricInfo]:
    """Both figures, with the windows that SSIM is averaged over."""
    return {
        "psnr": MetricInfo(
            "PSNR",
            " dB",
            2,
            True,
            "peak signal-to-noise ratio of each 8-bit RGB frame against the true frame (peak 255, all pixels "
            f"and channels, at most {MAX_PSNR:.0f} dB), mean over frames",
        ),
        "ssim": MetricInfo(
            "SSIM",
            "",
            3,
            True,
            "structural similarity of each 8-bit RGB frame (Gaussian window of 11 pixels, sigma 1.5, "
            f"{_BORDERS[border]}, mean of the three channels), mean over frames",
        ),
    }


METRICS = _describe("valid")


class PixelGrader:
    """Figures that compare pixels with those of the truth; the truth itself has none.

    Args:
        ssim_border: `valid`, as Wang's own code; or `reflected`, as torchmetrics.

    Raises:
        ValueError: an unknown border.
    """

    def __init__(self, *, ssim_border: SsimBorder = "valid") -> None:
        if ssim_border not in _BORDERS:
            raise ValueError(f"ssim_border must be one of {', '.join(_BORDERS)}, got {ssim_border!r}")
        self.ssim_border: SsimBorder = ssim_border
        self.metrics = _describe(ssim_border)
        self.facts: dict[str, Fact] = {"SSIM border": ssim_border}

    def grade(self, clip: GradedClip) -> Grades | Watch[tuple[Tensor, Tensor]]:
        """PSNR in dB and SSIM of every frame."""
        if clip.method == TRUTH:
            return Grades({}, {})
        if clip.truth is None:
            return missing_grades(METRICS, len(clip.pictures), "no true frames are given")
        return Watch(self._see, _conclude)

    def _see(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        assert chunk.truth is not None
        ssim = frame_ssim(chunk.frames, chunk.truth, border=self.ssim_border)
        return frame_psnr(chunk.frames, chunk.truth), ssim


def _conclude(seen: list[tuple[Tensor, Tensor]]) -> Grades:
    psnr, ssim = (torch.cat(values).cpu().numpy() for values in zip(*seen, strict=True))
    return Grades({"psnr": psnr, "ssim": ssim}, {})
