"""Speech share: real speech against what is none."""

import numpy as np
import pytest

from portraitgen.data.prepare.speech import speech_share
from portraitgen.media.audio import read_audio


def test_silence_noise_and_a_tone_are_no_speech():
    noise = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    tone = 0.5 * np.sin(np.arange(32_000) * 0.2).astype(np.float32)
    assert [speech_share(sound) for sound in (np.zeros(32_000, np.float32), noise, tone)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "share"),
    [("clips/AOC_short.mp4", 0.94), ("clips/RD_Radio10_0_clip_0.mp4", 0.73), ("speech/espeak_en.wav", 0.90)],
)
def test_real_speech(shared, name, share):
    """The shares that Silero's own tools state of these files, of the mean of their channels."""
    assert speech_share(read_audio(shared / "testdata" / name)) == pytest.approx(share, abs=0.01)


def test_silence_before_and_after_counts(shared):
    sound = read_audio(shared / "testdata/speech/espeak_en.wav")
    padded = np.pad(sound, len(sound) // 2)
    assert speech_share(padded) == pytest.approx(speech_share(sound) / 2, abs=0.05)
    assert speech_share(padded) == speech_share(padded), "the detector forgets the clip before"
