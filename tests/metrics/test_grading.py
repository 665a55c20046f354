"""Landmarks found again, and whole clips graded, on real frames by the real face backend."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from portraitgen.faces.dlib import DlibBackend
from portraitgen.metrics.graders.landmarks import LandmarkGrader
from portraitgen.metrics.graders.pixels import PixelGrader
from portraitgen.metrics.grading import Material, grade
from portraitgen.metrics.landmarks import find_faces, landmarks_of, score_landmarks

GRADERS = {"pixels": PixelGrader(), "landmarks": LandmarkGrader()}


@pytest.fixture(scope="module")
def backend() -> DlibBackend:
    return DlibBackend()


@pytest.fixture(scope="module")
def man(carphone: Path) -> torch.Tensor:
    """Every tenth frame of the talking man, cut square: uint8 [12, 3, 128, 128]."""
    with av.open(str(carphone)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames[::10])[:, :128, 30:158]).permute(0, 3, 1, 2).contiguous()


def points(frames: torch.Tensor, backend: DlibBackend) -> np.ndarray:
    """Landmarks found again in generated frames."""
    return landmarks_of(find_faces(frames, backend), num_landmarks=backend.num_landmarks)


@pytest.fixture(scope="module")
def landmarks(man: torch.Tensor, backend: DlibBackend) -> np.ndarray:
    return points(man, backend)


def shrink(frames: torch.Tensor, side: int) -> torch.Tensor:
    images = [
        cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)
        for frame in frames.movedim(1, -1).numpy()
    ]
    return torch.from_numpy(np.stack(images)).movedim(-1, 1).contiguous()


def test_landmarks_of_small_frames_agree_with_those_of_large_ones(man, landmarks, backend):
    seen = np.isfinite(landmarks).all(axis=(1, 2))
    assert seen[:8].all()
    small = points(shrink(man[:4], 64), backend)
    scores, reasons = score_landmarks(small * 2, landmarks[:4])
    assert scores["landmark_error"].max() < 0.06
    assert scores["detection_rate"].tolist() == [1, 1, 1, 1]
    assert reasons == {}


def test_float_frames_and_repeated_frames_give_the_same_landmarks(man, landmarks, backend):
    as_float = man[[2, 2]] / 127.5 - 1
    np.testing.assert_array_equal(points(as_float, backend), landmarks[[2, 2]])


def test_error_is_relative_to_the_eyes(landmarks):
    driving = landmarks[:3]
    eyes = np.linalg.norm(driving[:, 36] - driving[:, 45], axis=-1)
    shifted = driving + np.array([3.0, 4.0])
    scores, _ = score_landmarks(shifted, driving)
    np.testing.assert_allclose(scores["landmark_error"], 5 / eyes, rtol=1e-5)
    doubled, _ = score_landmarks(shifted * 2, driving * 2)
    np.testing.assert_allclose(doubled["landmark_error"], scores["landmark_error"], rtol=1e-5)


def test_frames_without_a_face_are_missing_and_counted_never_zero(man, landmarks, backend):
    frames = man[:4].clone()
    frames[1:3] = 0
    scores, reasons = score_landmarks(points(frames, backend), landmarks[:4])
    assert np.isnan(scores["landmark_error"]).tolist() == [False, True, True, False]
    assert scores["detection_rate"].tolist() == [1, 0, 0, 1]
    assert reasons == {"landmark_error": "no face found in 2 of 4 frames"}


def test_frames_that_nothing_drives_count_in_no_rate(landmarks):
    driving = landmarks[:4].copy()
    driving[0] = np.nan
    found = landmarks[:4].copy()
    found[1] = np.nan
    scores, reasons = score_landmarks(found, driving)
    np.testing.assert_array_equal(scores["detection_rate"], [np.nan, 0, 1, 1])
    assert reasons["detection_rate"] == "no driving landmarks in 1 of 4 frames"
    assert (
        reasons["landmark_error"] == "no driving landmarks in 1 of 4 frames; no face found in 1 of 3 frames"
    )


def test_landmarks_of_another_scheme_are_an_error(landmarks):
    with pytest.raises(ValueError, match=r"\[12, 68, 2\] and driving landmarks \[12, 5, 2\] differ"):
        score_landmarks(landmarks, landmarks[:, :5])


def test_a_good_clip_beats_the_controls_and_a_broken_one_does_not(man, landmarks, backend):
    even, odd = np.arange(0, 6, 2), np.arange(1, 7, 2)
    noise = torch.randn((3, 3, 128, 128), generator=torch.Generator().manual_seed(0))
    arguments = {
        "video": "man",
        "fps": 3.0,
        "truth": man[odd],
        "reference": man[0],
        "driving": landmarks[odd],
        "frame_index": odd * 10,
        "train_frames": man[even],
        "train_landmarks": landmarks[even],
    }

    def graded(generated, **given):
        return grade(Material(generated=generated, **given), graders=GRADERS, backend=backend)

    good = {row.method: row for row in graded(man[odd] / 127.5 - 1 + 0.02 * noise, **arguments)}
    assert list(good) == ["generated", "copy_reference", "copy_nearest", "truth"]
    assert good["generated"].frames.tolist() == [10, 30, 50]
    for control in ("copy_reference", "copy_nearest"):
        assert good["generated"].mean("psnr") > good[control].mean("psnr") + 8
        assert good["generated"].mean("landmark_error") < good[control].mean("landmark_error")
    assert good["truth"].mean("landmark_error") == 0, "found twice on the same pixels"
    assert "psnr" not in good["truth"].scores, "the truth against itself says nothing"

    broken = graded(torch.zeros(3, 3, 128, 128), **arguments)[0]
    assert broken.mean("detection_rate") == 0
    assert np.isnan(broken.mean("landmark_error"))
    assert broken.reasons["landmark_error"] == "no face found in 3 of 3 frames"


def test_clips_that_do_not_go_together_are_an_error(man, landmarks, backend):
    given = {"video": "man", "fps": 3.0, "generated": man[:2], "driving": landmarks[:2]}
    with pytest.raises(ValueError, match=r"generated frames are \[2, 3, 128, 128\], those of 'Truth' \[3,"):
        grade(Material(truth=man[:3], **given), graders=GRADERS, backend=backend)
    with pytest.raises(ValueError, match="man: the nearest training frame needs both"):
        Material(truth=man[:2], train_frames=man, **given)


def test_what_the_material_does_not_allow_is_missing_with_its_reason(man, backend):
    """A clip alone: no truth, no reference, nothing that drives."""
    rows = {
        row.method: row
        for row in grade(Material(video="man", fps=3.0, generated=man[:2]), graders=GRADERS, backend=backend)
    }
    assert rows["truth"].failure == "no true frames are given"
    assert rows["copy_reference"].failure == "no reference picture is given"
    assert np.isnan(rows["generated"].mean("psnr"))
    assert rows["generated"].reasons["psnr"] == "no true frames are given"
    assert rows["generated"].reasons["landmark_error"] == "no landmarks drive this clip"


def test_landmarks_of_the_truth_drive_where_none_are_given(man, landmarks, backend):
    material = Material(video="man", fps=3.0, generated=man[1:3], truth=man[:2], reference=man[0, :, :64])
    generated, copied, _, truth = grade(material, graders=GRADERS, backend=backend)
    expected = score_landmarks(landmarks[1:3], landmarks[:2]).scores
    np.testing.assert_array_equal(generated.scores["landmark_error"], expected["landmark_error"])
    assert truth.mean("landmark_error") == 0
    assert copied.failure == "the reference picture has another size"
