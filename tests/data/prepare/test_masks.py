"""Masks from landmarks and boxes: they cover what they should, and nothing where nobody was found."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from portraitgen.data.prepare.contact_sheet import contact_sheet
from portraitgen.data.prepare.crop import choose_crop
from portraitgen.data.prepare.masks import EllipseMasks, HullMasks
from portraitgen.data.sample import ClipTrack
from portraitgen.faces.dlib import DlibBackend
from portraitgen.media.decode import iter_frames
from portraitgen.media.masks import decode_rle_batch, hull_mask
from tests.synthetic import synthetic_clip

SIZE = 64


@pytest.fixture(scope="module")
def clip():
    """A drawn face, not found in frames 3 and 4."""
    return synthetic_clip("face", num_frames=8, size=SIZE, valid=~np.isin(np.arange(8), [3, 4]))


def masks_of(sample):
    """bool [T, M, H, W]."""
    stored = sample.masks
    places = np.arange(sample.num_frames * len(stored.ids)).reshape(sample.num_frames, -1)
    return decode_rle_batch(stored.runs, stored.offsets, (sample.height, sample.width), places)


def hulls(sample):
    """The bare hulls of the landmarks."""
    return np.stack([hull_mask(points, (SIZE, SIZE)) for points in sample.tracks[0].landmarks])


def test_hull_without_additions_is_that_of_the_landmarks(clip):
    sample = HullMasks(forehead=0, margin=0)(clip)
    assert (sample.masks.source, sample.masks.ids) == ("hull", (1,))
    assert sample.tracks[0].mask_ids == {"face": 1}
    np.testing.assert_array_equal(masks_of(sample)[:, 0], hulls(clip))


def test_hull_gains_the_forehead_and_a_margin(clip):
    bare, masks = hulls(clip), masks_of(HullMasks()(clip))[:, 0]
    assert masks[bare].all()
    for frame in (0, 7):
        rows, columns = np.nonzero(masks[frame])
        bare_rows, bare_columns = np.nonzero(bare[frame])
        keypoints = clip.tracks[0].keypoints[frame]
        length = keypoints[3:, 1].mean() - keypoints[:2, 1].mean()
        assert bare_rows.min() - rows.min() == pytest.approx((0.6 + 0.08) * length, abs=1.5)
        for gained in (rows.max() - bare_rows.max(), columns.max() - bare_columns.max()):
            assert gained == pytest.approx(0.08 * length, abs=1)


def test_landmarks_all_round_the_face_need_no_forehead(clip):
    other = replace(clip, landmark_scheme="mediapipe478")
    np.testing.assert_array_equal(
        masks_of(HullMasks(margin=0)(other)), masks_of(HullMasks(forehead=0, margin=0)(clip))
    )


def test_ellipse_lies_in_the_box(clip):
    sample = EllipseMasks(scale=1.0)(clip)
    assert sample.masks.source == "ellipse"
    for frame in (0, 7):
        rows, columns = np.nonzero(masks_of(sample)[frame, 0])
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box == pytest.approx(clip.tracks[0].boxes[frame], abs=1)
        left, top, right, bottom = clip.tracks[0].boxes[frame]
        assert len(rows) == pytest.approx(np.pi / 4 * (right - left) * (bottom - top), rel=0.05)


@pytest.mark.parametrize("maker", [HullMasks(), EllipseMasks()])
def test_nobody_found_is_an_empty_mask(clip, maker):
    shown = masks_of(maker(clip))[:, 0].any(axis=(1, 2))
    assert shown.tolist() == [True, True, True, False, False, True, True, True]


@pytest.mark.parametrize("maker", [HullMasks(), EllipseMasks()])
def test_each_person_has_its_own_mask(clip, maker):
    shifted = replace(
        clip.tracks[0],
        **{
            name: getattr(clip.tracks[0], name) + np.float32(6)
            for name in ("boxes", "keypoints", "landmarks")
        },
    )
    both = masks_of(maker(replace(clip, tracks=(clip.tracks[0], shifted))))
    for person, track in enumerate((clip.tracks[0], shifted)):
        alone = masks_of(maker(replace(clip, tracks=(track,))))
        np.testing.assert_array_equal(both[:, person], alone[:, 0])
    assert (both[:, 0] != both[:, 1]).any()


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match=r"masks\.forehead=-1, masks\.margin=0\.08: give 0 or more"):
        HullMasks(forehead=-1)
    with pytest.raises(ValueError, match=r"masks\.scale=0: give a factor above 0"):
        EllipseMasks(scale=0)


def test_contact_sheet_shows_the_outline(clip):
    plain, masked = contact_sheet([clip]), contact_sheet([HullMasks()(clip)])
    changed = (plain != masked).any(axis=2)
    assert 0 < changed.mean() < 0.1
    assert (masked[changed] == (0, 255, 0)).all()


def test_a_clip_without_landmarks_has_empty_hulls(clip):
    track = replace(clip.tracks[0], landmarks=np.zeros((8, 0, 2), np.float32))
    sample = HullMasks()(replace(clip, tracks=(track,), landmark_scheme="none"))
    assert not masks_of(sample).any()


def test_masks_agree_with_those_that_sam2_made_of_a_real_clip(shared, clip):
    """The figures of docs/data.md, on ConsisID's sample; its detector's boxes hold the whole face."""
    folder = shared / "testdata/consisid_demo/dataname"
    (table,) = (folder / "refine_bbox_jsons").glob("*.json")
    boxes = json.loads(table.read_text())
    pictures = folder / "track_masks_data" / table.stem / "tracking_mask_results/1"
    backend = DlibBackend(min_score=0.15)
    agreement = {"hull": [], "bare hull": [], "ellipse in dlib's box": [], "ellipse in the whole box": []}
    for frame in iter_frames(next((folder / "videos").glob("*.mp4"))):
        if frame.index % 20:
            continue
        corners = boxes[str(frame.index)]["face"][0]["box"]
        whole = np.array([[corners[name] for name in ("x1", "y1", "x2", "y2")]])
        crop = choose_crop(whole, image_size=frame.image.shape[:2], size=(512, 512), margin=0.4)
        mask = cv2.imread(str(pictures / f"annotated_frame_{frame.index:05d}.png"), cv2.IMREAD_UNCHANGED)
        true = crop.cut(np.repeat((mask > 0).astype(np.uint8)[..., None], 3, axis=2) * 255)[..., 0] > 127
        face = max(backend.detect(crop.cut(frame.image)), key=lambda face: face.score)
        track = ClipTrack(
            boxes=face.box[None],
            scores=np.ones(1, np.float32),
            keypoints=face.keypoints[None],
            landmarks=face.landmarks[None],
            valid=np.ones(1, bool),
        )
        still = {
            "num_frames": 1,
            "width": 512,
            "height": 512,
            "tracks": (track,),
            "image": b"",
            "video": None,
        }
        photo = replace(clip, **still)
        shown = replace(photo, tracks=(replace(track, boxes=crop.boxes_to_frame(whole)),))
        made = {
            "hull": HullMasks()(photo),
            "bare hull": HullMasks(forehead=0, margin=0)(photo),
            "ellipse in dlib's box": EllipseMasks()(photo),
            "ellipse in the whole box": EllipseMasks()(shown),
        }
        for name, sample in made.items():
            found = masks_of(sample)[0, 0]
            agreement[name].append((found & true).sum() / (found | true).sum())
    means = {name: round(float(np.mean(values)), 2) for name, values in agreement.items()}
    expected = {
        "hull": 0.89,
        "bare hull": 0.65,
        "ellipse in dlib's box": 0.71,
        "ellipse in the whole box": 0.90,
    }
    assert means == pytest.approx(expected, abs=0.015)
