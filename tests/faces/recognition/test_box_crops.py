"""Crops around boxes, as guangzhaoli/face (seed 003) cuts them out."""

import pytest
import torch
from safetensors.torch import load_file

from portraitgen.faces.recognition.box_crops import crop_boxes


@pytest.fixture(scope="module")
def golden(shared):
    return load_file(shared / "golden/faceloss_seed003.safetensors")


@pytest.mark.golden
def test_boxes_are_cut_out_as_the_seed_does(golden):
    images = golden["img"].expand(8, -1, -1, -1)
    crops, valid = crop_boxes(images, golden["boxes"], side=112)
    assert valid.all()
    torch.testing.assert_close(crops, golden["bbox_crops"], rtol=0, atol=1e-5)
    for row in range(8):
        alone, _ = crop_boxes(images[row : row + 1], golden["boxes"][row : row + 1], side=112)
        torch.testing.assert_close(alone[0], crops[row], rtol=0, atol=1e-6)


def test_boxes_of_any_size_and_place_give_a_crop_or_no_face():
    """Where more is missing than a crop holds, the seed's reflection padding raises."""
    inf, nan = float("inf"), float("nan")
    boxes = [[-500, -500, 520, 530], [3, 3, 4, 4], [0, 0, 20, 5], [nan] * 4, [5, 5, 5, 9], [30, 2, 40, 8]]
    images = torch.rand(len(boxes), 3, 20, 24, requires_grad=True)
    crops, valid = crop_boxes(images, torch.tensor(boxes), side=16)
    assert valid.tolist() == [True, True, True, False, False, False]
    assert crops.isfinite().all()
    assert crops.amin() >= 0
    assert crops.amax() <= 1
    assert not crops[3:].any()
    crops.square().sum().backward()
    assert images.grad.isfinite().all()
    assert images.grad.flatten(1).any(1).tolist() == valid.tolist()
    assert not crop_boxes(images[:1], torch.tensor([[0, 0, inf, -inf]]), side=16)[1].any()


def test_crops_have_the_gradient_of_bilinear_sampling():
    images = torch.rand(2, 1, 9, 8, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[1, 1, 6, 7], [4, -3, 12, 5]])
    assert torch.autograd.gradcheck(lambda pictures: crop_boxes(pictures, boxes, side=6)[0], (images,))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"one box for each picture .* got \[2, 4\]"):
        crop_boxes(torch.zeros(1, 3, 8, 8), torch.zeros(2, 4), side=4)
