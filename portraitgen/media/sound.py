"""The sound of generated videos: a stretch of the sound of any file, exactly as long as asked for."""

import logging
from fractions import Fraction

import numpy as np

from portraitgen.media.container import VideoError, VideoSource, source_name
from portraitgen.media.soundtrack import SoundMends, sound_blocks

log = logging.getLogger(__name__)

SOUND_RATE = 48_000
"""Samples a second of the sound of generated videos."""


def sound_of(
    source: VideoSource, start_s: float, duration_s: Fraction, *, sample_rate: int = SOUND_RATE
) -> np.ndarray | None:
    """What sounds in a file, or its bytes, from a time on, as long as asked for.

    Silence stands for what is missing at the ends.

    Args:
        start_s: from the first picture of a video on, else from the first sample.

    Returns:
        float32 [2, N], both channels of a stereo sound; of one with any other number of channels [1, N],
        their mean. None without sound; damaged sound is left out too, with a warning.
    """
    mends = SoundMends()
    try:
        blocks = [*sound_blocks(source, sample_rate=sample_rate, mends=mends)]
    except VideoError as error:
        log.warning("%s; the result is silent", error)
        return None
    if not blocks:
        return None
    if mends:
        log.warning("the sound of %s: %s", source_name(source, None), mends)
    waveform = np.concatenate(blocks, axis=1)
    if len(waveform) != 2:
        waveform = waveform.mean(0, keepdims=True)
    begin = round(start_s * sample_rate)
    length = round(duration_s * sample_rate)
    waveform = np.pad(waveform, ((0, 0), (max(-begin, 0), 0)))[:, max(begin, 0) :][:, :length]
    return np.pad(waveform, ((0, 0), (0, length - waveform.shape[1])))
