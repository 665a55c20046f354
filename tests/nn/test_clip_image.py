"""The CLIP image encoder takes pictures in [-1, 1] and agrees with transformers' own preprocessing."""

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil

from portraitgen.nn.clip_image import ClipImageEncoder
from tests.tiny_clip import tiny_clip


@pytest.fixture
def encoder() -> ClipImageEncoder:
    return ClipImageEncoder(tiny_clip())


def test_agrees_with_the_processor_of_transformers(encoder: ClipImageEncoder) -> None:
    rows, columns = np.mgrid[0:96, 0:64]
    picture = np.stack([rows * 2, columns * 3, (rows + columns) % 200], axis=-1).astype(np.uint8)
    processor = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    expected = encoder.model(pixels).image_embeds
    images = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    actual = encoder(images)
    assert actual.shape == (1, 1, 6)
    torch.testing.assert_close(actual[:, 0], expected, atol=1e-2, rtol=0)


def test_is_frozen_and_stays_in_eval_mode(encoder: ClipImageEncoder) -> None:
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_loads_what_transformers_saves(encoder: ClipImageEncoder, tmp_path) -> None:
    encoder.model.save_pretrained(tmp_path)
    images = torch.rand(2, 3, 48, 48) * 2 - 1
    torch.testing.assert_close(ClipImageEncoder.from_pretrained(str(tmp_path))(images), encoder(images))
