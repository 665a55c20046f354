"""Default mode: what we do otherwise than ConsisID's code, on purpose. Each test names one difference."""

import json
import random

import numpy as np
import pytest
import torch

from portraitgen.data.formats.consisid.best_boxes import find_max_confidence_bbox
from portraitgen.data.formats.consisid.crops import crop_images, face_crops, short_resize_and_crop
from portraitgen.data.formats.consisid.detections import key_by_frame, key_by_track
from portraitgen.data.formats.consisid.frame_indices import (
    generate_frame_indices_for_face,
    get_frame_indices_adjusted_for_face,
)
from portraitgen.data.formats.consisid.references import (
    Person,
    frame_has_required_confidence,
    select_frames_with_distance_constraint,
    select_mask_frames_from_index,
)
from portraitgen.data.formats.consisid.segments import get_valid_segments
from portraitgen.data.formats.consisid.tracks import assign_track_ids
from portraitgen.data.sample import DataError
from portraitgen.media.latent_masks import resize_mask


def detection(x, y, width, height, confidence=0.97, **more):
    return {"confidence": confidence, "box": {"x1": x, "y1": y, "x2": x + width, "y2": y + height}, **more}


def test_ids_are_compared_as_numbers():
    """ConsisID's loader asks for track "1" where the detections say 1, so that no frame ever is sure."""
    frames = {"0": {region: [detection(0, 0, 9, 9, new_track_id=1)] for region in ("face", "head")}}
    assert not frame_has_required_confidence(frames, 0, "1", compat=True)
    assert frame_has_required_confidence(frames, 0, "1")
    assert frame_has_required_confidence(frames, 0, 1)


def test_references_keep_their_distance(shared):
    """Also where the track is given as text, and to every other reference, not to the last one only."""
    golden = shared / "golden" / "consisid_select_frames_with_distance_constraint.json"
    kept = 0
    for case in json.loads(golden.read_text())["cases"]:
        chosen = select_frames_with_distance_constraint(
            *(case[name] for name in ("frames", "num_frames", "min_distance", "control_frame", "bbox_data")),
            str(case["ID"]),
            rng=random.Random(case["seed"]),
            ensure_control_frame=case["ensure_control_frame"],
            fallback=case["fallback"],
        )
        candidates = sorted({*case["frames"], case["control_frame"]})
        if chosen is None:
            assert not case["fallback"]
            continue
        assert len(chosen) == case["num_frames"]
        gaps = np.diff(sorted(chosen))
        if not case["fallback"] or most_far_apart(candidates, case["min_distance"]) > 3 * case["num_frames"]:
            assert (gaps >= case["min_distance"]).all()
            kept += len(chosen) > 1
    assert kept >= 3, "the case must occur"


def most_far_apart(frames, distance):
    count, last = 0, -distance
    for frame in frames:
        if frame - last >= distance:
            count, last = count + 1, frame
    return count


def test_distance_is_kept_to_all_references():
    frames = {
        str(frame): {region: [detection(0, 0, 9, 9, new_track_id=1)] for region in ("face", "head")}
        for frame in range(40)
    }

    def closest(seed, compat):
        chosen = select_frames_with_distance_constraint(
            range(40), 3, 8, 0, frames, 1, rng=random.Random(seed), compat=compat
        )
        return np.diff(sorted(chosen)).min()

    assert min(closest(seed, compat=False) for seed in range(50)) >= 8
    assert min(closest(seed, compat=True) for seed in range(50)) < 8


def test_as_many_crops_as_references():
    """ConsisID returns from inside its loop: one crop, however many references."""
    images = [np.full((200, 256, 3), number, np.uint8) for number in range(3)]
    boxes = [{"x1": 60, "y1": 50, "x2": 100, "y2": 110}] * 3
    wide, tight = crop_images(images, boxes, return_ori=True)
    assert [int(crop[0, 0, 0]) for crop in wide] == [0, 1, 2]
    assert [crop.shape for crop in tight] == [(60, 60, 3)] * 3
    assert len(crop_images(images, boxes, return_ori=True, compat=True)[0]) == 1
    assert crop_images(images, boxes)[1] is None


@pytest.mark.parametrize("left", [0, 100, 210])
def test_a_crop_holds_the_face_at_the_border(left):
    """ConsisID makes the crop square at its right side, through the face, when it meets the upper border."""
    face = {"x1": left, "y1": 0, "x2": left + 40, "y2": 130}
    for crop in face_crops(face, image_size=(140, 256)):
        assert crop.right - crop.left == crop.bottom - crop.top
        assert crop.left <= face["x1"]
        assert crop.right >= face["x2"]
        assert crop.top <= face["y1"]
        assert crop.bottom >= face["y2"]
    with pytest.raises(DataError, match="empty"):
        face_crops({"x1": 5, "y1": 5, "x2": 5, "y2": 5}, image_size=(140, 256))


def two_people(num_frames=40):
    """Frames with two people, objects 1-3 and 4-6; read_mask says which object was read."""
    bbox_data = {
        str(frame): {
            "head": [detection(10 * track, 0, 9, 9, new_track_id=track) for track in (1, 2)],
            "face": [detection(10 * track, 0, 5, 5, new_track_id=track) for track in (1, 2)],
        }
        for frame in range(num_frames)
    }
    return Person(
        track="2",
        bbox_data=bbox_data,
        corresponding_data={
            "1": {"face": 1, "head": 2, "person": 3},
            "2": {"face": 4, "head": 5, "person": 6},
        },
        control_sam2_frame={track: {"face": 3, "head": 7} for track in ("1", "2")},
        valid_frame={"face": list(range(num_frames)), "head": list(range(num_frames))},
        read_mask=lambda number, frame: np.arange(8)[None] < number,
    )


def test_masks_are_those_of_the_object_of_the_person():
    """ConsisID opens the folder whose number is the track's: for track 2 the head of track 1."""
    found = select_mask_frames_from_index(
        two_people(), range(40), [0, 1], rng=random.Random(0), dense_masks=True, max_frames=3
    )
    assert {int(mask.sum()) for mask in found.masks + found.clip_masks} == {4}
    as_official = select_mask_frames_from_index(
        two_people(), range(40), [0], rng=random.Random(0), compat=True
    )
    assert {int(mask.sum()) for mask in as_official.masks} == {2}


def test_a_reference_without_head_box_takes_the_face_box():
    """ConsisID takes the box of the reference before, or fails at the first."""
    person = two_people()
    for objects in person.bbox_data.values():
        objects["head"] = objects["head"][:1]
    found = select_mask_frames_from_index(person, range(40), [], rng=random.Random(0), min_frames=2)
    assert {box["x2"] - box["x1"] for box in found.boxes} == {5}
    with pytest.raises(DataError, match="neither head nor face"):
        select_mask_frames_from_index(person, range(40), [], rng=random.Random(0), compat=True)


def test_too_few_references_say_so():
    with pytest.raises(DataError, match="9 reference frames asked for, 4 can be used"):
        select_mask_frames_from_index(
            two_people(4), range(4), [], rng=random.Random(0), min_frames=9, max_frames=9,
            ensure_control_frame=False,
        )  # fmt: skip
    person = two_people()
    person.valid_frame.pop("head")
    with pytest.raises(DataError, match="valid_frame of track '2' has no 'head'"):
        select_mask_frames_from_index(person, range(40), [], rng=random.Random(0))


def test_a_portrait_clip_keeps_its_face():
    """The middle of a portrait clip (720x940), cut to landscape, leaves out the face and all of its mask."""
    mask = torch.zeros(1, 940, 720, 1, dtype=torch.uint8)
    mask[:, 56:150, 320:400] = 1
    box = np.array([320, 56, 400, 150], np.float32)
    assert short_resize_and_crop(mask, size=(480, 720), keep=None).sum() == 0
    assert short_resize_and_crop(mask, size=(480, 720), keep=box).sum() == mask.sum()
    # Scaled too: the whole box stays inside.
    small = short_resize_and_crop(mask * 255, size=(120, 180), keep=box)[0, ..., 0]
    assert (small > 127).sum() == pytest.approx(94 * 80 / 16, rel=0.05)


def test_a_face_in_the_middle_leaves_the_cut_in_the_middle():
    frames = torch.randint(0, 256, (1, 940, 720, 3), dtype=torch.uint8)
    box = np.array([300, 400, 400, 500], np.float32)
    centred = short_resize_and_crop(frames, size=(480, 720), keep=None)
    assert torch.equal(short_resize_and_crop(frames, size=(480, 720), keep=box), centred)
    # One that is taller than the cut is shown from its middle.
    tall = np.array([300, 100, 400, 700], np.float32)
    assert torch.equal(short_resize_and_crop(frames, size=(480, 720), keep=tall), frames[:, 160:640])


def test_masks_follow_the_time_axis_of_the_causal_vae():
    """Latent frame 0 is frame 0, each further one stands for four frames; ConsisID spreads them evenly."""
    ramp = torch.arange(49.0).reshape(1, 1, 49, 1, 1)
    centres = resize_mask(ramp, (13, 1, 1)).flatten()
    assert torch.equal(centres, torch.tensor([0.0, *(2.5 + 4 * k for k in range(12))]))
    assert torch.equal(resize_mask(ramp[:, :, :1], (1, 1, 1)), ramp[:, :, :1])


def test_repeated_frames_are_spread_evenly():
    assert get_frame_indices_adjusted_for_face([0, 1, 2, 3, 4], 8) == [0, 0, 1, 1, 2, 3, 3, 4]
    assert get_frame_indices_adjusted_for_face([0, 1], 5) == [0, 0, 0, 1, 1]


def test_clips_avoid_holes_where_they_can():
    """ConsisID starts anywhere and repeats frames when it meets a hole within the tolerance."""
    frames = [frame for frame in range(100) if frame != 50]
    valid = {"face": frames, "head": frames}
    lengths = {
        compat: {
            generate_frame_indices_for_face(10, 3, valid, rng=random.Random(seed), compat=compat)[1]
            for seed in range(60)
        }
        for compat in (False, True)
    }
    assert lengths[False] == {10}
    assert len(lengths[True]) > 1


def test_a_missed_detection_does_not_end_a_track():
    """ConsisID matches with the frame before only, so that whoever is missed once gets another id."""
    frames = {
        str(frame): {
            "person": [detection(100 * who, 0, 60, 150) for who in (0, 1) if (frame, who) != (2, 1)],
            "head": [detection(100 * who + 15, 0, 30, 40) for who in (0, 1)],
            "face": [detection(100 * who + 20, 10, 20, 25) for who in (1, 0)],
        }
        for frame in range(5)
    }
    tracked = assign_track_ids(frames)
    for frame, objects in tracked.items():
        assert [item["new_track_id"] for item in objects["head"]] == [1, 2], frame
        assert [item["new_track_id"] for item in objects["face"]] == [2, 1], frame
    assert [item["new_track_id"] for item in tracked["4"]["person"]] == [1, 2]
    assert "new_track_id" not in frames["0"]["person"][0], "the input stays as it is"


def test_two_people_never_share_an_id():
    """Where two boxes overlap the same earlier one, ConsisID gives both its id."""
    frames = {
        "0": {region: [detection(0, 0, 100, 100)] for region in ("person", "head", "face")},
        "1": {region: [detection(x, 0, 100, 100) for x in (2, 4)] for region in ("person", "head", "face")},
    }
    ids = {
        compat: [item["new_track_id"] for item in assign_track_ids(frames, compat=compat)["1"]["person"]]
        for compat in (False, True)
    }
    assert ids == {False: [1, 2], True: [1, 1]}


def test_the_face_of_a_head_is_of_the_same_frame():
    """ConsisID keeps the face of an earlier frame when the best head's frame has none."""
    frames = {
        str(frame): {
            "head": [detection(0, 0, 9, 9, 0.9 + frame / 20, new_track_id=1)],
            "face": [detection(1, 1, 5, 5, **({} if frame else {"new_track_id": 1}))],
        }
        for frame in (0, 1)
    }
    assert find_max_confidence_bbox(frames, 1)[1] == {1: {}}
    with pytest.raises(DataError, match="frame 1 has a face without new_track_id"):
        find_max_confidence_bbox(frames, 1, compat=True)
    frames["1"]["face"] = []
    assert find_max_confidence_bbox(frames, 1, compat=True)[1][1]["face_frame_id"] == "0"


def test_no_valid_frame_is_one_clear_error():
    with pytest.raises(DataError, match="no frame of face or head"):
        get_valid_segments({"face": [], "head": []})


def test_detections_change_between_both_keys():
    frames = {
        "0": {"face": [detection(0, 0, 5, 5, new_track_id=2), detection(9, 0, 5, 5, new_track_id=1)]},
        "1": {},
        "2": {"head": [detection(0, 0, 9, 9, new_track_id=1)]},
    }
    tracks = key_by_track(frames)
    assert tracks["1"]["frames"] == [0, 2]
    assert tracks["1"]["head"] == [{"frame_id": 2, **detection(0, 0, 9, 9)}]
    again = key_by_frame(tracks, num_frames=3)
    assert key_by_track(again) == tracks
    assert sorted(map(str, again["0"]["face"])) == sorted(map(str, frames["0"]["face"]))
    assert key_by_frame(frames, num_frames=3) == frames
    with pytest.raises(DataError, match="not one of the clip's frames 0 to 1"):
        key_by_frame(tracks, num_frames=2)
    with pytest.raises(DataError, match="'x1' is not a number"):
        key_by_frame({"x1": {"frames": []}}, num_frames=2)
