"""Pictures of HLG and PQ (ITU-R BT.2100, what phones record) as SDR in sRGB.

Diffuse white (75 % of HLG's signal, 203 cd/m² of PQ: ITU-R BT.2408) becomes white; what is brighter is
rolled off.
"""

from functools import cache

import cv2
import numpy as np
from av.video.reformatter import ColorTrc

HDR_TRANSFERS = (int(ColorTrc.ARIB_STD_B67), int(ColorTrc.SMPTE2084))

_DIFFUSE_WHITE_HLG, _DIFFUSE_WHITE_PQ = 0.75, 203.0
_KNEE = 0.9
_BT709_OF_BT2020 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
"""Linear BT.709 of linear BT.2020 (ITU-R BT.2087)."""


def sdr_from_hdr(image: np.ndarray, transfer: int) -> np.ndarray:
    """A picture of HLG or PQ, uint16 [H, W, 3] of BT.2020, as uint8 RGB."""
    light = cv2.transform(_linear(transfer)[image], _BT709_OF_BT2020)
    np.maximum(light, 0, out=light)
    peak = light.max(axis=-1, keepdims=True)
    rolled = _KNEE + (1 - _KNEE) * -np.expm1((_KNEE - peak) / (1 - _KNEE))
    light *= np.where(peak > _KNEE, rolled / np.maximum(peak, _KNEE), 1)
    return _srgb()[(light * 4095 + 0.5).astype(np.uint16)]


@cache
def _linear(transfer: int) -> np.ndarray:
    """Light of each of 65536 signals, float32, diffuse white being 1."""
    signal = np.arange(65536) / 65535
    if transfer == ColorTrc.ARIB_STD_B67:
        scale = _hlg_light(np.array(_DIFFUSE_WHITE_HLG))
        return (_hlg_light(signal) / scale).astype(np.float32)
    # BT.2100, table 4: the EOTF of PQ.
    power = signal ** (1 / 78.84375)
    light = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
    return (10000 * light ** (1 / 0.1593017578125) / _DIFFUSE_WHITE_PQ).astype(np.float32)


def _hlg_light(signal: np.ndarray) -> np.ndarray:
    """BT.2100, table 5: the inverse OETF of HLG."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


@cache
def _srgb() -> np.ndarray:
    """8-bit sRGB of 4096 lights in 0..1 (IEC 61966-2-1)."""
    light = np.arange(4096) / 4095
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (255 * encoded).round().astype(np.uint8)
