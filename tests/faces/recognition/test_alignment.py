"""Differentiable alignment against insightface's and cv2's."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from portraitgen.faces.recognition.alignment import align_faces, fit_similarities, upright_faces, warp_crops
from portraitgen.faces.templates import ARCFACE, DLIB
from portraitgen.media.geometry import similarity_transform, warp_affine


@pytest.fixture(scope="module")
def golden(shared):
    return load_file(shared / "golden/faceloss_align.safetensors")


@pytest.mark.golden
@pytest.mark.parametrize("side", [112, 128, 224, 256])
def test_matrices_are_those_of_insightface(golden, side):
    found = fit_similarities(golden["kps"], torch.as_tensor(ARCFACE.scaled(side).keypoints))
    torch.testing.assert_close(found, golden[f"M_{side}"], rtol=0, atol=1e-4)


@pytest.mark.golden
def test_crops_are_those_of_cv2(golden):
    image = golden["image_bgr_u8"].permute(2, 0, 1)[None].float()
    count = len(golden["kps"])
    crops, valid = align_faces(image.expand(count, -1, -1, -1), golden["kps"], ARCFACE)
    assert valid.all()
    ours = crops.permute(0, 2, 3, 1)
    torch.testing.assert_close(ours, golden["crop_112_f32"], rtol=0, atol=2e-2)
    torch.testing.assert_close(ours, golden["crop_112_u8"].float(), rtol=0, atol=0.6)
    large, _ = align_faces(image.expand(4, -1, -1, -1), golden["kps"][:4], ARCFACE.scaled(224))
    torch.testing.assert_close(large.permute(0, 2, 3, 1), golden["crop_224_u8"].float(), rtol=0, atol=0.6)


@pytest.mark.golden
def test_outside_the_picture_is_black_also_where_black_is_minus_one(golden):
    """Two faces lie partly outside; grey there is another face for a recognition network."""
    image = golden["image_bgr_u8"].permute(2, 0, 1)[None].float() / 127.5 - 1
    crops, valid = upright_faces(image.expand(2, -1, -1, -1), golden["kps"][18:], ARCFACE)
    assert valid.all()
    ours = (crops.permute(0, 2, 3, 1) + 1) * 127.5
    assert (golden["crop_112_u8"][18:] == 0).all(dim=-1).any()
    torch.testing.assert_close(ours, golden["crop_112_u8"][18:].float(), rtol=0, atol=0.6)


def test_each_face_alone_and_the_numpy_path_give_the_same():
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.uniform(0, 255, (3, 3, 90, 120))).float()
    keypoints = torch.from_numpy(DLIB.keypoints * 0.5 + generator.normal(20, 2, (3, 5, 2))).float()
    together, _ = align_faces(images, keypoints, DLIB)
    for row in range(3):
        alone, _ = align_faces(images[row : row + 1], keypoints[row : row + 1], DLIB)
        torch.testing.assert_close(alone[0], together[row])
        matrix = similarity_transform(keypoints[row].numpy(), DLIB.keypoints)
        chip = warp_affine(images[row].permute(1, 2, 0).numpy(), matrix, (150, 150))
        difference = np.abs(chip - together[row].permute(1, 2, 0).numpy())
        # Noise at half a pixel, and cv2 interpolates on a grid of 1/32.
        assert np.median(difference) < 1


def test_a_missing_or_degenerate_face_is_black_and_passes_no_gradient():
    images = torch.rand(3, 3, 40, 40, requires_grad=True)
    keypoints = torch.as_tensor(ARCFACE.keypoints).float().expand(3, -1, -1) * 0.3
    keypoints = torch.stack([keypoints[0], torch.full((5, 2), torch.nan), torch.full((5, 2), 7.0)])
    crops, valid = align_faces(images, keypoints, ARCFACE)
    assert valid.tolist() == [True, False, False]
    assert not crops[1:].any()
    crops.square().sum().backward()
    assert images.grad.isfinite().all()
    assert images.grad[0].any()
    assert not images.grad[1:].any()


def test_crops_have_the_gradient_of_bilinear_sampling():
    images = torch.rand(1, 1, 9, 8, dtype=torch.float64, requires_grad=True)
    matrix = torch.tensor([[[0.9, -0.2, 0.6], [0.2, 0.9, 0.1]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda pictures: warp_crops(pictures, matrix, side=6), (images,))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"5 key points for each picture .*, got \[2, 5, 2\]"):
        align_faces(torch.zeros(1, 3, 8, 8), torch.zeros(2, 5, 2), ARCFACE)
    with pytest.raises(ValueError, match="multiple of 112 or of 128, got 100"):
        ARCFACE.scaled(100)
