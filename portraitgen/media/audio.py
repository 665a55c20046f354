"""Sound: the audio of any file as mono float, WAV bytes for shards, the samples that belong to frames."""

import io
import wave
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np

from portraitgen.media.container import VideoSource
from portraitgen.media.soundtrack import SoundMends, sound_blocks

SAMPLE_RATE = 16_000
"""Of all sound in shards and models."""


def read_audio(
    source: VideoSource, *, sample_rate: int = SAMPLE_RATE, name: str | None = None
) -> np.ndarray | None:
    """The sound of a file, the mean of its channels, resampled.

    Returns:
        float32 [N] in [-1, 1], beginning with the first picture of a video, else with the first sample;
        None when there is no audio stream.

    Raises:
        VideoError: unreadable file, damaged or half-cut audio.
    """
    blocks = [block.mean(0) for block in sound_blocks(source, sample_rate=sample_rate, name=name)]
    return np.concatenate(blocks) if blocks else None


class StoredSound:
    """The sound of a file, mono float32, on the disk: memory does not grow with its length.

    Args:
        path: of its samples, which `extract` writes.
        mends: what was mended in it.
        start: sample from which `window` counts; before it and after the end there is silence.
    """

    def __init__(self, path: Path, mends: SoundMends, *, start: int = 0) -> None:
        self.mends = mends
        self._path, self._start = path, start
        self._length = path.stat().st_size // 4

    @classmethod
    def extract(
        cls,
        source: VideoSource,
        path: Path,
        *,
        start_s: float = 0.0,
        sample_rate: int = SAMPLE_RATE,
        name: str | None = None,
    ) -> "StoredSound | None":
        """Write what `read_audio` reads to `path`; None when there is none.

        Args:
            start_s: time from which `window` counts.

        Raises:
            VideoError: unreadable file, damaged or half-cut audio.
        """
        mends = SoundMends()
        with path.open("wb") as file:
            for block in sound_blocks(source, sample_rate=sample_rate, name=name, mends=mends):
                file.write(block.mean(0).astype("<f4").tobytes())
        return cls(path, mends, start=round(start_s * sample_rate)) if path.stat().st_size else None

    def window(self, begin: int, end: int) -> np.ndarray:
        """Samples begin .. end - 1, float32 [end - begin]."""
        first, last = (min(max(each + self._start, 0), self._length) for each in (begin, end))
        silent_before = min(max(-(begin + self._start), 0), end - begin)
        waveform = np.zeros(end - begin, np.float32)
        stored = np.fromfile(self._path, "<f4", count=last - first, offset=4 * first)
        waveform[silent_before : silent_before + len(stored)] = stored
        return waveform


def encode_wav(waveform: np.ndarray, *, sample_rate: int = SAMPLE_RATE) -> bytes:
    """16-bit mono WAV of samples, float [N] in [-1, 1]; louder ones are clipped."""
    target = io.BytesIO()
    with wave.open(target, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        writer.writeframes((np.clip(waveform, -1, 1) * 32767).round().astype("<i2").tobytes())
    return target.getvalue()


def decode_wav(
    data: bytes | memoryview | BinaryIO, *, begin: int = 0, count: int | None = None
) -> tuple[np.ndarray, int]:
    """Samples, float32 [N] in [-1, 1], and sample rate of a 16-bit mono WAV.

    Args:
        data: the WAV, or a file at its beginning, of which only the samples that are wanted are read.
        begin, count: of the samples that are wanted, by default all. Those beyond the end are left out.

    Raises:
        ValueError: another kind of file.
    """
    try:
        file = io.BytesIO(data) if isinstance(data, bytes | memoryview) else data
        with wave.open(file, "rb") as reader:
            if reader.getnchannels() != 1 or reader.getsampwidth() != 2:
                raise ValueError(
                    f"WAV has {reader.getnchannels()} channels of {8 * reader.getsampwidth()} bits, "
                    "must be 16-bit mono"
                )
            total = reader.getnframes()
            reader.setpos(min(begin, total))
            raw = reader.readframes(total if count is None else count)
            return np.frombuffer(raw, "<i2").astype(np.float32) / 32767, reader.getframerate()
    except (wave.Error, EOFError, RuntimeError) as error:  # the last where a chunk claims more than there is
        raise ValueError(f"not a WAV file ({error})") from error


def frame_audio_window(
    start: int, count: int, *, fps: Fraction | float, sample_rate: int = SAMPLE_RATE
) -> tuple[int, int]:
    """The samples [begin, end) that sound during frames start .. start + count - 1.

    Both ends are rounded from exact times, so that the windows of successive frames meet without gap or
    overlap.
    """
    rate = Fraction(fps).limit_denominator(100_000)
    return round(start * sample_rate / rate), round((start + count) * sample_rate / rate)
