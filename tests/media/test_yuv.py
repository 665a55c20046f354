"""The device-side colour conversion agrees with swscale and takes any leading dimensions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from portraitgen.media.decode import read_video
from portraitgen.media.encode import encode_clip
from portraitgen.media.gop import GopDecoder
from portraitgen.media.yuv import rgb_to_uint8, yuv420_to_rgb


@pytest.fixture(scope="module")
def clip(carphone: Path) -> bytes:
    return encode_clip(read_video(carphone)[:24], fps=25)


@pytest.fixture(scope="module")
def planes(clip: bytes) -> torch.Tensor:
    return torch.from_numpy(GopDecoder().decode_yuv420(clip, start=0, count=24))


def test_within_three_levels_of_swscale(clip: bytes, planes: torch.Tensor) -> None:
    images = rgb_to_uint8(yuv420_to_rgb(planes)).permute(0, 2, 3, 1).numpy().astype(int)
    difference = np.abs(images - read_video(clip))
    assert difference.max() <= 3
    assert difference.mean() < 1.2


def test_any_leading_dimensions(planes: torch.Tensor) -> None:
    flat = yuv420_to_rgb(planes)
    assert flat.shape == (24, 3, 144, 192)
    torch.testing.assert_close(yuv420_to_rgb(planes.view(2, 3, 4, 216, 192)), flat.view(2, 3, 4, 3, 144, 192))
    torch.testing.assert_close(yuv420_to_rgb(planes[5]), flat[5])
    assert yuv420_to_rgb(planes[:0]).shape == (0, 3, 144, 192)


def test_every_pixel_has_its_own_luma_and_its_blocks_chroma() -> None:
    """By the formulas of BT.601, one pixel at a time."""
    generator = torch.Generator().manual_seed(0)
    planes = torch.randint(0, 256, (6 * 3 // 2, 8), dtype=torch.uint8, generator=generator)
    u, v = planes[6:].reshape(2, 3, 4).double() - 128
    result = yuv420_to_rgb(planes)
    for row in range(6):
        for column in range(8):
            luma = (planes[row, column].double() - 16) / 219
            cb, cr = u[row // 2, column // 2] / 224, v[row // 2, column // 2] / 224
            rgb = torch.stack([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb])
            expected = (rgb * 2 - 1).clamp(-1, 1).float()
            torch.testing.assert_close(result[:, row, column], expected, atol=1e-5, rtol=0)


def test_range_and_dtype(planes: torch.Tensor) -> None:
    black_and_white = torch.full((2, 6, 4), 128, dtype=torch.uint8)
    black_and_white[0, :4], black_and_white[1, :4] = 16, 235
    images = yuv420_to_rgb(black_and_white)
    torch.testing.assert_close(images[0], -torch.ones(3, 4, 4))
    torch.testing.assert_close(images[1], torch.ones(3, 4, 4))
    half = yuv420_to_rgb(planes, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, yuv420_to_rgb(planes).bfloat16())


def test_bytes_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    torch.testing.assert_close(rgb_to_uint8(levels.float() / 127.5 - 1), levels)
    assert rgb_to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_wrong_planes_are_refused(planes: torch.Tensor) -> None:
    for wrong in (planes.float(), planes[:, :-1], planes[:, :, :-1]):
        with pytest.raises(ValueError, match="uint8"):
            yuv420_to_rgb(wrong)
