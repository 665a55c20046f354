"""Clips side by side for the eye: a contact sheet of a few frames, and the frames of a comparison video."""

import io
from collections.abc import Iterator, Mapping
from itertools import repeat

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from portraitgen.metrics.frames import Frames, as_frames
from portraitgen.metrics.rgb import Clip

# Neutral and dark, so that it judges no colour of the pictures and suits a light and a dark page.
_BACKGROUND = (24, 26, 30)
_TEXT = (232, 234, 237)
_GAP = 4
_TEXT_HEIGHT = 18
_STRIP = 34


def contact_sheet(
    clips: Mapping[str, Clip | Frames],
    *,
    num_columns: int = 8,
    cell_height: int = 192,
    frame_index: np.ndarray | None = None,
) -> np.ndarray:
    """One row for each clip over evenly chosen frames, labelled with the clip and the frame.

    Args:
        clips: label -> [T, 3, H, W], or one frame [3, H, W] that is repeated, uint8 or float in [-1, 1]; of
            any sizes and proportions. The order is kept. Single frames alone are a clip of one.
        num_columns: frames shown, or all of them when there are fewer.
        cell_height: height of a frame; small frames grow by the largest whole factor that fits, unfiltered.
        frame_index: int64 [T], the numbers to print (0..T-1 without it).

    Returns:
        uint8 [H', W', 3] RGB.

    Raises:
        ValueError: no clips, or clips of different length.
    """
    shown = _as_frames(clips)
    num_frames = _length(shown)
    chosen = np.unique(np.linspace(0, num_frames - 1, min(num_columns, num_frames)).round().astype(int))
    numbers = np.arange(num_frames) if frame_index is None else frame_index
    width, height = _cell_size(shown, cell_height)
    left = max(_text_width(label) for label in shown) + 2 * _TEXT_HEIGHT
    sheet = Image.new(
        "RGB",
        (left + len(chosen) * (width + _GAP), _STRIP + len(shown) * (height + _GAP)),
        _BACKGROUND,
    )
    for row, (label, frames) in enumerate(shown.items()):
        y = _STRIP + row * (height + _GAP)
        _write(sheet, label, (_TEXT_HEIGHT, y + height // 2), anchor="lm")
        few = frames.at(chosen if frames.shape[0] == num_frames else 0 * chosen)
        for column, image in enumerate(few.cpu().movedim(1, -1).numpy()):
            sheet.paste(_resize(image, (width, height)), (left + column * (width + _GAP), y))
    for column, frame in enumerate(chosen):
        middle = left + column * (width + _GAP) + width // 2
        _write(sheet, f"frame {numbers[frame]}", (middle, _STRIP // 2), anchor="mm")
    return np.asarray(sheet)


def panel_frames(clips: Mapping[str, Clip | Frames], *, cell_height: int = 256) -> Iterator[np.ndarray]:
    """Frames of a video that shows the clips side by side, each under its label.

    Args:
        clips: as in `contact_sheet`.
        cell_height: as in `contact_sheet`.

    Yields:
        uint8 [H', W', 3] RGB, both sides even as H.264 needs them.

    Raises:
        ValueError: as `contact_sheet`.
    """
    shown = _as_frames(clips)
    num_frames = _length(shown)
    width, height = _cell_size(shown, cell_height)
    strip = Image.new("RGB", (_even(len(shown) * (width + _GAP) - _GAP), _even(_STRIP + height)), _BACKGROUND)
    for column, label in enumerate(shown):
        _write(strip, label, (column * (width + _GAP) + width // 2, _STRIP // 2), anchor="mm")
    for row in zip(*(_images(frames, num_frames) for frames in shown.values()), strict=True):
        panel = strip.copy()
        for column, image in enumerate(row):
            panel.paste(_resize(image, (width, height)), (column * (width + _GAP), _STRIP))
        yield np.asarray(panel)


def encode_png(image: np.ndarray) -> bytes:
    """A picture, uint8 [H, W, 3] RGB, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _as_frames(clips: Mapping[str, Clip | Frames]) -> dict[str, Frames]:
    """Clips of one length, and single frames that are repeated."""
    if not clips:
        raise ValueError("nothing to show side by side: give at least one clip or image")
    shown = {label: as_frames(clip, name=label) for label, clip in clips.items()}
    lengths = {frames.shape[0] for label, frames in shown.items() if getattr(clips[label], "ndim", 4) == 4}
    if len(lengths) > 1:
        raise ValueError(f"clips shown side by side need one length, got {sorted(lengths)}")
    return shown


def _length(shown: Mapping[str, Frames]) -> int:
    return max(frames.shape[0] for frames in shown.values())


def _images(frames: Frames, num_frames: int) -> Iterator[np.ndarray]:
    """Pictures uint8 [H, W, 3] of a clip, or a single frame so many times."""
    images = (image for chunk in frames.chunks() for image in chunk.cpu().movedim(1, -1).contiguous().numpy())
    return images if frames.shape[0] == num_frames else repeat(next(images), num_frames)


def _cell_size(shown: Mapping[str, Frames], cell_height: int) -> tuple[int, int]:
    """Width and height of a cell: as high as the lowest clip times a whole number, or shrunk to
    `cell_height`; as wide as the widest clip is at that height.
    """
    sizes = [frames.shape[-2:] for frames in shown.values()]
    lowest = min(height for height, _ in sizes)
    cell = lowest * (cell_height // lowest) if lowest <= cell_height else cell_height
    return max(round(width * cell / height) for height, width in sizes), cell


def _resize(image: np.ndarray, cell: tuple[int, int]) -> Image.Image:
    """The picture as high as the cell, in its middle."""
    picture = Image.fromarray(image)
    size = round(picture.width * cell[1] / picture.height), cell[1]
    grows = size[0] >= picture.width
    shown = picture.resize(size, Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)
    if size == cell:
        return shown
    boxed = Image.new("RGB", cell, _BACKGROUND)
    boxed.paste(shown, ((cell[0] - size[0]) // 2, 0))
    return boxed


def _even(length: int) -> int:
    return length + length % 2


def _text_width(text: str) -> int:
    return int(ImageFont.load_default(_TEXT_HEIGHT).getlength(text))


def _write(image: Image.Image, text: str, at: tuple[int, int], *, anchor: str) -> None:
    font = ImageFont.load_default(_TEXT_HEIGHT)
    ImageDraw.Draw(image).text(at, text, font=font, fill=_TEXT, anchor=anchor)
