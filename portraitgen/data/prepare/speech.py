"""How much of a clip's sound is speech, by Silero's voice activity detector (MIT; pip brings its weights)."""

from functools import cache
from typing import Any

import numpy as np

from portraitgen.media.audio import SAMPLE_RATE


def speech_share(waveform: np.ndarray) -> float:
    """Share of the time in which somebody speaks, 0 to 1.

    Args:
        waveform: float32 [N] in [-1, 1] at `SAMPLE_RATE`.
    """
    import torch
    from silero_vad import get_speech_timestamps

    spoken = get_speech_timestamps(torch.from_numpy(waveform), _detector(), sampling_rate=SAMPLE_RATE)
    return sum(part["end"] - part["start"] for part in spoken) / max(len(waveform), 1)


@cache
def _detector() -> Any:
    from silero_vad import load_silero_vad

    return load_silero_vad(onnx=True)
