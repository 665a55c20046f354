"""Drift: the end of a clip against its beginning, figure by figure."""

import numpy as np
import pytest
import torch

from portraitgen.faces.dlib import DlibBackend
from portraitgen.media.decode import read_video
from portraitgen.metrics.drift import drift, end_frames, frame_colours, frame_sharpness
from portraitgen.metrics.grader import GradedClip
from portraitgen.metrics.graders.drift import DriftGrader
from portraitgen.metrics.one_pass import grade_clip
from portraitgen.metrics.pictures import Pictures


def test_it_is_the_distance_of_the_ends():
    values = np.zeros(100)
    values[:15], values[-15:], values[40:60] = 0.9, 0.6, 77
    ends = end_frames(100)
    assert drift(values[ends]) == pytest.approx(0.3)
    values[:5] = np.nan
    assert drift(values[ends]) == pytest.approx(0.3)
    values[:15] = np.nan
    assert np.isnan(drift(values[ends]))
    colours = np.tile([[3.0, 4.0]], (20, 1)) * np.arange(20)[:, None].clip(0, 10)
    assert drift(colours[end_frames(20)]) == pytest.approx(45)
    with pytest.raises(ValueError, match="3 frames are too few"):
        end_frames(3)


def test_colour_and_sharpness_of_frames():
    flat = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    flat[1, 0] = 130
    assert frame_colours(flat).tolist() == [[100, 100, 100], [130, 100, 100]]
    assert frame_sharpness(flat).tolist() == pytest.approx([0, 0], abs=1e-9)
    sharp = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    soft = torch.nn.functional.avg_pool2d(sharp.float(), 3, 1, 1).round().byte()
    assert frame_sharpness(sharp) > 2 * frame_sharpness(soft)


def test_a_clip_that_fades_blurs_and_one_that_stays(carphone):
    frames = torch.from_numpy(read_video(carphone)[:1]).movedim(-1, 1)
    still = frames.expand(14, -1, -1, -1).clone()
    fading = still.clone()
    for place in (12, 13):
        blurred = torch.nn.functional.avg_pool2d(still[place].float(), 5, 1, 2)
        fading[place] = (0.6 * blurred).round().byte()
    grader, backend = DriftGrader(), DlibBackend()

    def grade(shown, reference=frames):
        clip = GradedClip(
            video="a",
            method="generated",
            pictures=Pictures(shown, backend, name="a"),
            truth=None,
            reference=None if reference is None else Pictures(reference, backend, name="b"),
            driving=None,
            fps=25,
            audio=None,
            prompt=None,
        )
        return grade_clip(grader, clip)

    stays, fades = grade(still), grade(fading)
    assert all(float(value) == pytest.approx(0, abs=1e-6) for value in stays.scores.values())
    assert fades.scores["drift_colour"] > 20
    assert fades.scores["drift_sharpness"] > 1
    nobody = grade(still, reference=None)
    assert nobody.reasons == {"drift_identity": "no reference picture"}
    assert grade(still[:13], reference=None).reasons == nobody.reasons, "of an odd number of frames"
    assert set(grade(still[:9]).reasons.values()) == {"fewer than 13 frames"}
