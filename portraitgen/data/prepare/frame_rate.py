"""A video of any timing as a stream of frames at one constant rate."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction

from portraitgen.media.decode import Frame


def resample_frames(frames: Iterable[Frame], *, source_fps: Fraction, fps: Fraction) -> Iterator[Frame]:
    """For each k, the frame whose time is nearest to k / fps, counted from the first frame.

    Frames are repeated where the source has too few and left out where it has too many; a source that already
    has the rate passes through frame by frame. The last frame is taken to last 1 / `source_fps` seconds.

    Yields:
        The source's frames with k as their index; the time stays the source's.
    """
    index = 0
    start_s = last_s = 0.0
    last: Frame | None = None
    for frame in frames:
        if last is None:
            start_s = frame.time_s
        now_s = frame.time_s - start_s
        while last is not None and float(index / fps) < (last_s + now_s) / 2:
            yield replace(last, index=index)
            index += 1
        last, last_s = frame, now_s
    if last is not None:
        # Even a video that is shorter than half a period at the new rate has one frame.
        while index < max(1, round((last_s + 1 / source_fps) * fps)):
            yield replace(last, index=index)
            index += 1
