import io

import numpy as np
import pytest
import torch
from PIL import Image

from portraitgen.metrics.report.panels import contact_sheet, encode_png, panel_frames


@pytest.fixture
def clips() -> dict[str, torch.Tensor]:
    """A red reference, a driving clip twice as large, frames whose grey is their number."""
    grey = (torch.arange(10, dtype=torch.uint8) * 20).view(10, 1, 1, 1)
    return {
        "reference": torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 16, 16),
        "driving": torch.zeros(10, 3, 32, 32, dtype=torch.uint8),
        "generated": grey.expand(10, 3, 16, 16) / 127.5 - 1,
        "truth": grey.expand(10, 3, 16, 16),
    }


def cells(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Pixels of exactly this colour."""
    return int((image == np.array(colour, dtype=np.uint8)).all(axis=-1).sum())


def test_sheet_shows_evenly_chosen_frames_of_every_clip(clips):
    sheet = contact_sheet(clips, num_columns=4, cell_height=40)
    side = 32 * 32  # 16 pixels grow by the whole factor 2
    assert cells(sheet, (255, 0, 0)) == 4 * side
    assert cells(sheet, (0, 0, 0)) == 4 * side + 2 * side, "driving frames, and the first frame of two clips"
    for number in (3, 6, 9):
        assert cells(sheet, (20 * number,) * 3) == 2 * side
    assert cells(sheet, (20,) * 3) == 0, "frame 1 is not among the chosen"


def test_sheet_has_no_more_columns_than_frames(clips):
    few = {label: clip[:2] if clip.ndim == 4 else clip for label, clip in clips.items()}
    narrow, wide = contact_sheet(few, num_columns=2), contact_sheet(few, num_columns=8)
    np.testing.assert_array_equal(narrow, wide)


def test_labels_and_frame_numbers_are_written(clips):
    plain = contact_sheet({"a": clips["truth"]}, num_columns=2)
    assert not np.array_equal(plain, contact_sheet({"b": clips["truth"]}, num_columns=2))
    assert not np.array_equal(
        plain, contact_sheet({"a": clips["truth"]}, num_columns=2, frame_index=np.arange(90, 100))
    )


def test_small_frames_grow_unfiltered_and_large_ones_shrink():
    checkers = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    checkers[..., ::2, ::2] = 255
    enlarged = next(iter(panel_frames({"a": checkers}, cell_height=50)))
    assert enlarged.shape[1] == 48
    assert cells(enlarged, (255, 255, 255)) == 64 * 9
    shrunk = next(iter(panel_frames({"a": torch.zeros(1, 3, 300, 150)}, cell_height=50)))
    assert shrunk.shape[1] == 26, "25 pixels, made even"


def test_panel_frames_are_even_and_follow_the_clips(clips):
    frames = list(panel_frames(clips, cell_height=33))
    assert len(frames) == 10
    assert all(frame.shape == frames[0].shape and frame.dtype == np.uint8 for frame in frames)
    assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
    for number, frame in enumerate(frames):
        assert cells(frame, (255, 0, 0)) == 32 * 32
        assert number == 0 or cells(frame, (20 * number,) * 3) == 2 * 32 * 32


def test_png_is_read_back_unchanged(clips):
    sheet = contact_sheet(clips)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(sheet)))), sheet)


def test_clips_that_do_not_fit_are_named(clips):
    with pytest.raises(ValueError, match=r"need one length, got \[4, 10\]"):
        contact_sheet({**clips, "truth": clips["truth"][:4]})
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet({})


@pytest.mark.parametrize("size", [(16, 8), (8, 16), (48, 32)])
def test_pictures_of_other_proportions_are_shown_whole(clips, size):
    height, width = size
    blue = torch.tensor([0, 0, 255], dtype=torch.uint8).view(3, 1, 1).expand(3, height, width)
    panel = next(iter(panel_frames({"result": clips["truth"] + 100, "face": blue}, cell_height=32)))
    assert cells(panel, (0, 0, 255)) == 32 * round(32 * width / height)
    assert cells(panel, (100,) * 3) == 32 * 32


def test_images_alone_are_one_frame(clips):
    images = {label: clip if clip.ndim == 3 else clip[3] for label, clip in clips.items()}
    (panel,) = panel_frames(images, cell_height=32)
    assert cells(panel, (255, 0, 0)) == cells(panel, (0, 0, 0)) == 32 * 32
    assert cells(panel, (60,) * 3) == 2 * 32 * 32
