"""Does the mouth do what it should: its opening against the true one, and against the sound."""

import numpy as np

from portraitgen.faces.measure import mouth_opening
from portraitgen.media.audio import frame_audio_window

MIN_FRAMES = 25
"""Fewer frames with a face say nothing of a correlation."""


SILENCE = 1e-4
"""Loudness below this (-80 dB of full scale) is none: what a codec leaves of silence."""
STEADY = 0.02
"""A loudness that changes by less than this share says nothing: a tone, or a constant."""
UNVARYING = "the sound is silent, or its loudness never changes"


def varies(audio: np.ndarray, *, sample_rate: int = 16000) -> bool:
    """Whether a sound, float [N] mono, has something to be in time with: louder and quieter moments."""
    loudness = frame_loudness(audio, len(audio) * 25 // sample_rate, fps=25, sample_rate=sample_rate)
    return bool(len(loudness)) and float(np.ptp(loudness)) > max(SILENCE, STEADY * float(loudness.max()))


def mouth_opening_error(found: np.ndarray, driving: np.ndarray) -> np.ndarray:
    """Difference of the mouth openings, each over the distance of the eyes: float64 [T], NaN without a face.

    Args:
        found: iBUG landmarks [T, 68, 2].
        driving: the same of the true frames.
    """
    return np.abs(mouth_opening(found).astype(np.float64) - mouth_opening(driving))


def mouth_truth_correlation(found: np.ndarray, driving: np.ndarray) -> tuple[float, str]:
    """Pearson correlation of the mouth's opening with the true one, frame by frame.

    Unlike the error it does not mind how far a mouth opens, only when.

    Args:
        found: iBUG landmarks [T, 68, 2]; NaN where no face was found.
        driving: the same of the true frames.

    Returns:
        The correlation in [-1, 1] and "", or NaN and the reason.
    """
    return _correlation(mouth_opening(found), mouth_opening(driving), "the true face")


def frame_loudness(audio: np.ndarray, num_frames: int, *, fps: float, sample_rate: int = 16000) -> np.ndarray:
    """Root mean square of the sound during each frame: float64 [T], NaN where the sound has ended.

    Args:
        audio: float [N] mono in [-1, 1], from the first frame on.
    """
    edges = [
        frame_audio_window(frame, 1, fps=fps, sample_rate=sample_rate)[0] for frame in range(num_frames + 1)
    ]
    energy = np.concatenate([[0.0], np.cumsum(audio.astype(np.float64) ** 2)])
    begin, end = np.array(edges[:-1]), np.array(edges[1:])
    complete = end <= len(audio)
    begin, end = np.minimum(begin, len(audio)), np.minimum(end, len(audio))
    mean = np.maximum(energy[end] - energy[begin], 0) / np.maximum(end - begin, 1)
    return np.where(complete, np.sqrt(mean), np.nan)


def mouth_audio_correlation(landmarks: np.ndarray, audio: np.ndarray, *, fps: float) -> tuple[float, str]:
    """Pearson correlation of the mouth's opening with the loudness of the sound, frame by frame.

    Weak even in real videos (about 0.1 to 0.4): hold it against the true video and against the same video
    with the sound of another moment, never against other papers.

    Args:
        landmarks: iBUG [T, 68, 2]; NaN where no face was found.
        audio: float [N] mono at 16 kHz in [-1, 1], from the first frame on.

    Returns:
        The correlation in [-1, 1] and "", or NaN and the reason.
    """
    if not varies(audio):
        return np.nan, UNVARYING
    opening = mouth_opening(landmarks)
    loudness = frame_loudness(audio, len(opening), fps=fps)
    return _correlation(opening, loudness, "sound")


def _correlation(opening: np.ndarray, other: np.ndarray, name: str) -> tuple[float, str]:
    both = np.isfinite(opening) & np.isfinite(other)
    if both.sum() < MIN_FRAMES:
        return np.nan, f"face and {name} together in {both.sum()} frames, fewer than {MIN_FRAMES}"
    if min(np.ptp(opening[both]), np.ptp(other[both])) == 0:
        return np.nan, f"the mouth never moves, or {name} never changes"
    return float(np.corrcoef(opening[both].astype(np.float64), other[both].astype(np.float64))[0, 1]), ""
