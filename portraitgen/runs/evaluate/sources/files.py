"""Videos and pictures of any origin, read for grading at a stated rate and size."""

import unicodedata
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from portraitgen.data.prepare.frame_rate import resample_frames
from portraitgen.media.allocator import collect_garbage, trim_heap
from portraitgen.media.audio import read_audio
from portraitgen.media.container import VideoError
from portraitgen.media.decode import VIDEO_SUFFIXES, Frame, iter_frames, probe_video
from portraitgen.media.photo import PHOTO_SUFFIXES, PhotoError, read_photo
from portraitgen.metrics.frames import CHUNK, HeldFrames, pick
from portraitgen.metrics.saved import RESULTS
from portraitgen.runs.evaluate.kept_rows import FOLDER

VIDEOS = tuple(sorted(VIDEO_SUFFIXES))
REPORT_MARKS = (RESULTS, "comparison.json", FOLDER)
"""What lies in a folder in which evaluate.py has written or begun a report."""
PICTURES = tuple(sorted(PHOTO_SUFFIXES))


@dataclass(frozen=True, slots=True, eq=False)
class MediaClip:
    """A video, or a picture as a video of one frame.

    Attributes:
        frames: of the video, read when they are looked at.
        fps: frames a second; 0 for a picture.
        audio: float32 [N] mono at 16 kHz, or None.
    """

    frames: "VideoFrames | HeldFrames"
    fps: Fraction
    audio: np.ndarray | None

    def cut(self, count: int) -> "MediaClip":
        """The first frames alone, with all of the sound."""
        frames = self.frames.cut(count) if isinstance(self.frames, VideoFrames) else self.frames
        return replace(self, frames=frames)


class VideoFrames:
    """Frames of a video file (`metrics.frames.Frames`), decoded anew whenever they are asked for.

    They are decoded once when it is made, to be counted and to see that none is damaged.

    Args:
        path: of the video.
        fps: rate to bring it to, by the nearest frame in time; None keeps its own.
        size: (width, height) to bring it to; None keeps its own.

    Raises:
        VideoError: as `iter_frames`, and for damaged frames: what the decoder makes up is not graded.
    """

    def __init__(
        self, path: Path, *, fps: Fraction | None = None, size: tuple[int, int] | None = None
    ) -> None:
        self._path, self._fps, self._size = path, fps, size
        self._source_fps = probe_video(path).fps
        count = damaged = 0
        for frame in self._decode():
            count, damaged = count + 1, damaged + frame.corrupt
            height, width = frame.image.shape[:2]
        collect_garbage()
        if damaged:
            raise VideoError(f"{path}: {damaged} of {count} frames are damaged; write it again")
        width, height = size or (width, height)
        self.shape = (count, 3, height, width)

    def cut(self, count: int) -> "VideoFrames":
        """The first frames alone."""
        shorter = copy(self)
        shorter.shape = (min(count, self.shape[0]), *self.shape[1:])
        return shorter

    def chunks(self) -> Iterator[Tensor]:
        """See `Frames.chunks`."""
        images = (frame.image for frame in islice(self._decode(), self.shape[0]))
        while chunk := [*islice(images, CHUNK)]:
            frames = torch.from_numpy(np.stack(chunk)).movedim(-1, 1)
            yield frames if self._size is None else resize_frames(frames, self._size)
            trim_heap()  # or what was found in these would lie between the holes that they left
        collect_garbage()

    def at(self, places: np.ndarray) -> Tensor:
        """See `Frames.at`."""
        return pick(self, places)

    def _decode(self) -> Iterator[Frame]:
        frames = iter_frames(self._path)
        if self._fps is None:
            return frames
        return resample_frames(frames, source_fps=self._source_fps, fps=self._fps)


def read_media(path: Path, *, fps: Fraction | None = None, size: tuple[int, int] | None = None) -> MediaClip:
    """Read a video or a picture; its suffix says which.

    Args:
        path: with one of the suffixes in `VIDEOS` and `PICTURES`.
        fps, size: as `VideoFrames`; a picture has no rate.

    Raises:
        VideoError: no such file, or it cannot be read.
    """
    if path.suffix.lower() in VIDEOS:
        frames = VideoFrames(path, fps=fps, size=size)
        return MediaClip(frames, fps or probe_video(path).fps, read_audio(path))
    return MediaClip(HeldFrames(read_picture(path, size=size), name=str(path)), Fraction(0), None)


def read_picture(path: Path, *, size: tuple[int, int] | None = None) -> Tensor:
    """A picture, or the first frame of a video: uint8 [1, 3, H, W].

    Raises:
        VideoError: no such file, it cannot be read, or its first frame is damaged.
    """
    if path.suffix.lower() in VIDEOS:
        first = next(iter_frames(path))
        if first.corrupt:
            raise VideoError(f"{path}: its first frame is damaged; write it again")
        image = first.image
    else:
        try:
            image = read_photo(path)
        except PhotoError as error:
            raise VideoError(str(error)) from error
    frame = torch.tensor(image).movedim(-1, 0)[None]
    return frame if size is None else resize_frames(frame, size)


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
