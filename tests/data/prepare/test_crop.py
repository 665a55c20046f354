import numpy as np
import pytest

from portraitgen.data.prepare.crop import choose_crop
from portraitgen.media.framing import Framing
from portraitgen.media.geometry import apply_affine


def boxes(*rows):
    return np.array(rows, np.float32)


def test_square_around_a_moving_face():
    crop = choose_crop(
        boxes([100, 80, 140, 120], [120, 90, 160, 130]), image_size=(400, 600), size=(64, 64), margin=0.5
    )
    # The union is 60 x 50 around (130, 105); half a face of 40 on each side.
    assert (crop.x, crop.y, crop.width, crop.height) == (80, 55, 100, 100)


@pytest.mark.parametrize("size", [(64, 64), (48, 72), (72, 48)])
def test_it_lies_inside_the_frame_and_holds_what_fits(size):
    random = np.random.default_rng(0)
    for _ in range(200):
        height, width = random.integers(60, 300, 2)
        corner = random.uniform(0, min(height, width) - 40, (5, 2))
        found = np.concatenate([corner, corner + random.uniform(15, 40, (5, 1))], axis=1).astype(np.float32)
        margin = [*random.uniform(0, 1, 3), None][int(random.integers(4))]
        crop = choose_crop(found, image_size=(height, width), size=size, margin=margin)
        assert 0 <= crop.x <= width - crop.width
        assert 0 <= crop.y <= height - crop.height
        aspect = size[1] / size[0]
        assert abs(crop.width - crop.height * aspect) <= 0.5 + aspect / 2, "whole pixels, else not squashed"
        mapped = crop.boxes_to_frame(found)
        union = np.concatenate([found[:, :2].min(axis=0), found[:, 2:].max(axis=0)])
        if union[2] - union[0] > crop.width - 1 or union[3] - union[1] > crop.height - 1:
            continue  # the frame has no such rectangle
        # Whole pixels of the source: it may miss the union by half a pixel.
        slack = max(size[0] / crop.height, size[1] / crop.width)
        assert mapped.min() >= -slack
        assert mapped[:, [0, 2]].max() <= size[1] + slack
        assert mapped[:, [1, 3]].max() <= size[0] + slack


def test_wide_movement_gets_the_whole_height():
    found = boxes([0, 20, 40, 60], [260, 20, 300, 60])
    crop = choose_crop(found, image_size=(100, 300), size=(64, 64), margin=0.4)
    assert (crop.x, crop.y, crop.width, crop.height) == (100, 0, 100, 100)


def test_without_a_margin_it_is_as_large_as_the_frame_allows():
    crop = choose_crop(boxes([10, 20, 40, 60]), image_size=(400, 300), size=(480, 720), margin=None)
    assert (crop.x, crop.y, crop.width, crop.height) == (0, 0, 300, 200)
    upright = choose_crop(boxes([10, 20, 40, 60]), image_size=(300, 400), size=(720, 480), margin=None)
    assert (upright.x, upright.y, upright.width, upright.height) == (0, 0, 200, 300)


@pytest.mark.parametrize(
    ("part", "size"),
    [((64, 64), (64, 64)), ((100, 100), (64, 64)), ((40, 40), (64, 64)), ((90, 60), (96, 64))],
)
def test_points_stay_on_what_they_mark(part, size):
    image = np.zeros((120, 160, 3), np.uint8)
    image[50:54, 70:76] = 255
    crop = Framing(40, 20, part[1], part[0], size)
    picture = crop.part(image)
    assert picture.shape == (*size, 3)
    rows, columns = np.nonzero(picture[..., 0] > 127)
    found = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
    centre = np.array([73.0, 52.0], np.float32)
    assert crop.to_frame(centre) == pytest.approx(found, abs=0.5)
    assert apply_affine(crop.to_frame(centre), crop.affine) == pytest.approx(centre, abs=1e-4)


def test_crop_of_the_target_size_copies_pixels():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.array_equal(Framing(7, 5, 32, 32, (32, 32)).part(image), image[5:37, 7:39])
