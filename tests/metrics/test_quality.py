import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from portraitgen.metrics.graders.pixels import PixelGrader
from portraitgen.metrics.quality import MAX_PSNR, frame_psnr, frame_ssim


@pytest.fixture
def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth pictures and noisier and noisier versions of them, uint8 [20, 3, 24, 32]."""
    ramp = torch.linspace(0, 6, 32).sin() * torch.linspace(0, 4, 24)[:, None].cos()
    truth = (127.5 + 100 * ramp).expand(20, 3, 24, 32)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    noisy = truth + noise * torch.arange(1, 21).view(-1, 1, 1, 1)
    return noisy.clamp(0, 255).round().to(torch.uint8), truth.round().to(torch.uint8)


def test_psnr_is_its_formula_in_every_frame(clips):
    generated, truth = clips
    squared = (generated.numpy().astype(float) - truth.numpy()) ** 2
    expected = 10 * np.log10(255**2 / squared.mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(frame_psnr(generated, truth).numpy(), expected, rtol=1e-6)
    assert frame_psnr(generated, truth).diff().lt(0).all(), "more noise must be worse"


@pytest.mark.parametrize("border", ["valid", "reflected"])
def test_ssim_is_its_formula_in_every_frame(clips, border):
    """Weighted moments under each window of Wang's paper, one window after the other."""
    generated, truth = (clip[::7].numpy().astype(float) for clip in clips)
    steps = np.arange(-5, 6)
    weights = np.exp(-(steps**2 + steps[:, None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    if border == "reflected":
        beyond = ((0, 0), (0, 0), (5, 5), (5, 5))
        generated, truth = (np.pad(frames, beyond, mode="reflect") for frames in (generated, truth))
    a, b = (sliding_window_view(frames, (11, 11), axis=(-2, -1)) for frames in (generated, truth))

    def mean(values: np.ndarray) -> np.ndarray:
        return (values * weights).sum(axis=(-2, -1))

    mean_a, mean_b = mean(a), mean(b)
    centred_a, centred_b = a - mean_a[..., None, None], b - mean_b[..., None, None]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * mean(centred_a * centred_b) + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (mean(centred_a**2) + mean(centred_b**2) + c2)
    found = frame_ssim(clips[0][::7], clips[1][::7], border=border).numpy()
    np.testing.assert_allclose(found, similarity.mean(axis=(1, 2, 3)), rtol=0, atol=1e-11)


def test_ssim_is_that_of_scikit_image():
    """It averages without the border of 5 pixels, too; its Gaussian window is this one."""
    skimage = pytest.importorskip("skimage.metrics")
    truth = torch.randint(0, 256, (2, 3, 60, 80), generator=torch.Generator().manual_seed(0))
    generated = (truth * 0.7 + 30).byte()
    expected = [
        skimage.structural_similarity(
            *(picture.movedim(0, -1).numpy() for picture in pair),
            channel_axis=-1,
            gaussian_weights=True,
            use_sample_covariance=False,
            data_range=255,
        )
        for pair in zip(generated, truth.byte(), strict=True)
    ]
    np.testing.assert_allclose(frame_ssim(generated, truth.byte()).numpy(), expected, rtol=0, atol=1e-12)


def test_the_borders_of_a_small_frame_make_a_difference(clips):
    valid, reflected = (frame_ssim(*clips, border=border) for border in ("valid", "reflected"))
    assert (valid - reflected).abs().max() > 0.02
    assert (
        PixelGrader().metrics["ssim"].definition
        != PixelGrader(ssim_border="reflected").metrics["ssim"].definition
    )
    with pytest.raises(ValueError, match="ssim_border must be one of valid, reflected, got 'padded'"):
        PixelGrader(ssim_border="padded")
    with pytest.raises(ValueError, match="border must be one of valid, reflected, got 'padded'"):
        frame_ssim(*clips, border="padded")


def test_ssim_of_a_longer_clip_needs_no_more_memory():
    """A process of its own, as the highest memory of one never comes down."""
    code = """if True:
        import torch
        from portraitgen.metrics.quality import frame_ssim
        from tests.peak_memory import peak_memory
        def peak(count):
            frame = torch.randint(0, 255, (1, 3, 256, 256), dtype=torch.uint8)
            frame_ssim(frame.expand(count, -1, -1, -1), frame.flip(-1).expand(count, -1, -1, -1))
            return peak_memory()
        few = peak(2)
        print(peak(40) - few)"""
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 10_000_000, "38 frames are 7.5 MB as 8 bits"


def test_squared_errors_of_large_frames_are_summed_exactly():
    """More than 32 bits hold, and more columns than OpenCV takes for channels."""
    black = torch.zeros(1, 3, 700, 1100, dtype=torch.uint8)
    white = torch.full_like(black, 255)
    assert frame_psnr(black, white).tolist() == [0.0]
    assert frame_psnr(black.movedim(1, -1).contiguous().movedim(-1, 1), white).tolist() == [0.0]
    white[0, 0, 0, 0] = 254
    expected = 10 * np.log10(255**2 * 2_310_000 / (255**2 * 2_309_999 + 254**2))
    np.testing.assert_allclose(frame_psnr(black, white).numpy(), [expected], rtol=1e-6)


def test_identical_frames_are_perfect_and_finite(clips):
    _, truth = clips
    assert frame_psnr(truth, truth).eq(MAX_PSNR).all()
    torch.testing.assert_close(frame_ssim(truth, truth), torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize("score", [frame_psnr, frame_ssim])
def test_float_frames_score_as_the_file_that_is_written(clips, score):
    generated, truth = clips
    as_float = generated / 127.5 - 1
    assert torch.equal(score(as_float + 0.003, truth), score(generated, truth))


@pytest.mark.parametrize("score", [frame_psnr, frame_ssim])
def test_a_frame_scores_the_same_alone_and_among_others(clips, score):
    generated, truth = clips
    together = score(generated, truth)
    alone = torch.cat([score(generated[i : i + 1], truth[i : i + 1]) for i in range(20)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)


def test_wrong_input_is_named(clips):
    generated, truth = clips
    with pytest.raises(ValueError, match=r"one shape, got \[19, 3, 24, 32\] and \[20, 3, 24, 32\]"):
        frame_psnr(generated[1:], truth)
    with pytest.raises(ValueError, match="at least 11 pixels a side, got 32x10"):
        frame_ssim(generated[:, :, :10], truth[:, :, :10])
    with pytest.raises(ValueError, match="generated frames: some values are NaN or infinite"):
        frame_psnr(torch.full(truth.shape, torch.nan), truth)
    with pytest.raises(
        ValueError, match=r"generated frames: expected uint8 or floating point .* torch.int64"
    ):
        frame_psnr(generated.long(), truth)
    with pytest.raises(ValueError, match=r"generated frames: expected RGB frames"):
        frame_psnr(generated[:, :2], truth[:, :2])
