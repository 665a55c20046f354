"""Parts of pictures of any proportion: nothing squashed, points and pixels move together."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from portraitgen.data.prepare.crop import choose_crop
from portraitgen.media.framing import (
    Framing,
    covering_frame,
    face_frame,
    faces_frame,
    frame_around,
    frame_inside,
    largest_frame,
    upstream_box,
)
from portraitgen.media.geometry import square_box

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
        crop = choose_crop(box[None], image_size=image_size, size=(64, 64), margin=0.4)
        framing = face_frame(box, image_size=image_size, size=(64, 64), margin=0.4)
        assert framing == crop
        left, top, right, bottom = square_box(
            box + 0.4 * side.astype(np.float32).max() * np.array([-1, -1, 1, 1]), image_size=image_size
        )
        assert (framing.x, framing.y, framing.width, framing.height) == (
            left,
            top,
            right - left,
            bottom - top,
        )


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


def test_planes_are_cut_as_pictures_are():
    """A smooth picture in I420 planes, cut and scaled, against its RGB form."""
    rows, columns = np.mgrid[:96, :128]
    image = np.stack([columns, 2 * rows, 200 - columns], axis=2).astype(np.uint8)
    framing = frame_inside(np.array([21.0, 11, 90, 70]), image_size=(96, 128), size=(48, 64)).on_grid(2)
    planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
    for size in ((48, 64), (framing.height, framing.width), (120, 160)):
        shown = replace(framing, size=size)
        out = np.empty((2, size[0] * 3 // 2, size[1]), np.uint8)
        shown.cut_planes(np.stack([planes, planes]), out=out)
        assert np.array_equal(out[0], out[1])
        expected = cv2.cvtColor(shown.cut(image), cv2.COLOR_RGB2YUV_I420)
        assert np.abs(out[0].astype(int) - expected).max() <= 4
        assert np.abs(out[0].astype(int) - expected).mean() < 0.8


def test_masks_are_cut_as_pictures_are():
    mask = np.zeros((96, 128), bool)
    mask[30:60, 40:80] = True
    framing = Framing(20, 10, 90, 60, (120, 180))
    expected = framing.cut(np.repeat(255 * mask[..., None].astype(np.uint8), 3, axis=2))[..., 0] > 127
    (shown,) = framing.cut_masks(mask[None])
    assert shown.shape == (120, 180)
    assert (shown != expected).mean() < 0.01


def test_a_part_is_what_cut_gives_also_of_a_reduced_picture():
    rows, columns = np.mgrid[:96, :128]
    image = np.stack([columns, 2 * rows, 200 - columns], axis=2).astype(np.uint8)
    framing = Framing(17, 9, 90, 61, (30, 40)).on_grid(4)
    assert (framing.x, framing.y, framing.width, framing.height) == (16, 8, 88, 60)
    np.testing.assert_array_equal(framing.part(image), framing.cut(image))
    reduced = cv2.resize(image, (32, 24), interpolation=cv2.INTER_AREA)
    small = replace(framing, size=(15, 22))
    assert np.abs(small.part(reduced, reduced=4).astype(int) - small.cut(image)).max() <= 1


@pytest.mark.parametrize("size", SIZES)
def test_faces_stay_in_the_picture_as_long_as_they_fit(size):
    random = np.random.default_rng(0)
    kept = 0
    for _ in range(200):
        height, width = random.integers(60, 400, 2).tolist()
        corners = random.uniform(0, [width - 30, height - 30], (random.integers(1, 5), 2))
        boxes = np.concatenate([corners, corners + random.uniform(8, 30, (len(corners), 1))], axis=1)
        framing = faces_frame(boxes, image_size=(height, width), size=size)
        assert 0 <= framing.x <= width - framing.width
        assert 0 <= framing.y <= height - framing.height
        assert framing.width >= width - 1 or framing.height >= height - 1, "as much as there is"
        shown = framing.boxes_to_frame(boxes)
        slack = 1.01 * max(size[0] / framing.height, size[1] / framing.width)
        inside = (shown >= -slack).all(axis=1) & (shown[:, 2:] <= np.array(size[::-1]) + slack).all(axis=1)
        largest = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
        assert inside[largest[0]]
        union = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
        if union[2] - union[0] < framing.width - 1 and union[3] - union[1] < framing.height - 1:
            assert inside.all()
            kept += 1
    assert kept > 60


def test_the_middle_is_shown_moved_as_far_as_a_face_needs():
    size, image_size = (480, 720), (940, 720)
    middle = covering_frame(np.array([300, 400, 400, 500.0]), image_size=image_size, size=size)
    assert (middle.x, middle.y, middle.width, middle.height) == (0, 230, 720, 480)
    above = covering_frame(np.array([300, 56.4, 400, 150]), image_size=image_size, size=size)
    assert above.y == 56
    below = covering_frame(np.array([300, 800, 400, 880.2]), image_size=image_size, size=size)
    assert below.y + below.height == 881
    too_tall = covering_frame(np.array([300, 100, 400, 700.0]), image_size=image_size, size=size)
    assert too_tall.y == 160
    beyond = covering_frame(np.array([300, -20, 400, 90.0]), image_size=image_size, size=size)
    assert beyond.y == 0
    wide = covering_frame(np.array([0, 10, 40, 60.0]), image_size=(240, 480), size=size)
    assert (wide.x, wide.y, wide.width, wide.height) == (0, 0, 360, 240)
