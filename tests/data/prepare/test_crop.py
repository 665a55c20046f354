import numpy as np
import pytest

from portraitgen.data.prepare.crop import Crop, choose_crop
from portraitgen.media.geometry import apply_affine


def boxes(*rows):
    return np.array(rows, np.float32)


def test_square_around_a_moving_face():
    crop = choose_crop(
        boxes([100, 80, 140, 120], [120, 90, 160, 130]), image_size=(400, 600), size=64, margin=0.5
    )
    # The union is 60 x 50 around (130, 105); half a face of 40 on each side.
    assert (crop.x, crop.y, crop.side) == (80, 55, 100)


def test_square_lies_inside_the_frame_and_holds_what_fits():
    random = np.random.default_rng(0)
    for _ in range(200):
        height, width = random.integers(60, 300, 2)
        corner = random.uniform(0, min(height, width) - 40, (5, 2))
        found = np.concatenate([corner, corner + random.uniform(15, 40, (5, 1))], axis=1).astype(np.float32)
        crop = choose_crop(found, image_size=(height, width), size=64, margin=random.uniform(0, 1))
        assert 0 <= crop.x <= width - crop.side
        assert 0 <= crop.y <= height - crop.side
        mapped = crop.boxes_to_crop(found)
        # Whole pixels of the source: the square may miss the union by half a pixel.
        slack = crop.size / crop.side
        assert mapped.min() >= -slack
        assert mapped.max() <= crop.size + slack


def test_wide_movement_gets_the_whole_height():
    crop = choose_crop(boxes([0, 20, 40, 60], [260, 20, 300, 60]), image_size=(100, 300), size=64, margin=0.4)
    assert (crop.x, crop.y, crop.side) == (100, 0, 100)


@pytest.mark.parametrize(("side", "size"), [(64, 64), (100, 64), (40, 64)])
def test_points_stay_on_what_they_mark(side, size):
    image = np.zeros((120, 160, 3), np.uint8)
    image[50:54, 70:76] = 255
    crop = Crop(40, 20, side, size)
    picture = crop.cut(image)
    assert picture.shape == (size, size, 3)
    rows, columns = np.nonzero(picture[..., 0] > 127)
    found = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
    centre = np.array([73.0, 52.0], np.float32)
    assert crop.to_crop(centre) == pytest.approx(found, abs=0.5)
    assert apply_affine(crop.to_crop(centre), crop.affine) == pytest.approx(centre, abs=1e-4)


def test_crop_of_the_target_size_copies_pixels():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.array_equal(Crop(7, 5, 32, 32).cut(image), image[5:37, 7:39])
