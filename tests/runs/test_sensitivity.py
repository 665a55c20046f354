"""Real clips made worse in one known way: the figure that should notice does, and the others stay."""

import numpy as np
import pytest
import torch

from portraitgen.faces.dlib import DlibBackend
from portraitgen.metrics.degradations import BLURRED, ITSELF, SHUFFLED, SOUND_SHIFTED, SWAPPED, degrade
from portraitgen.metrics.graders.identity import IdentityGrader
from portraitgen.metrics.graders.landmarks import LandmarkGrader
from portraitgen.metrics.graders.motion import MotionGrader
from portraitgen.metrics.graders.mouth import MouthGrader
from portraitgen.metrics.graders.pixels import PixelGrader
from portraitgen.runs.sensitivity import measure, sensitivity_table


@pytest.fixture(scope="module")
def clips(shared):
    names = ("RD_Radio10_0_clip_0", "WDA_AlexandriaOcasioCortez_000")
    return [shared / "testdata/clips" / f"{name}.mp4" for name in names]


def check_pixels_and_motion(found):
    assert found[ITSELF]["psnr"] == 60
    assert found[ITSELF]["ssim"] == pytest.approx(1)
    assert found[ITSELF]["flicker_error"] == 0
    for name in ("psnr", "ssim", "temporal_flicker", "flicker_error"):
        assert found[SOUND_SHIFTED][name] == found[ITSELF][name], "pixels do not hear"
    for version in (BLURRED, SHUFFLED, SWAPPED):
        assert found[version]["psnr"] < found[ITSELF]["psnr"] - 10
        assert found[version]["ssim"] < found[ITSELF]["ssim"] - 0.01
        assert found[version]["flicker_error"] > 0


def test_pixels_and_steadiness(clips):
    """Without looking for faces."""

    class Blind(DlibBackend):
        def detect(self, image, *, embed=False):
            return []

    graders = {"pixels": PixelGrader(), "motion": MotionGrader()}
    found = measure(clips, graders=graders, backend=Blind(), frames=8, size=64)
    check_pixels_and_motion(found)
    table = sensitivity_table(found, {**PixelGrader.metrics, **MotionGrader.metrics})
    assert (
        table.splitlines()[0] == "|  | itself | blurred | sound shifted | frames shuffled | another person |"
    )
    assert "| PSNR (dB) ↑ | 60.00 |" in table
    with pytest.raises(ValueError, match="two videos at least"):
        measure(clips[:1], graders=graders, backend=Blind(), frames=8, size=64)


@pytest.mark.slow
def test_faces_and_sound(clips):
    graders = {
        "pixels": PixelGrader(),
        "landmarks": LandmarkGrader(),
        "mouth": MouthGrader(),
        "motion": MotionGrader(),
        "identity": IdentityGrader("dlib", frames=16),
    }
    found = measure(clips, graders=graders, backend=DlibBackend(), frames=26, size=128)
    check_pixels_and_motion(found)
    assert found[ITSELF]["landmark_error"] == found[ITSELF]["mouth_error"] == 0
    for name in ("landmark_error", "mouth_error"):
        assert found[SOUND_SHIFTED][name] == 0
        assert found[BLURRED][name] < found[SHUFFLED][name] < found[SWAPPED][name]
    for name in ("glo", "exp"):
        assert found[SHUFFLED][name] == pytest.approx(found[ITSELF][name]), "variances know no order"
    assert found[SWAPPED]["glo_error"] > 0
    assert found[SOUND_SHIFTED]["identity_dlib"] == found[ITSELF]["identity_dlib"]
    assert found[SHUFFLED]["identity_dlib"] == pytest.approx(found[ITSELF]["identity_dlib"], abs=0.01)
    assert found[SWAPPED]["identity_dlib"] < found[ITSELF]["identity_dlib"] - 0.05
    for version in (SOUND_SHIFTED, SHUFFLED):
        moved = abs(found[version]["mouth_audio_correlation"] - found[ITSELF]["mouth_audio_correlation"])
        assert moved > 0.02


def test_each_version_changes_one_thing():
    frames = torch.randint(0, 255, (6, 3, 32, 32), dtype=torch.uint8)
    sound = np.arange(16000, dtype=np.float32) / 16000
    versions = degrade("a", frames, sound, frames.flip(3), fps=25.0)
    for version, material in versions.items():
        same_sound = np.array_equal(material.audio, sound)
        same_frames = torch.equal(torch.as_tensor(material.generated), frames)
        assert same_sound == (version != SOUND_SHIFTED)
        assert same_frames == (version in (ITSELF, SOUND_SHIFTED))
        assert torch.equal(torch.as_tensor(material.truth), frames)
    shuffled = torch.as_tensor(versions[SHUFFLED].generated)
    assert torch.equal(shuffled.flatten(1).sum(1).sort().values, frames.flatten(1).sum(1).sort().values)
