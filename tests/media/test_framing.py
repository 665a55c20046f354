"""Parts of pictures of any proportion: nothing squashed, points and pixels move together."""

import json
from pathlib import Path

import numpy as np
import pytest

from portraitgen.data.prepare.crop import choose_crop
from portraitgen.media.framing import (
    Framing,
    face_frame,
    frame_around,
    frame_inside,
    largest_frame,
    upstream_box,
)

SIZES = [(64, 64), (96, 64), (64, 96), (65, 64), (64, 65), (512, 384)]
PICTURES = [(480, 640), (640, 480), (513, 512), (512, 513), (90, 900), (31, 30)]


def test_official_crops(shared: Path):
    cases = json.loads((shared / "golden/aniportrait_crop_face.json").read_text())
    mended = 0
    for case in cases:
        height, width = case["H"], case["W"]
        points = np.array(case["lmks"]) * [width, height]
        left, top, right, bottom = upstream_box(points, image_size=(height, width))
        if 0 in case["shape"]:  # the official code returns nothing
            assert (right - left, bottom - top) == (512, 512)
            mended += 1
            continue
        assert [bottom - top, right - left] == case["shape"]
        assert (left, top) == (case["x0"] - case["off_x"], case["y0"] - case["off_y"])
    assert (len(cases), mended) == (20, 2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("picture", PICTURES)
def test_no_part_is_squashed_or_leaves_the_picture(size, picture):
    height, width = picture
    box = np.array([0.3 * width, 0.2 * height, 0.6 * width, 0.7 * height])
    framings = [
        face_frame(box, image_size=picture, size=size, margin=0.4),
        largest_frame(box, image_size=picture, size=size),
    ]
    for framing in framings:
        assert framing.x >= 0
        assert framing.y >= 0
        assert framing.x + framing.width <= width
        assert framing.y + framing.height <= height
    letterbox = frame_around(np.array([0, 0, width, height]), size=size)
    assert letterbox.x <= 0
    assert letterbox.y <= 0
    assert letterbox.x + letterbox.width >= width
    assert letterbox.y + letterbox.height >= height
    assert min(letterbox.width - width, letterbox.height - height) == 0
    for framing in (*framings, letterbox):
        # Whole pixels: right to half a pixel of the shorter side.
        wanted = framing.height * size[1] / size[0]
        assert abs(framing.width - wanted) <= 0.5 + size[1] / size[0] / 2
        assert framing.cut(np.zeros((*picture, 3), np.uint8)).shape == (*size, 3)


def test_the_face_is_cut_out_as_prepared_clips_are():
    random = np.random.default_rng(0)
    for _ in range(200):
        image_size = tuple(random.integers(50, 700, 2).tolist())
        corner, side = random.uniform(0, 300, 2), random.uniform(20, 300, 2)
        box = np.concatenate([corner, corner + side]).astype(np.float32)
        crop = choose_crop(box[None], image_size=image_size, size=64, margin=0.4)
        framing = face_frame(box, image_size=image_size, size=(64, 64), margin=0.4)
        assert (framing.x, framing.y) == (crop.x, crop.y)
        assert framing.width == framing.height == crop.side


@pytest.mark.parametrize("framing", [Framing(-20, 10, 90, 60, (40, 60)), Framing(30, -9, 40, 80, (160, 80))])
def test_points_go_where_their_pixels_go(framing):
    image = np.zeros((100, 80, 3), np.uint8)
    image[40:44, 50:54] = 255
    shown = framing.cut(image)[..., 0].astype(float)
    rows, columns = np.indices(shown.shape) + 0.5
    seen = np.array([(shown * columns).sum(), (shown * rows).sum()]) / shown.sum()
    np.testing.assert_allclose(framing.to_frame(np.array([52.0, 42.0])), seen, atol=0.2)


def test_a_face_beyond_the_edge_stays_in_the_picture():
    framing = frame_inside(np.array([-50, -50, 30, 30]), image_size=(60, 80), size=(32, 32))
    assert (framing.x, framing.y, framing.width, framing.height) == (0, 0, 60, 60)
