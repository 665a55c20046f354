"""Videos and pictures of any origin, read for grading at a stated rate and size."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from portraitgen.media.audio import read_audio
from portraitgen.media.container import VideoError
from portraitgen.media.decode import VIDEO_SUFFIXES, probe_video
from portraitgen.media.photo import PHOTO_SUFFIXES, PhotoError, read_photo
from portraitgen.metrics.saved import RESULTS
from portraitgen.runs.evaluate.kept_rows import FOLDER
from portraitgen.runs.evaluate.sources.source import read_clip

VIDEOS = tuple(sorted(VIDEO_SUFFIXES))
REPORT_MARKS = (RESULTS, "comparison.json", FOLDER)
"""What lies in a folder in which evaluate.py has written or begun a report."""
PICTURES = tuple(sorted(PHOTO_SUFFIXES))


@dataclass(frozen=True, slots=True, eq=False)
class MediaClip:
    """A video, or a picture as a video of one frame.

    Attributes:
        frames: uint8 [T, 3, H, W].
        fps: frames a second; 0 for a picture.
        audio: float32 [N] mono at 16 kHz, or None.
    """

    frames: Tensor
    fps: Fraction
    audio: np.ndarray | None


def read_media(path: Path, *, fps: Fraction | None) -> MediaClip:
    """Read a video or a picture; its suffix says which.

    Args:
        path: with one of the suffixes in `VIDEOS` and `PICTURES`.
        fps: rate to bring a video to, by the nearest frame in time; None keeps its own.

    Raises:
        VideoError: no such file, or it cannot be read.
    """
    if path.suffix.lower() in VIDEOS:
        return MediaClip(read_clip(path, fps=fps), fps or probe_video(path).fps, read_audio(path))
    try:
        image = read_photo(path)
    except PhotoError as error:
        raise VideoError(str(error)) from error
    return MediaClip(torch.tensor(image).movedim(-1, 0)[None], Fraction(0), None)


def resize_frames(frames: Tensor, size: Sequence[int]) -> Tensor:
    """Frames uint8 [T, 3, H, W] at another (width, height): bicubic with antialiasing, rounded to 8 bits."""
    width, height = size
    if tuple(frames.shape[-2:]) == (height, width):
        return frames
    parts = [
        interpolate(part.float(), size=(height, width), mode="bicubic", antialias=True, align_corners=False)
        .round()
        .clamp(0, 255)
        .byte()
        for part in frames.split(16)
    ]
    return torch.cat(parts)


def file_of_name(path: Path) -> Path:
    """The file of this path, whichever way (NFC, NFD) the disk has its name; else the path itself."""
    if path.exists() or not path.parent.is_dir():
        return path
    wanted = unicodedata.normalize("NFC", path.name)
    same = (each for each in path.parent.iterdir() if unicodedata.normalize("NFC", each.name) == wanted)
    return next(same, path)


def media_files(folder: Path) -> dict[str, Path]:
    """Key -> file for all videos and pictures below a folder; a key is the path within it without the suffix.

    Keys are in Unicode's NFC: a Mac may write "é" as two characters. Hidden files and folders (`._x.mp4`,
    `.ipynb_checkpoints`) and reports of ours are no clips.

    Raises:
        ValueError: no such folder, nothing in it, or two files of one key.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    ours = {mark.parent for name in REPORT_MARKS for mark in folder.rglob(name)} - {folder}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in VIDEOS + PICTURES or not path.is_file():
            continue
        within = path.relative_to(folder)
        if any(part.startswith(".") for part in within.parts) or not ours.isdisjoint(path.parents):
            continue
        key = unicodedata.normalize("NFC", within.with_suffix("").as_posix())
        if key in found:
            raise ValueError(
                f"{found[key]} and {path} differ in their suffix only; keep one, or list pairs=…"
            )
        found[key] = path
    if not found:
        raise ValueError(f"{folder} holds no video or picture ({', '.join(VIDEOS + PICTURES)})")
    return found
