"""Videos with drawn faces, squares whose place is known, so that all that follows from it can be checked."""

import dataclasses
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from portraitgen.data.prepare.sources import SourceError, find_sources
from portraitgen.data.prepare.video import prepare_video
from portraitgen.faces.types import Face
from portraitgen.media.audio import decode_wav
from portraitgen.media.container import VideoError
from portraitgen.media.decode import read_video
from portraitgen.media.encode import write_video
from tests.data.prepare.small_settings import small_settings

SIDE = 24
SETTINGS = small_settings(margin=0.5, max_frames=100, crf=12, photo_size=128, licence="CC0-1.0")


class DrawnFaces:
    """Finds squares of SIDE red pixels."""

    name = "drawn"
    landmark_scheme = "ibug68"
    num_landmarks = 68
    embedding_dim = 0
    min_score = 0.5
    weak_score = 0.0
    identity_threshold = 1.0

    def __init__(self):
        self.searched = 0

    def detect(self, image, *, embed=False):
        self.searched += 1
        red = ((image[..., 0] > 150) & (image[..., 1] < 100)).astype(np.uint8)
        faces = []
        for left, top, width, height, area in cv2.connectedComponentsWithStats(red)[2][1:].astype(np.float32):
            if area > SIDE**2 / 2:
                centre = np.array([left + width / 2, top + height / 2], np.float32)
                box = np.array([left, top, left + width, top + height], np.float32)
                # Eyes apart, for what is measured between them; all else in the middle.
                landmarks = np.tile(centre, (68, 1))
                landmarks[36] -= (width / 4, 0)
                landmarks[45] += (width / 4, 0)
                faces.append(Face(box, 1.0, landmarks, np.tile(centre, (5, 1))))
        return faces


def scene(*corners, background=(20, 60, 90), size=(96, 160)):
    image = np.empty((*size, 3), np.uint8)
    image[:] = background
    for left, top in corners:
        image[top : top + SIDE, left : left + SIDE] = (220, 30, 30)
    return image


def prepare(path, **changes):
    """The samples of a video, what was noted, and how many pictures were searched."""
    (source,) = find_sources(str(path))
    notes, backend = [], DrawnFaces()
    settings = dataclasses.replace(SETTINGS, **changes)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        video = prepare_video(source, backend, settings, Path(folder), lambda *note: notes.append(note))
        samples = list(video)
    return samples, notes, backend.searched


@pytest.fixture
def path(tmp_path):
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize("margin", [0.5, None])
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 64)])
def test_landmarks_and_boxes_lie_on_the_face_in_the_stored_clip(path, size, margin):
    write_video(path, [scene((30 + index, 40)) for index in range(20)], fps=25)
    (sample,), notes, _ = prepare(path, size=size, margin=margin)
    assert notes == []
    assert (sample.key, sample.num_frames, sample.fps) == ("clip-000000000", 20, 25)
    (track,) = sample.tracks
    assert track.valid.all()
    pictures = read_video(sample.video)
    assert pictures.shape == (20, *size, 3)
    assert (sample.height, sample.width) == size
    shown = sample.affine[:, :2] @ np.array(size[::-1], np.float32)
    if margin is None:
        assert np.isclose(shown, (160, 96), atol=1).any(), "as much of the picture as there is"
    assert shown[0] / shown[1] == pytest.approx(size[1] / size[0], rel=0.02), "nothing is squashed"
    for picture, landmarks, box in zip(pictures, track.landmarks, track.boxes, strict=True):
        rows, columns = np.nonzero((picture[..., 0] > 150) & (picture[..., 1] < 100))
        assert landmarks.mean(axis=0) == pytest.approx([columns.mean() + 0.5, rows.mean() + 0.5], abs=1)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box == pytest.approx(found, abs=2)
        corner = sample.affine[:, :2] @ box[:2] + sample.affine[:, 2]
        assert corner[1] == pytest.approx(40, abs=1.5)


def test_affine_leads_back_to_the_source(path):
    write_video(path, [scene((30, 40))] * 8, fps=25)
    (sample,), _, _ = prepare(path)
    corner = sample.affine[:, :2] @ sample.tracks[0].boxes[0, :2] + sample.affine[:, 2]
    assert corner == pytest.approx([30, 40], abs=1.5)
    assert sample.source == {
        "uri": "clip.mp4",
        "sha256": sample.source["sha256"],
        "t0": 0.0,
        "t1": 8 / 25,
        "licence": "CC0-1.0",
    }


def test_two_people_are_two_samples(path):
    write_video(path, [scene((20, 40), (110, 40))] * 6 + [scene((20, 40))] * 6, fps=25)
    samples, _, _ = prepare(path, max_frames=7)
    assert sorted((sample.key, sample.num_frames) for sample in samples) == [
        ("clip-000000000", 6),
        ("clip-000000240", 6),
        ("clip-p2-000000000", 6),
    ]


def test_scene_cut_ends_a_clip_although_the_face_stays_in_its_place(path):
    write_video(
        path,
        [scene((60, 40))] * 10 + [scene((60, 40), background=(240, 240, 240))] * 10,
        fps=25,
    )
    samples, _, _ = prepare(path)
    assert [(sample.key, sample.num_frames) for sample in samples] == [
        ("clip-000000000", 10),
        ("clip-p2-000000400", 10),
    ]


def test_constant_rate(path):
    write_video(path, [scene((30 + index, 40)) for index in range(60)], fps=50)
    (sample,), _, searched = prepare(path, fps=25.0)
    assert (sample.num_frames, sample.fps, searched) == (30, 25, 30)
    lefts = sample.tracks[0].boxes[:, 0] * sample.affine[0, 0] + sample.affine[0, 2]
    assert np.diff(lefts) == pytest.approx(2, abs=1)


def test_repeated_frames_are_searched_once(path):
    write_video(path, [scene((30 + index, 40)) for index in range(10)], fps=10)
    (sample,), _, searched = prepare(path, fps=30.0)
    assert (sample.num_frames, searched) == (30, 10)


def test_sound_is_cut_with_the_picture(path):
    rate, fps = 16_000, 25
    loud = np.sin(np.arange(2 * rate) * 0.3).astype(np.float32) * 0.5
    sound = np.concatenate([np.zeros(rate, np.float32), loud])
    # Nobody for a second, then a face and a tone.
    write_video(path, [scene()] * 25 + [scene((60, 40))] * 50, fps=fps, audio=sound, sample_rate=rate)
    (sample,), _, _ = prepare(path)
    assert sample.key == "clip-000001000"
    samples, sample_rate = decode_wav(sample.audio)
    assert (len(samples), sample_rate) == (2 * rate, rate)
    assert np.sqrt(np.mean(samples[200:-2000] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)
    assert sample.scores["speech_share"] == 0


def test_silent_video_has_no_sound(path):
    write_video(path, [scene((60, 40))] * 8, fps=25)
    (sample,), _, _ = prepare(path)
    assert sample.audio is None
    assert "speech_share" not in sample.scores


def test_damaged_stretch_splits_the_clip_and_is_noted(path):
    random = np.random.default_rng(0)
    noise = random.integers(0, 60, (60, 96, 160, 3), dtype=np.uint8)
    write_video(path, [np.maximum(noise[index], scene((60, 40))) for index in range(60)], fps=25)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    samples, notes, searched = prepare(path)
    assert len(samples) == 2
    assert sum(sample.num_frames for sample in samples) == searched < 60
    assert notes == [("decode", f"clip.mp4: {60 - searched} of 60 frames are damaged and left out")]
    assert all(sample.tracks[0].valid.all() for sample in samples)


def test_nobody_in_the_video(path):
    write_video(path, [scene()] * 8, fps=25)
    with pytest.raises(SourceError, match=r"clip\.mp4: no face found in its 8 frames") as caught:
        prepare(path)
    assert caught.value.stage == "detect"


def test_face_that_is_gone_too_soon(path):
    write_video(path, [scene((60, 40))] * 5 + [scene()] * 10, fps=25)
    with pytest.raises(SourceError, match=r"no face stays for min_frames=6 frames, the longest for 5"):
        prepare(path, min_frames=6)


def test_not_a_video(path):
    path.write_text("no video")
    with pytest.raises(VideoError, match=r"clip\.mp4: not a readable video"):
        prepare(path)
