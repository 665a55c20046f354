"""Cut a sound of any length into pieces that the audio models can take, each with its video frames."""

import math
from dataclasses import dataclass
from fractions import Fraction

from portraitgen.media.audio import SAMPLE_RATE, frame_audio_window


@dataclass(frozen=True, slots=True)
class SoundChunk:
    """Frames `first_frame` to `end_frame` - 1 and the samples that sound during them.

    Attributes:
        overlap: how many of the frames, at the beginning, are the last ones of the chunk before.
    """

    first_frame: int
    end_frame: int
    overlap: int
    first_sample: int
    end_sample: int

    @property
    def num_frames(self) -> int:
        return self.end_frame - self.first_frame


def count_frames(num_samples: int, frame_rate: Fraction | float = 30) -> int:
    """Video frames that a sound of `num_samples` samples lasts, the last one begun counting as whole."""
    return math.ceil(num_samples * Fraction(frame_rate).limit_denominator(100_000) / SAMPLE_RATE)


def sound_chunks(
    num_samples: int, *, frame_rate: Fraction | float = 30, chunk_frames: int, overlap_frames: int = 0
) -> list[SoundChunk]:
    """Chunks that cover all frames of a sound in order.

    Each adds `chunk_frames` new frames, the last one as many as are left, up to twice as many: there is no
    tail too short to be understood. All but the first begin `overlap_frames` early. Without overlap these
    are AniPortrait's chunks, for any duration.

    Raises:
        ValueError: no samples, or an overlap that is longer than a chunk.
    """
    if num_samples < 1:
        raise ValueError("the sound is empty: give an audio file, or a video with an audio track")
    if not 0 <= overlap_frames <= chunk_frames:
        raise ValueError(f"overlap_frames={overlap_frames} must be between 0 and chunk_frames={chunk_frames}")
    total = count_frames(num_samples, frame_rate)
    count = max(total // chunk_frames, 1)
    chunks = []
    for index in range(count):
        overlap = overlap_frames if index else 0
        first = index * chunk_frames - overlap
        end = (index + 1) * chunk_frames if index < count - 1 else total
        begin_sample, end_sample = frame_audio_window(
            first, end - first, fps=frame_rate, sample_rate=SAMPLE_RATE
        )
        chunks.append(SoundChunk(first, end, overlap, begin_sample, min(end_sample, num_samples)))
    return chunks
