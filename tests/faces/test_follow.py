"""The main face of a real video: gaps reported and filled, other people left out, no face an error."""

import logging
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.follow import face_in_photo, follow_face
from portraitgen.media.decode import read_video
from portraitgen.media.encode import write_video

BACKEND = DlibBackend()


def test_a_gap_in_a_real_video_is_filled_and_reported(carphone: Path, tmp_path: Path, caplog):
    frames = read_video(carphone)[:12].copy()
    whole = tmp_path / "whole.mp4"
    write_video(whole, frames, fps=25, crf=10)
    frames[[0, 5, 6]] = 128
    holes = tmp_path / "holes.mp4"
    write_video(holes, frames, fps=25, crf=10)
    steps: list[tuple[int, int]] = []
    expected = follow_face(whole, BACKEND, on_frame=lambda *step: steps.append(step)).landmarks
    assert steps[-1] == (12, 12)
    assert expected.found.all()
    with caplog.at_level(logging.WARNING):
        followed = follow_face(holes, BACKEND)
    assert "3 of 12 frames show no face" in caplog.text
    assert followed.start_s == 0
    landmarks = followed.landmarks
    assert np.flatnonzero(~landmarks.found).tolist() == [0, 5, 6]
    assert np.array_equal(landmarks.points[0], landmarks.points[1])
    # A face of 60 pixels: what is filled in is where the face was, to a pixel or two.
    assert np.linalg.norm(landmarks.points - expected.points, axis=-1).mean(axis=-1).max() < 2


def test_any_rate(carphone: Path, tmp_path: Path):
    write_video(tmp_path / "v.mp4", read_video(carphone)[:9], fps=Fraction(60000, 1001))
    landmarks = follow_face(tmp_path / "v.mp4", BACKEND, fps=Fraction(20)).landmarks
    assert len(landmarks) == 3
    assert landmarks.fps == 20


def test_a_video_without_a_face(tmp_path: Path):
    write_video(tmp_path / "grey.mp4", np.full((4, 64, 64, 3), 99, np.uint8), fps=25)
    with pytest.raises(ValueError, match=r"grey\.mp4: no face found in any of its 4 frames \(dlib\)"):
        follow_face(tmp_path / "grey.mp4", BACKEND)


def test_of_several_people_the_largest_over_time_is_followed(shared: Path, tmp_path: Path):
    photo = cv2.cvtColor(cv2.imread(str(shared / "testdata/photos/multi/obama_biden.jpg")), cv2.COLOR_BGR2RGB)
    photo = photo[: photo.shape[0] // 2 * 2, : photo.shape[1] // 2 * 2]
    write_video(tmp_path / "two.mp4", [photo] * 3, fps=25)
    largest = face_in_photo(photo, BACKEND)
    landmarks = follow_face(tmp_path / "two.mp4", BACKEND).landmarks
    assert np.linalg.norm(landmarks.points - largest.landmarks, axis=-1).mean() < 5


def test_which_of_several_people_is_followed(shared: Path, tmp_path: Path, caplog):
    photo = cv2.cvtColor(cv2.imread(str(shared / "testdata/photos/multi/obama_biden.jpg")), cv2.COLOR_BGR2RGB)
    photo = photo[: photo.shape[0] // 2 * 2, : photo.shape[1] // 2 * 2]
    write_video(tmp_path / "two.mp4", [photo] * 3, fps=25)
    centres = {}
    with caplog.at_level(logging.INFO):
        for which in ("left", "right", "1", "2", "largest"):
            face = face_in_photo(photo, BACKEND, which=which)
            followed = follow_face(tmp_path / "two.mp4", BACKEND, which=which).landmarks
            assert np.linalg.norm(followed.points - face.landmarks, axis=-1).mean() < 5
            centres[which] = float(face.box[[0, 2]].mean())
    assert centres["left"] == centres["1"] < centres["right"] == centres["2"]
    assert "2 faces are found, the one on the left is taken" in caplog.text
    assert "2 faces are followed in it, number 2 from the left is taken" in caplog.text
    with pytest.raises(ValueError, match="face 3 is asked for, but 2 faces are found"):
        face_in_photo(photo, BACKEND, which="3")


def test_a_small_face_is_found_at_twice_the_size(carphone: Path, tmp_path: Path):
    frame = cv2.resize(read_video(carphone)[100], None, fx=0.26, fy=0.26, interpolation=cv2.INTER_AREA)
    frame = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
    assert not [face for face in BACKEND.detect(frame) if face.score >= BACKEND.min_score]
    face = face_in_photo(frame, BACKEND)
    assert face is not None
    assert 12 < face.box[2] - face.box[0] < 40
    write_video(tmp_path / "small.mp4", [frame] * 3, fps=25, crf=1)
    assert follow_face(tmp_path / "small.mp4", BACKEND).landmarks.found.all()
