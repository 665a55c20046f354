"""`prepare.py import_consisid` and `export_consisid`, with ConsisID's own real clip and others."""

import json
import logging
import shutil
from fractions import Fraction
from itertools import islice

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from portraitgen.data.catalog import Catalog
from portraitgen.data.formats.consisid.layout import read_annotations
from portraitgen.data.reader import ClipReader
from portraitgen.faces.dlib import DlibBackend
from portraitgen.media.audio import decode_wav, read_audio
from portraitgen.media.decode import iter_frames, read_video
from portraitgen.media.encode import write_video
from portraitgen.runs.config.schema import register_configs
from portraitgen.runs.prepare.consisid import export_consisid, import_consisid

NAME = "81FyMPk-WIS_segment_0_243_noFacePose_0_243"


@pytest.fixture
def run(repository, caplog):
    """Run a word of prepare.py with these settings; gives what was said."""
    tasks = {"import": import_consisid, "export": export_consisid}

    def run_word(word, **settings):
        register_configs()
        with initialize_config_dir(str(repository / "conf"), version_base="1.3"):
            overrides = [f"{key}={value}" for key, value in settings.items()]
            config = compose(f"prepare_{word}_consisid", overrides)
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="portraitgen.runs"):
            tasks[word](config)
        return caplog.messages

    return run_word


def samples_of(out):
    catalog = Catalog(str(out / "shards" / "*.tar"))
    reader = ClipReader(catalog)
    return [
        reader.sample(shard, row) for shard, index in enumerate(catalog.indexes) for row in range(len(index))
    ]


def write_clip(folder, name, images, *, fps=25):
    """A clip with one person, whose face box is the detector's, made a little larger."""
    faces = [DlibBackend().detect(image)[0] for image in images]

    def item(face, grow):
        corners = (face.box + np.array([-grow, -grow, grow, grow])).tolist()
        box = dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True))
        return {"name": "FACE", "class": 0, "confidence": 0.9, "box": box, "track_id": 1, "new_track_id": 1}

    boxes = {
        str(frame): {"face": [item(face, 3)], "head": [item(face, 15)]} for frame, face in enumerate(faces)
    }
    contents = {
        f"refine_bbox_jsons/{name}.json": boxes,
        f"track_masks_data/{name}/corresponding_data.json": {},
        f"track_masks_data/{name}/control_sam2_frame.json": {},
        f"track_masks_data/{name}/valid_frame.json": {},
    }
    for file, content in contents.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(content))
    (folder / "videos").mkdir(exist_ok=True)
    write_video(folder / "videos" / f"{name}.mp4", images, fps=Fraction(fps))
    return faces


@pytest.fixture(scope="module")
def man(carphone):
    return [frame.image for frame in islice(iter_frames(carphone), 8)]


@pytest.mark.parametrize("step", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_the_demo_goes_there_and_back(run, shared, tmp_path, step):
    """Every table, every mask, the caption and the video come back as they were."""
    demo = shared / "testdata" / "consisid_demo"
    out, back = tmp_path / "shards", tmp_path / "back"
    messages = run("import", source=demo, out=out, workers=0)
    assert "1 video: 1 clip (244 frames) written" in messages
    (sample,) = samples_of(out)
    (track,) = sample.tracks
    assert (sample.num_frames, sample.height, sample.width) == (244, 940, 720)
    assert track.mask_ids == {"face": 1, "head": 2, "person": 3}
    assert track.control_frames == {"face": 123, "head": 131, "person": 112}
    for region in track.regions().values():
        assert region.valid.all()
    assert track.head.boxes[0, :2].tolist() == pytest.approx([317.06332, 24.91242])
    assert sample.source["consisid"]["tables"] == {}, "the tracks say all that the tables say"
    assert sample.caption.startswith("The video features a woman modeling a long, elegant dress")
    assert run("import", source=demo, out=out, workers=0)[0].endswith("nothing to do")

    messages = run("export", shards=out / "shards" / "*.tar", out=back, videos=demo)
    assert messages[-1].startswith("1 clip written, 1 with the original video")
    there = demo / "dataname"
    for file in sorted(there.rglob("*.json")):
        if file.parent.name != "captions":
            assert json.loads((back / file.relative_to(there)).read_text()) == json.loads(file.read_text())
    (captions,) = (there / "captions").iterdir()
    assert json.loads((back / "captions" / "captions.json").read_text()) == json.loads(captions.read_text())
    assert (back / "videos" / f"{NAME}.mp4").read_bytes() == (there / "videos" / f"{NAME}.mp4").read_bytes()
    assert (
        back / "total_train_data.txt"
    ).read_text() == f"{back}/videos,{back}/captions/captions.json,{back}\n"

    masks = sorted(there.rglob("*.png"))
    assert len(masks) == 3 * 244
    assert sorted(file.relative_to(back) for file in back.rglob("*.png")) == [
        file.relative_to(there) for file in masks
    ]
    for file in masks[::step]:
        pair = [
            cv2.imread(str(root / file.relative_to(there)), cv2.IMREAD_UNCHANGED) for root in (there, back)
        ]
        assert pair[0].dtype == pair[1].dtype == np.uint16
        assert np.array_equal(*pair), file.name


def test_landmarks_are_found_where_the_boxes_are(run, man, tmp_path):
    faces = write_clip(tmp_path / "data", "man", man)
    out = tmp_path / "out"
    run("import", source=tmp_path / "data", out=out, workers=0, landmarks="true")
    (sample,) = samples_of(out)
    (track,) = sample.tracks
    assert sample.landmark_scheme == "ibug68"
    assert track.valid.all()
    for frame, face in enumerate(faces):
        assert np.abs(track.landmarks[frame] - face.landmarks).max() < 4, "the picture was encoded in between"
    assert track.boxes[0].tolist() == pytest.approx((faces[0].box + [-3, -3, 3, 3]).tolist())
    run("export", shards=out / "shards" / "*.tar", out=tmp_path / "back", keyed_by="track")
    back = read_annotations(tmp_path / "back", "man", num_frames=8)
    assert back.bbox_data["1"]["frames"] == list(range(8))
    assert back.valid_frame == {}, "as it was, though the landmarks say more"

    # What was exported is imported from its list, keyed by track as it now is.
    listed = tmp_path / "back" / "total_train_data.txt"
    run("import", source=listed, out=tmp_path / "again", root="/", workers=0)
    (again,) = samples_of(tmp_path / "again")
    assert np.array_equal(again.tracks[0].boxes, track.boxes)


def test_a_clip_that_cannot_be_used_is_one_line(run, man, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    write_clip(data / "a", "good", man)
    for name in ("bad", "gone"):
        write_clip(data / "b", name, man)
    (data / "b" / "track_masks_data" / "bad" / "valid_frame.json").write_text("{")
    (data / "b" / "videos" / "gone.mp4").unlink()
    messages = run("import", source=data, out=out, workers=0)
    assert "3 videos: 1 clip (8 frames) written, 2 skipped" in messages
    assert any("valid_frame.json: cannot be read as JSON" in message for message in messages)
    assert any("b/gone: " in message and "no video of clip 'gone'" in message for message in messages)


def test_sound_and_odd_sizes_come_along(run, shared, tmp_path):
    """A real clip with sound, cut to a size that is no multiple of 4, keeps both."""
    data, out = tmp_path / "data", tmp_path / "out"
    images = read_video(shared / "testdata" / "clips" / "RD_Radio10_0_clip_0.mp4")
    write_clip(data, "talk", images[:3, :510, :506])
    cut = data / "videos" / "talk.mp4"
    run("import", source=data, out=out, workers=0)
    (silent,) = samples_of(out)
    assert silent.audio is None
    assert (silent.height, silent.width) == (512, 508)
    run("export", shards=out / "shards" / "*.tar", out=tmp_path / "back")
    back = read_video(tmp_path / "back" / "videos" / "talk.mp4")
    assert back.shape == (3, 510, 506, 3)
    assert np.abs(back.astype(int) - read_video(cut)).mean() < 4, "encoded twice"

    boxes = json.loads((data / "refine_bbox_jsons" / "talk.json").read_text())
    shutil.copy(shared / "testdata" / "clips" / "AOC_short.mp4", cut)
    frames = {str(frame): boxes["0"] for frame in range(137)}
    (data / "refine_bbox_jsons" / "talk.json").write_text(json.dumps(frames))
    run("import", source=data, out=out, workers=0)
    (talking,) = samples_of(out)
    (sound, _), whole = decode_wav(talking.audio), read_audio(cut)
    assert len(sound) == round(137 / talking.fps * 16_000)
    assert np.corrcoef(sound[: len(whole)], whole[: len(sound)])[0, 1] > 0.99


@pytest.fixture(scope="module")
def cut_demo(repository, shared, tmp_path_factory):
    """ConsisID's portrait clip at the size that it trains on."""
    out = tmp_path_factory.mktemp("cut") / "out"
    register_configs()
    with initialize_config_dir(str(repository / "conf"), version_base="1.3"):
        words = [f"source={shared}/testdata/consisid_demo", f"out={out}", "workers=0", "size=[480,720]"]
        import_consisid(compose("prepare_import_consisid", words))
    return out


def test_the_portrait_demo_keeps_its_face_and_its_mask(cut_demo, run, shared, tmp_path):
    """The official cut, the middle, has an empty mask in every frame: its masked loss is 0/0."""
    (sample,) = samples_of(cut_demo)
    (track,) = sample.tracks
    assert (sample.height, sample.width, sample.num_frames) == (480, 720, 244)
    assert track.valid.all()
    assert (track.boxes[:, :2] >= 0).all()
    assert (track.boxes[:, 2:] <= [720, 480]).all()
    catalog = Catalog(str(cut_demo / "shards" / "*.tar"))
    reader, frames = ClipReader(catalog), np.arange(0, 244, 27)
    masks = reader.masks(0, 0, 0, frames)
    assert masks.shape == (10, 480, 720)
    for mask, box in zip(masks, track.boxes[frames], strict=True):
        rows, columns = np.nonzero(mask)
        outline = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(outline - box).max() < 12, "mask and box moved together"
    folder = shared / "testdata" / "consisid_demo" / "dataname"
    (original,) = folder.glob("videos/*.mp4")
    (first,) = list(islice(iter_frames(original), 1))
    planes = np.empty((1, 720, 720), np.uint8)
    reader.frames(0, 0, np.array([0]), out=planes)
    shown = cv2.cvtColor(planes[0], cv2.COLOR_YUV2RGB_I420).astype(int)
    top = round(float(sample.affine.reshape(-1, 2, 3)[0, 1, 2]))
    assert 0 <= top <= 56, "the face's upper edge"
    assert np.abs(shown - first.image[top : top + 480]).mean() < 4

    # What is exported of it is a clip of its own, not the original one.
    run("export", shards=cut_demo / "shards" / "*.tar", out=tmp_path / "back", videos=folder / "videos")
    assert next(iter_frames(next((tmp_path / "back" / "videos").glob("*.mp4")))).image.shape == (480, 720, 3)


def test_windows_of_49_frames_three_apart_have_masks(cut_demo):
    """What ConsisID trains on, out of our loader: uint8, of the stored size."""
    from tests.data.modules import clip_module

    module = clip_module(
        str(cut_demo / "shards" / "*.tar"), clip_frames=49, stride=3, masks="face", reference=None,
        captions=True, samples_per_epoch=2, batch_size=1, num_workers=0,
    )  # fmt: skip
    for batch in module.train_dataloader():
        assert batch["frames"].dtype == torch.uint8
        assert batch["frames"].shape == (1, 49, 720, 720)
        assert (batch["masks"].sum(dim=(2, 3)) > 0).all()
        assert batch["caption"][0].startswith("The video features a woman")


def test_what_only_the_detectors_have_seen_gets_people_and_masks(run, shared, tmp_path):
    """The demo as it was before ConsisID's steps 3 and 4: the same person, followed from the same frames."""
    demo, data = shared / "testdata" / "consisid_demo" / "dataname", tmp_path / "data"
    boxes = json.loads((demo / "refine_bbox_jsons" / f"{NAME}.json").read_text())
    for objects in boxes.values():
        for item in [*objects["face"], *objects["head"], *objects["person"]]:
            item.pop("new_track_id", None)
    for folder in ("refine_bbox_jsons", "videos"):
        (data / folder).mkdir(parents=True)
    (data / "refine_bbox_jsons" / f"{NAME}.json").write_text(json.dumps(boxes))
    shutil.copy(demo / "videos" / f"{NAME}.mp4", data / "videos")
    out = tmp_path / "out"
    run("import", source=data, out=out, workers=0, masks="ellipse", size="[480,720]")
    (sample,) = samples_of(out)
    (track,) = sample.tracks
    assert track.valid.all()
    assert track.control_frames == {"face": 123, "head": 131, "person": 112}
    assert sample.masks.source == "ellipse"
    assert (
        ClipReader(Catalog(str(out / "shards" / "*.tar")))
        .masks(0, 0, 0, np.array([0, 100]))
        .any(axis=(1, 2))
        .all()
    )


def test_what_cannot_be_is_named(run, tmp_path):
    with pytest.raises(ValueError, match=r"source=.*absent: give a list of ConsisID \(\.txt\), or a folder"):
        run("import", source=tmp_path / "absent", out=tmp_path / "out")
    with pytest.raises(ValueError, match="no refine_bbox_jsons in it"):
        run("import", source=tmp_path, out=tmp_path / "out")
    with pytest.raises(ValueError, match="clips_per_shard and min_frames"):
        run("import", source=tmp_path, out=tmp_path / "out", clips_per_shard=0)
    with pytest.raises(ValueError, match=r"size=480: give \[height,width\], multiples of 4"):
        run("import", source=tmp_path, out=tmp_path / "out", size=480)
    with pytest.raises(ValueError, match="masks=hull: hulls are of landmarks; set landmarks=true"):
        run("import", source=tmp_path, out=tmp_path / "out", masks="hull")
    with pytest.raises(ValueError, match="keyed_by=person: give frame, track, or null"):
        run("export", shards="x.tar", out=tmp_path / "out", keyed_by="person")
    with pytest.raises(ValueError, match=r"videos=.*: no such folder"):
        run("export", shards="x.tar", out=tmp_path / "out", videos=tmp_path / "absent")
