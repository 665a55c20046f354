"""Mel-frequency cepstral coefficients as the public SyncNet was trained on them."""

import numpy as np
from scipy.fft import dct

SAMPLE_RATE = 16000
WINDOW = 400
"""Samples in an analysis window: 25 ms."""
STEP = 160
"""Samples from one analysis window to the next: 10 ms."""
FFT = 512
NUM_FILTERS = 26
NUM_COEFFICIENTS = 13
PREEMPHASIS = 0.97
LIFTER = 22


def mfcc(signal: np.ndarray) -> np.ndarray:
    """13 cepstral coefficients every 10 ms; the first is the logarithm of the frame's energy.

    As python_speech_features 0.6 with its defaults: pre-emphasis, frames without a window function (the last
    one filled with zeros), power spectrum / 512, 26 mel triangles from 0 to 8 kHz, logarithm, orthonormal
    DCT-II, sinusoidal lifter.

    Args:
        signal: [N] at 16 kHz in the units of 16-bit samples, -32768 to 32767; at least one sample.

    Returns:
        float64 [1 + ceil(max(N - 400, 0) / 160), 13].

    Raises:
        ValueError: not one channel of samples.
    """
    if signal.ndim != 1 or not len(signal):
        raise ValueError(f"MFCCs need mono samples [N] with N at least 1, got {list(signal.shape)}")
    waveform = signal.astype(np.float64)
    waveform[1:] -= PREEMPHASIS * waveform[:-1]
    count = 1 + max(-(-(len(waveform) - WINDOW) // STEP), 0)
    waveform = np.pad(waveform, (0, max((count - 1) * STEP + WINDOW - len(waveform), 0)))
    windows = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::STEP][:count]

    power = np.abs(np.fft.rfft(windows, FFT)) ** 2 / FFT
    energy = _no_zeros(power.sum(axis=1))
    mel = _no_zeros(power @ _mel_filters().T)
    cepstrum = dct(np.log(mel), type=2, axis=1, norm="ortho")[:, :NUM_COEFFICIENTS]
    cepstrum *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(NUM_COEFFICIENTS) / LIFTER)
    cepstrum[:, 0] = np.log(energy)
    return cepstrum


def _no_zeros(values: np.ndarray) -> np.ndarray:
    """Digital silence has no logarithm: it becomes the smallest step of float64."""
    return np.where(values == 0, np.finfo(np.float64).eps, values)


def _mel_filters() -> np.ndarray:
    """[26, 257] triangles whose corners, equally spaced in mel, are rounded down to bins of the spectrum."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, NUM_FILTERS + 2) / 2595) - 1)
    corners = np.floor((FFT + 1) * hertz / SAMPLE_RATE)
    left, peak, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.arange(FFT // 2 + 1)
    return np.clip(np.minimum((bins - left) / (peak - left), (right - bins) / (right - peak)), 0, None)
