"""Sound of any file, placed in time by its own stamps from the first picture on, block by block.

What players do without a word is done and counted here: silence where packets are missing, a cut where they
overlap, another resampler where the format changes in mid-stream.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np
from av.audio.frame import AudioFrame

from portraitgen.media.clock import MAX_PAUSE_S, Stretch
from portraitgen.media.container import VideoError, VideoSource, open_media, source_name
from portraitgen.media.decode import default_stream, read_clock
from portraitgen.media.stated_size import missing_bytes

TOLERANCE_S = 0.01
"""Stamps in whole milliseconds wander by less; a lost packet is longer (Opus 20 ms, AAC 21 ms)."""

MAX_SILENCE_S = 10.0
"""A longer gap in a sound without pictures is a jump of its stamps."""

_BLOCK = 1 << 18
"""Samples of silence that are given at once."""


@dataclass
class SoundMends:
    """How often in a sound a gap was filled with silence, an overlap cut, a piece left out that is stamped
    far behind the last picture."""

    gaps: int = 0
    overlaps: int = 0
    lost: int = 0

    def __str__(self) -> str:
        lost = f", {self.lost} pieces stamped far behind the last picture left out" if self.lost else ""
        return f"{self.gaps} gaps filled with silence, {self.overlaps} overlaps cut{lost}"

    def __bool__(self) -> bool:
        return bool(self.gaps or self.overlaps or self.lost)


def sound_blocks(
    source: VideoSource, *, sample_rate: int, name: str | None = None, mends: SoundMends | None = None
) -> Iterator[np.ndarray]:
    """The default audio stream of a file from its first picture on; without pictures from its first sample.

    Yields:
        float32 [C, N] one after the other, C being the channels of the first throughout; nothing when there
        is no audio.

    Raises:
        VideoError: unreadable file, damaged audio, or a sound that ends long before its header says.
    """
    name = source_name(source, name)
    stretches = _picture_stretches(source, name)
    with open_media(source, name) as container:
        stream = default_stream(container.streams.audio)
        if stream is None:
            if not container.streams:
                raise VideoError(f"{name}: nothing in it can be read; fetch it again or remove it")
            return
        if stream.codec_context is None:
            raise VideoError(f"{name}: FFmpeg has no decoder for its sound; re-encode it")
        mends = SoundMends() if mends is None else mends
        track = _Track(sample_rate, mends)
        try:
            for time_s, frame in _timed(container.decode(stream), stretches, mends):
                yield from track.put(frame, time_s)
            yield from track.end()
        except av.error.InvalidDataError as error:
            raise VideoError(f"{name}: its audio is damaged ({error.strerror}); fetch it again") from error
        if mends.lost and not track.written:
            raise VideoError(f"{name}: its sound has time stamps long after its last picture; correct them")
        if stream.duration is not None and stream.time_base is not None and not stretches:
            stated = float(stream.duration * stream.time_base)
            if stated - track.written / sample_rate > max(0.25, 0.01 * stated):
                raise VideoError(
                    f"{name}: cut short, {track.written / sample_rate:.1f} of {stated:.1f} s of sound are "
                    "there; fetch it again"
                )
        if (there := missing_bytes(source)) is not None:
            raise VideoError(f"{name}: cut short, {there[0]} of {there[1]} bytes are there; fetch it again")


def _picture_stretches(source: VideoSource, name: str) -> Sequence[Stretch]:
    """What of the file has pictures, none in a sound file; a cover picture is none."""
    with open_media(source, name) as container:
        if not container.streams.audio:
            return ()
        if default_stream(container.streams.video) is None:
            return ()
    return read_clock(source, name).stretches


def _timed(
    frames: Iterator[AudioFrame], stretches: Sequence[Stretch], mends: SoundMends
) -> Iterator[tuple[float, AudioFrame]]:
    """Each frame with the time from the first picture (or sample) on at which it is heard; those between two
    stretches of pictures are left out."""
    alone = len(stretches) <= 1
    number, shift = 0, stretches[0].shift if stretches else None
    last: float | None = None
    for frame in frames:
        start = frame.time if frame.time is not None else last or 0.0
        if shift is None:
            shift = start
        step = 0.0 if last is None else start - last
        if stretches and alone and start >= stretches[0].end:
            before = stretches[0].first if last is None else last
            if start - before > MAX_SILENCE_S:
                mends.lost += 1  # a wrong stamp: nothing is seen any more
                continue
        if not stretches and (step < -MAX_PAUSE_S or step > MAX_SILENCE_S):
            shift += step
        back = step < -TOLERANCE_S
        if not alone and (last is None or back or step > MAX_PAUSE_S or start >= stretches[number].end):
            following = range(number + back, len(stretches))
            number = next((each for each in following if stretches[each].begins_with(start)), number)
            shift = stretches[number].shift
        last = start + frame.samples / frame.sample_rate
        if alone or start < stretches[number].end:
            yield start - shift, frame


class _Track:
    """Resamples frames and lays them end to end; `written` counts samples from time 0."""

    def __init__(self, sample_rate: int, mends: SoundMends) -> None:
        self._rate, self._mends = sample_rate, mends
        self._resampler: av.AudioResampler | None = None
        self._kind: tuple[object, ...] = ()
        self._channels = 0
        self._expected = 0.0
        self._position = 0
        self.written = 0

    def put(self, frame: AudioFrame, time_s: float) -> Iterator[np.ndarray]:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind or abs(time_s - self._expected) > TOLERANCE_S:
            first = self._resampler is None
            yield from self.end()
            self._resampler = av.AudioResampler(format="fltp", layout=frame.layout, rate=self._rate)
            self._kind, self._expected = kind, time_s
            self._position = round(time_s * self._rate)
            off = self._position - self.written
            if not first and abs(off) <= TOLERANCE_S * self._rate:
                self._position = self.written
            elif not first:
                self._mends.gaps += off > 0
                self._mends.overlaps += off < 0
        self._expected += frame.samples / frame.sample_rate
        assert self._resampler is not None
        frame.pts = None  # the resampler would fill or squeeze by stamps of its own reading
        for block in self._resampler.resample(frame):
            yield from self._lay(block)

    def end(self) -> Iterator[np.ndarray]:
        """What the resampler still holds."""
        if self._resampler is not None:
            for block in self._resampler.resample(None):
                yield from self._lay(block)

    def _lay(self, block: AudioFrame) -> Iterator[np.ndarray]:
        samples = np.asarray(block.to_ndarray(), dtype=np.float32)
        self._channels = self._channels or len(samples)
        if len(samples) != self._channels:
            samples = np.repeat(samples.mean(0, keepdims=True), self._channels, axis=0)
        begin, self._position = self._position, self._position + samples.shape[1]
        while begin > self.written:
            silent = min(begin - self.written, _BLOCK)
            yield np.zeros((self._channels, silent), np.float32)
            self.written += silent
        fresh = samples[:, self.written - begin :]
        if fresh.size:
            yield fresh
            self.written = self._position
