"""Real clips made worse in one known way: the figure that should notice does, and the others stay."""

from fractions import Fraction

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
from portraitgen.metrics.grading import grade
from portraitgen.metrics.scores import GENERATED
from portraitgen.runs.evaluate.sensitivity import measure, sensitivity_table
from portraitgen.runs.evaluate.sources.files import read_media, resize_frames


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
    table = sensitivity_table(found, {**graders["pixels"].metrics, **graders["motion"].metrics})
    header = "| Figure | itself | blurred | sound shifted | frames shuffled | another person |"
    assert table.splitlines()[0] == header
    assert "| PSNR (dB) ↑ | 60.00 |" in table
    with pytest.raises(ValueError, match="two videos at least"):
        measure(clips[:1], graders=graders, backend=Blind(), frames=8, size=64)


NOTICES = {
    "psnr": (BLURRED, SHUFFLED, SWAPPED),
    "ssim": (BLURRED, SHUFFLED, SWAPPED),
    "flicker_error": (BLURRED, SHUFFLED, SWAPPED),
    "landmark_error": (BLURRED, SHUFFLED, SWAPPED),
    "mouth_error": (BLURRED, SHUFFLED, SWAPPED),
    "mouth_truth_correlation": (SHUFFLED, SWAPPED),
    "mouth_audio_correlation": (SOUND_SHIFTED, SHUFFLED, SWAPPED),
    "glo_error": (SWAPPED,),
    "exp_error": (SWAPPED,),
    "identity_dlib": (SWAPPED,),
}
"""Figure -> what it should notice; of the sound's shift and the frames' order it should say nothing else."""


def faces_of(clips, *, frames):
    graders = {
        "pixels": PixelGrader(),
        "landmarks": LandmarkGrader(),
        "mouth": MouthGrader(),
        "motion": MotionGrader(),
        "identity": IdentityGrader("dlib", frames=min(frames, 16)),
    }
    return measure(clips, graders=graders, backend=DlibBackend(), frames=frames, size=128)


def check_what_is_noticed(found, names=tuple(NOTICES)):
    for name in names:
        versions = NOTICES[name]
        itself = found[ITSELF][name]
        for version in versions:
            assert abs(found[version][name] - itself) > 1e-4, f"{name} does not notice: {version}"
        for version in {SOUND_SHIFTED, SHUFFLED} - {*versions}:
            about = 0.01 if name == "identity_dlib" else 1e-6
            assert found[version][name] == pytest.approx(itself, abs=about), f"{name} notices: {version}"
    for version in (BLURRED, SOUND_SHIFTED, SHUFFLED, SWAPPED):
        for name in ("psnr", "ssim", "identity_dlib"):
            assert found[version][name] <= found[ITSELF][name] + 0.01, f"{name} prefers: {version}"
    assert found[SWAPPED]["identity_dlib"] < found[ITSELF]["identity_dlib"] - 0.05


def test_each_figure_notices_what_it_should(clips):
    """A few frames: too few for the mouth's correlations."""
    names = [name for name in NOTICES if not name.endswith("correlation")]
    check_what_is_noticed(faces_of(clips, frames=5), names)


def test_the_mouth_hears_that_the_sound_is_late(clips):
    clip = read_media(clips[1], fps=Fraction(25))
    frames = resize_frames(clip.frames.at(np.arange(25)), (128, 128))
    versions = degrade("a", frames, clip.audio[:16000], frames.flip(3), fps=25.0)
    found = {}
    for version in (ITSELF, SOUND_SHIFTED):
        (row,) = grade(
            versions[version], graders={"mouth": MouthGrader()}, backend=DlibBackend(), methods=(GENERATED,)
        )
        found[version] = {name: row.mean(name) for name in row.scores}
    late, itself = found[SOUND_SHIFTED], found[ITSELF]
    assert abs(late["mouth_audio_correlation"] - itself["mouth_audio_correlation"]) > 0.02
    assert late["mouth_error"] == itself["mouth_error"] == 0
    assert late["mouth_truth_correlation"] == itself["mouth_truth_correlation"] == pytest.approx(1)


@pytest.mark.slow
def test_faces_and_sound(clips):
    found = faces_of(clips, frames=26)
    check_what_is_noticed(found)
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
