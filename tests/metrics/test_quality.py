import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from portraitgen.metrics.quality import CHUNK, MAX_PSNR, frame_psnr, frame_ssim


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


def test_ssim_is_its_formula_in_every_frame(clips):
    generated, truth = clips

    def blur(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, sigma=1.5, truncate=3.5, mode="mirror", axes=(-2, -1))

    a, b = generated.numpy().astype(float), truth.numpy().astype(float)
    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    np.testing.assert_allclose(
        frame_ssim(generated, truth).numpy(), similarity.mean(axis=(1, 2, 3)), rtol=1e-6
    )


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
    assert len(together) > CHUNK, "the clip must be longer than a chunk"
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
