"""The sound of generated videos: a stretch of the sound of any file, exactly as long as asked for."""

import logging
from fractions import Fraction

import numpy as np

from portraitgen.media.audio import read_audio
from portraitgen.media.decode import VideoError, VideoSource

log = logging.getLogger(__name__)

SOUND_RATE = 48_000
"""Samples a second of the sound of generated videos."""


def sound_of(
    source: VideoSource, start_s: float, duration_s: Fraction, *, sample_rate: int = SOUND_RATE
) -> np.ndarray | None:
    """What sounds in a file, or its bytes, from a time on: float32 [N], as long as asked for.

    Silence stands for what is missing at the ends. None without sound; damaged sound is left out too, with a
    warning.
    """
    try:
        waveform = read_audio(source, sample_rate=sample_rate)
    except VideoError as error:
        log.warning("%s; the result is silent", error)
        return None
    if waveform is None:
        return None
    begin = round(start_s * sample_rate)
    length = round(duration_s * sample_rate)
    waveform = np.pad(waveform, (max(-begin, 0), 0))[max(begin, 0) :][:length]
    return np.pad(waveform, (0, length - len(waveform)))
