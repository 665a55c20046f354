"""Compatibility mode: the same results as ConsisID's own functions, case by case (seeded where random)."""

import json
import random
from itertools import islice

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from portraitgen.data.formats.consisid.best_boxes import find_max_confidence_bbox, mask_objects
from portraitgen.data.formats.consisid.crops import crop_images, short_resize_and_crop
from portraitgen.data.formats.consisid.detections import (
    compute_iou,
    estimate_num_people,
    find_frames_with_fewer_person_boxes,
    fix_bbox_with_pose,
)
from portraitgen.data.formats.consisid.frame_indices import (
    Skip,
    generate_frame_indices,
    generate_frame_indices_for_face,
    get_frame_indices_adjusted_for_face,
)
from portraitgen.data.formats.consisid.order import shuffled_epoch
from portraitgen.data.formats.consisid.references import (
    Person,
    frame_has_required_confidence,
    select_frames_with_distance_constraint,
    select_mask_frames_from_index,
)
from portraitgen.data.formats.consisid.segments import (
    extract_useful_frames,
    extract_valid_segments_from_filtered_data,
    get_valid_segments,
    merge_segments,
)
from portraitgen.data.formats.consisid.tracks import assign_track_ids
from portraitgen.data.sample import DataError
from portraitgen.media.latent_masks import resize_mask


@pytest.fixture
def golden(shared):
    """Reads the golden file of a function."""
    return lambda name: json.loads((shared / "golden" / f"consisid_{name}.json").read_text())


def outcome(function, *args, **kwargs):
    """What a function returns; "error" where it raises ours."""
    try:
        return function(*args, **kwargs)
    except DataError:
        return "error"


def expected(case):
    return "error" if "error" in case else case["ok"]


def skip_of(kwargs):
    return Skip(**{name.removeprefix("skip_frames_"): value for name, value in kwargs.items()})


def as_json(value):
    """As JSON has it: text keys, lists."""
    return json.loads(json.dumps(value))


def test_compute_iou(golden):
    for case in golden("compute_iou")["cases"]:
        assert compute_iou(case["box1"], case["box2"]) == pytest.approx(case["ok"], abs=1e-12)


def test_estimate_num_people(golden):
    for case in golden("estimate_num_people")["cases"]:
        people = estimate_num_people(case["data"])
        assert people == expected(case["num_people"])
        assert find_frames_with_fewer_person_boxes(case["data"], people) == expected(case["fewer"])


def test_persons_of_the_pose_detector_fill_in():
    pose = {"class": 0, "confidence": 0.8, "box": {"x1": 1}, "track_id": 3, "keypoints": {}}
    frames = {"0": {"person": [], "pose": [pose]}, "1": {"person": [1], "pose": []}, "2": {"pose": [pose]}}
    fixed = fix_bbox_with_pose(frames, ["0", 1])
    found = {"name": "person", "class": 0, "confidence": 0.8, "box": {"x1": 1}, "track_id": 3}
    assert fixed == {**frames, "0": {"person": [found], "pose": [pose]}}
    assert frames["0"]["person"] == []


def test_assign_track_ids(golden):
    for case in golden("assign_track_ids")["cases"]:
        found = outcome(assign_track_ids, case["input"], compat=True)
        if found != "error":
            found = {
                frame: {
                    region: [item.get("new_track_id") for item in objects.get(region, [])]
                    for region in wanted
                }
                for (frame, objects), wanted in zip(
                    found.items(), case["new_track_ids"].values(), strict=True
                )
            }
        assert found == case.get("new_track_ids", "error")


def test_find_max_confidence_bbox(golden):
    for case in golden("find_max_confidence_bbox")["cases"]:
        threshold = case["confidence_threshold"]
        best, faces = find_max_confidence_bbox(case["data"], case["max_people"], threshold, compat=True)
        corresponding, control = mask_objects(best)
        assert as_json(best) == case["ok"]["best"]
        assert as_json(faces) == case["ok"]["head_to_face"]
        assert corresponding == case["ok"]["corresponding_data"]
        assert control == case["ok"]["control_sam2_frame"]


def test_find_max_confidence_bbox_on_the_demo_clip(shared):
    folder = shared / "testdata" / "consisid_demo" / "dataname"
    (file,) = (folder / "refine_bbox_jsons").iterdir()
    best, _ = find_max_confidence_bbox(json.loads(file.read_text()), 1)
    corresponding, control = mask_objects(best)
    assert corresponding == {"1": {"face": 1, "head": 2, "person": 3}}
    assert control == {"1": {"face": 123, "head": 131, "person": 112}}


def test_split_segments(golden):
    for case in golden("split_segments")["cases"]:
        length = case["min_valid_frames"]
        useful = extract_useful_frames(case["data"], min_valid_frames=length, tolerance=case["tolerance"])
        assert useful == expected(case["useful"])
        poses = {str(frame): case["data"][str(frame)]["pose"] for segment in useful for frame in segment}
        valid = extract_valid_segments_from_filtered_data(
            poses, min_valid_frames=length, tolerance=case["pose_tolerance"]
        )
        assert valid == expected(case["valid"])
        assert merge_segments(useful, valid) == case["merged"]


def test_get_valid_segments(golden):
    for case in golden("get_valid_segments")["cases"]:
        assert outcome(get_valid_segments, case["valid_frame"], case["tolerance"]) == expected(case)


def test_get_frame_indices_adjusted_for_face(golden):
    for case in golden("get_frame_indices_adjusted_for_face")["cases"]:
        found = outcome(
            get_frame_indices_adjusted_for_face, case["valid_frames"], case["n_frames"], compat=True
        )
        assert found == expected(case)


def test_generate_frame_indices_for_face(golden):
    for case in golden("generate_frame_indices_for_face")["cases"]:
        found = outcome(
            generate_frame_indices_for_face,
            case["n_frames"],
            case["sample_stride"],
            case["valid_frame"],
            rng=random.Random(case["seed"]),
            tolerance=case["tolerance"],
            skip=skip_of(case["kwargs"]),
            compat=True,
        )
        if found != "error":
            found = dict(zip(("indices", "length"), found, strict=True))
        assert found == expected(case)


def test_generate_frame_indices_without_faces(golden):
    for case in golden("generate_frame_indices_noface")["cases"]:
        found = outcome(
            generate_frame_indices,
            case["video_length"],
            case["n_frames"],
            case["sample_stride"],
            rng=random.Random(case["seed"]),
            skip=skip_of(case["kwargs"]),
            compat=True,
        )
        assert found == expected(case)


def test_frame_has_required_confidence(golden):
    cases = golden("frame_has_required_confidence")
    for case in cases["cases"]:
        arguments = (case["frame"], case["ID"], case["conf_threshold"])
        found = outcome(frame_has_required_confidence, cases["bbox_data"], *arguments, compat=True)
        assert found == expected(case)


def select_frames(case, compat, track=None):
    return select_frames_with_distance_constraint(
        case["frames"],
        case["num_frames"],
        case["min_distance"],
        case["control_frame"],
        case["bbox_data"],
        case["ID"] if track is None else track,
        rng=random.Random(case["seed"]),
        ensure_control_frame=case["ensure_control_frame"],
        fallback=case["fallback"],
        compat=compat,
    )


def test_select_frames_with_distance_constraint(golden):
    cases = golden("select_frames_with_distance_constraint")["cases"]
    for case in cases:
        assert select_frames(case, compat=True) == case["ok"]
    assert {type(case["ID"]) for case in cases} == {int, str}


def person_of(case):
    """The case's person; object i's mask in frame f is an 8x8 rectangle whose size says i and f."""

    def read_mask(number, frame):
        mask = np.zeros((8, 8), np.uint16)
        mask[: frame % 8 + 1, : (frame * 3 + number) % 8 + 1] = number
        return mask

    tables = ("bbox_data", "corresponding_data", "control_sam2_frame", "valid_frame")
    return Person(track=case["valid_id"], read_mask=read_mask, **{name: case[name] for name in tables})


def select_masks(case, compat):
    return select_mask_frames_from_index(
        person_of(case),
        case["batch_frame"],
        case["original_batch_frame"],
        rng=random.Random(case["seed"]),
        compat=compat,
        **case["kwargs"],
    )


def test_select_mask_frames_from_index(golden):
    for case in golden("select_mask_frames_from_index")["cases"]:
        found = outcome(select_masks, case, compat=True)
        if found != "error":
            found = {
                "frames": found.frames,
                "bboxes": found.boxes,
                "mask_sums": [int(mask.sum()) for mask in found.masks],
                "dense_mask_sums": [int(mask.sum()) for mask in found.clip_masks],
            }
        assert found == expected(case)


def test_the_demo_clip_from_frames_to_faces(shared, golden):
    """All together on the real clip, with the settings and the seed (0) of the measured run."""
    folder = shared / "testdata" / "consisid_demo" / "dataname"
    (file,) = (folder / "refine_bbox_jsons").iterdir()
    annotations = folder / "track_masks_data" / file.stem
    names = ("corresponding_data", "control_sam2_frame", "valid_frame")
    tables = {name: json.loads((annotations / f"{name}.json").read_text()) for name in names}

    def read_mask(number, frame):
        mask = annotations / "tracking_mask_results" / str(number) / f"annotated_frame_{frame:05d}.png"
        return cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)

    person = Person(
        track="1",
        bbox_data=json.loads(file.read_text()),
        **{**tables, "valid_frame": tables["valid_frame"]["1"]},
        read_mask=read_mask,
    )
    cases = golden("dataset_demo_shapes")
    runs = {"script_defaults": (1, 1, False), "max5": (3, 5, False), "cross": (1, 1, True)}
    for name, (least, most, cross) in runs.items():
        rng = random.Random(0)
        rng.choice(["1"])  # the person is drawn first
        clip, _ = generate_frame_indices_for_face(
            49, 3, person.valid_frame, rng=rng, tolerance=6, skip=Skip(7, 7), compat=True
        )
        batch = [frame for frame in range(244) if frame not in clip] if cross else clip
        found = select_mask_frames_from_index(
            person,
            batch,
            clip[::8],
            rng=rng,
            min_frames=least,
            max_frames=most,
            dense_masks=name == "script_defaults",
            ensure_control_frame=not cross,
            compat=True,
        )
        selected = cases[name]["selected"]
        assert found.frames == selected[: len(found.frames)]
        assert not any(selected[len(found.frames) :]), "the rest is padding"
        if name == "script_defaults":
            masks = torch.from_numpy(np.stack(found.clip_masks)[..., None].astype(np.uint8))
            shape, most_inside = masks.shape, short_resize_and_crop(masks, size=(480, 720), keep=None).max()
            assert shape == (7, 940, 720, 1)
            assert most_inside == cases[name]["dense_masks_tensor"]["max"] == 0
            # As the official reader decodes it: HD that states no matrix taken for BT.601.
            with av.open(str(folder / "videos" / f"{file.stem}.mp4")) as video:
                frame = next(islice(video.decode(video=0), 131, None)).to_ndarray(format="rgb24")
            crops = crop_images([frame], found.boxes, return_ori=True, compat=True)
            for (crop,), wanted in zip(crops, ("expand_face_imgs", "original_face_imgs"), strict=True):
                scaled = np.asarray(Image.fromarray(crop).resize((480, 480), Image.Resampling.LANCZOS))
                assert scaled.mean() == pytest.approx(cases[name][wanted]["mean"], abs=1)


def test_crop_images(golden):
    rows, columns = np.mgrid[:200, :256].astype(np.uint8)
    video = [np.stack([columns, rows, np.full_like(rows, number)], axis=-1) for number in range(4)]

    def read_back(crop):
        if not crop.size:
            return {"shape": list(crop.shape)}
        left, top, frame = crop[0, 0].tolist()
        return {"x1": left, "y1": top, "w": crop.shape[1], "h": crop.shape[0], "frame": frame}

    for case in golden("crop_images")["cases"]:
        images = [video[frame] for frame in case["frames"]]
        wide, tight = crop_images(images, case["bboxes"], return_ori=case["return_ori"], compat=True)
        assert list(map(read_back, wide)) == case["ok"]["expanded"]
        assert list(map(read_back, tight)) == case["ok"]["original"]


def test_short_resize_and_crop(golden):
    for case in golden("short_resize_and_crop")["cases"]:
        generator = torch.Generator().manual_seed(case["seed"])
        frames = (torch.rand(2, *case["in_hw"], 3, generator=generator) * 255).to(torch.uint8)
        found = short_resize_and_crop(frames, size=tuple(case["target_hw"]), keep=None)
        assert list(found.shape) == case["out_shape"]
        assert abs(found.flatten()[:8].int() - torch.tensor(case["first8"])).max() <= 1
        assert found.float().mean().item() == pytest.approx(case["mean"], abs=0.01)


def frame_centres(frames, latent_frames, compat):
    """Which frame each latent frame stands for: a ramp over time tells."""
    ramp = torch.arange(frames).float().reshape(1, 1, -1, 1, 1).expand(1, 1, frames, 2, 2)
    return resize_mask(ramp, (latent_frames, 2, 2), compat=compat)[0, 0, :, 0, 0].tolist()


def test_resize_mask(golden):
    for case in golden("resize_mask")["cases"]:
        compat = not case["process_first_frame_only"]
        if "T" in case:
            found = frame_centres(case["T"], case["latent_T"], compat)
            assert found == pytest.approx(case["frame_centre_per_latent"], abs=1e-4)
        else:
            generator = torch.Generator().manual_seed(case["seed"])
            mask = (torch.rand(1, 1, 9, 16, 24, generator=generator) > 0.6).float()
            found = resize_mask(mask, case["latent_shape"][2:], compat=compat)
            assert found.flatten().tolist()[: len(case["out"])] == pytest.approx(case["out"], abs=1e-6)


def test_random_sampler(golden):
    for case in golden("random_sampler")["cases"]:
        generator = torch.Generator().manual_seed(case["seed"])
        assert shuffled_epoch(case["n"], generator, start=case["pos_start"]) == case["first_epoch"]
        assert shuffled_epoch(case["n"], generator) == case["second_epoch"]
