import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from portraitgen.data.prepare.photo import prepare_photo
from portraitgen.data.prepare.sources import SourceError, find_sources
from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.templates import ARCFACE
from portraitgen.media.decode import iter_frames
from tests.data.prepare.small_settings import small_settings

SETTINGS = small_settings()


@pytest.fixture(scope="module")
def portrait(carphone):
    """A frame of the talking man, 352 x 288."""
    return Image.fromarray(next(iter_frames(carphone)).image).resize((352, 288), Image.Resampling.BICUBIC)


def prepare(path):
    (source,) = find_sources(str(path))
    return prepare_photo(source, DlibBackend(), SETTINGS)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)), np.float32)


def test_photo_is_stored_whole_with_a_crop_of_the_face(tmp_path, portrait):
    portrait.save(tmp_path / "man.png")
    sample = prepare(tmp_path / "man.png")
    assert (sample.key, sample.num_frames, sample.width, sample.height) == ("man-000000000", 1, 352, 288)
    assert np.abs(pixels(sample.image) - np.asarray(portrait)).mean() < 2
    (track,) = sample.tracks
    assert pixels(track.faces[0]).shape == (224, 224, 3)
    assert track.landmarks.shape == (1, 68, 2)
    left, top, right, bottom = track.boxes[0]
    assert left < track.keypoints[0, :, 0].min() < track.keypoints[0, :, 0].max() < right
    assert top < track.keypoints[0, :, 1].min() < track.keypoints[0, :, 1].max() < bottom
    assert sample.scores["num_faces"] == 1


def test_large_photo_is_shrunk_and_its_landmarks_with_it(tmp_path, portrait):
    portrait.save(tmp_path / "small.png")
    portrait.resize((1058, 866), Image.Resampling.BICUBIC).save(tmp_path / "large.png")
    small, large = prepare(tmp_path / "small.png"), prepare(tmp_path / "large.png")
    # 1058 x 866 is brought to 400 x 327 and cut to multiples of 4.
    assert (large.width, large.height) == (400, 324)
    assert large.tracks[0].landmarks == pytest.approx(small.tracks[0].landmarks * 400 / 352, abs=3)
    assert large.affine == pytest.approx(np.array([[2.645, 0, 0], [0, 866 / 327, 0]]), abs=1e-3)


def test_orientation_of_the_camera_is_applied(tmp_path, portrait):
    upright, lying = tmp_path / "upright.jpg", tmp_path / "lying.jpg"
    portrait.save(upright, quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    portrait.rotate(90, expand=True).save(lying, quality=95, exif=exif)
    first, second = prepare(upright), prepare(lying)
    assert (second.width, second.height) == (first.width, first.height)
    assert second.tracks[0].landmarks == pytest.approx(first.tracks[0].landmarks, abs=2)


def test_everybody_is_in_the_sample_largest_first(shared):
    sample = prepare(shared / "testdata/photos/multi/obama_biden.jpg")
    assert len(sample.tracks) == sample.scores["num_faces"] == 2
    sides = [float(track.boxes[0, 2] - track.boxes[0, 0]) for track in sample.tracks]
    assert sides == sorted(sides, reverse=True)


def test_crops_have_the_key_points_where_arcface_wants_them(shared):
    """Of heads on one side too: found again in the crop, the points lie in the template."""
    (source,) = find_sources(str(shared / "testdata/photos/single/ffhq_0100.jpg"))
    sample = prepare_photo(source, DlibBackend(), replace(SETTINGS, face_size=448))
    crop = pixels(sample.tracks[0].faces[0]).astype(np.uint8)
    bordered = np.pad(crop, ((100, 100), (100, 100), (0, 0)), mode="edge")
    found = DlibBackend().detect(bordered)[0].keypoints - 100
    assert np.abs(found - ARCFACE.scaled(448).keypoints).max() < 0.08 * 448


def test_a_face_that_fills_the_picture_is_found(shared, tmp_path):
    """A crop as tight as the detector's box: it is missed until there is something around it."""
    photo = np.asarray(Image.open(shared / "testdata/photos/ids/kit/3.jpg").convert("RGB"))
    backend = DlibBackend(min_score=0.15)
    left, top, right, bottom = backend.detect(photo)[0].box.astype(int)
    tight = photo[top:bottom, left:right]
    assert not [face for face in backend.detect(tight) if face.score >= backend.min_score]
    Image.fromarray(tight).save(tmp_path / "tight.png")
    (source,) = find_sources(str(tmp_path / "tight.png"))
    (track,) = prepare_photo(source, backend, SETTINGS).tracks
    eyes_and_mouth = track.keypoints[0]
    height, width = tight.shape[:2]
    assert ((eyes_and_mouth > 0.15 * width) & (eyes_and_mouth < 0.9 * height)).all(), "in the tight picture"


def test_label_names_the_largest_face(shared):
    (source,) = find_sources(str(shared / "testdata/photos/multi/obama_biden.jpg"))
    labelled = replace(source, caption="two men", identity_name="somebody")
    sample = prepare_photo(labelled, DlibBackend(), SETTINGS)
    assert sample.caption == "two men"
    assert [track.identity_name for track in sample.tracks] == ["somebody", None]


def test_photo_without_a_face(tmp_path):
    Image.new("RGB", (200, 200), (90, 120, 60)).save(tmp_path / "green.png")
    with pytest.raises(SourceError, match=r"green\.png: no face found in this photo") as caught:
        prepare(tmp_path / "green.png")
    assert caught.value.stage == "detect"


def test_text_that_is_called_a_photo(tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    with pytest.raises(SourceError, match=r"text\.jpg: not a readable picture"):
        prepare(tmp_path / "text.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_photo_that_is_cut_short(tmp_path, portrait, suffix):
    path = tmp_path / f"cut.{suffix}"
    portrait.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match=rf"cut\.{suffix}: the picture is damaged"):
        prepare(path)
