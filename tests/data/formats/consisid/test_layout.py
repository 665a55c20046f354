"""ConsisID's layout: read into samples, through a shard, and written back with nothing lost."""

import json
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest

from portraitgen.data.catalog import Catalog
from portraitgen.data.formats.consisid.captions import read_clip_list
from portraitgen.data.formats.consisid.layout import clip_names, read_annotations, write_annotations
from portraitgen.data.formats.consisid.samples import annotations_of, export_clip, import_clip
from portraitgen.data.members import sample_from_members, sample_members
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import ClipMasks, ClipRegion, DataError
from portraitgen.data.shards import ShardWriter
from portraitgen.media.decode import read_video
from portraitgen.media.encode import write_video
from portraitgen.media.masks import encode_rle_batch
from tests.synthetic import synthetic_clip

T, HEIGHT, WIDTH = 13, 62, 50
TABLES = ("corresponding_data", "control_sam2_frame", "valid_frame")


def read_json(file):
    return json.loads(file.read_text())


def write_json(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def mask_of(number, frame):
    mask = np.zeros((HEIGHT, WIDTH), np.uint16)
    mask[number : 20 + frame, 10 : 30 + number] = number
    return mask


@pytest.fixture
def layout(tmp_path):
    """A clip with two people, of a size that is no multiple of 4; track 2 is seen longer than track 1."""
    folder = tmp_path / "data"

    def item(track, frame, **more):
        box = {"x1": 1.5 * frame, "y1": 2.0, "x2": 1.5 * frame + 10 * track, "y2": 20.25}
        return {
            "name": "FACE",
            "class": 0,
            "confidence": 0.9 + frame / 1000,
            "box": box,
            "track_id": 7,
            **more,
        }

    boxes = {
        str(frame): {
            "face": [item(2, frame, new_track_id=2)] + [item(1, frame, new_track_id=1)] * (frame > 3),
            "head": [item(2, frame)] if frame % 5 else [],
            "pose": [{"keypoints": {"visible": [0.1, 0.9]}}],
        }
        for frame in range(T)
        if frame != 6
    }
    write_json(folder / "refine_bbox_jsons" / "clip.a.json", boxes)
    tracks = folder / "track_masks_data" / "clip.a"
    write_json(
        tracks / "corresponding_data.json", {"1": {"face": 1, "head": 2}, "2": {"face": 3, "person": 7}}
    )
    write_json(
        tracks / "control_sam2_frame.json", {"1": {"face": 12, "head": 5}, "2": {"face": 12, "person": 1}}
    )
    frames = list(range(T - 2))
    write_json(tracks / "valid_frame.json", {"1": {"face": frames, "head": []}, "2": {"face": frames}})
    for number in (1, 2, 3, 7):
        (tracks / "tracking_mask_results" / str(number)).mkdir(parents=True)
        for frame in range(T):
            file = tracks / "tracking_mask_results" / str(number) / f"annotated_frame_{frame:05d}.png"
            cv2.imwrite(str(file), mask_of(number, frame))
    pictures = np.full((T, HEIGHT, WIDTH, 3), 128, np.uint8)
    (folder / "videos").mkdir()
    write_video(folder / "videos" / "clip.a.mp4", pictures, fps=Fraction(25))
    return folder


def assert_same_files(found, wanted):
    """The JSON files say the same and the masks are equal."""
    names = {str(file.relative_to(wanted)) for file in wanted.rglob("*") if file.suffix in (".json", ".png")}
    assert {str(file.relative_to(found)) for file in found.rglob("*") if file.is_file()} == names
    for name in names:
        if name.endswith(".json"):
            assert read_json(found / name) == read_json(wanted / name), name
        else:
            masks = [cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED) for folder in (found, wanted)]
            assert masks[0].dtype == np.uint16
            assert np.array_equal(*masks), name


def through_a_shard(sample):
    return sample_from_members(dict(sample_members(sample, codec={"codec": "h264", "gop": 12})))


def test_a_clip_of_any_size_comes_back_as_it_was(layout, tmp_path):
    sample = through_a_shard(import_clip(layout, "clip.a"))
    assert (sample.height, sample.width) == (64, 52)
    export_clip(sample, tmp_path / "out")
    assert_same_files(tmp_path / "out", layout)


def test_a_sample_shows_the_people_of_the_clip(layout, tmp_path):
    sample = import_clip(layout, "clip.a", caption="two people", licence="CC0")
    assert sample.source["consisid"]["tracks"] == [2, 1], "the longer seen comes first"
    longer, other = sample.tracks
    found = [frame for frame in range(T) if frame != 6]
    assert np.flatnonzero(~np.isnan(longer.scores)).tolist() == found
    assert np.flatnonzero(longer.valid).tolist() == [frame for frame in found if frame < T - 2]
    assert np.flatnonzero(other.valid).tolist() == [4, 5, 7, 8, 9, 10]
    assert longer.boxes[2].tolist() == [3.0, 2.0, 23.0, 20.25]
    assert len(sample.masks.ids) == 4
    annotations = annotations_of(sample)
    assert np.array_equal(annotations.mask(7, 5), mask_of(7, 5) > 0)
    with pytest.raises(DataError, match="no mask of object 5 in frame 0"):
        annotations.mask(5, 0)
    assert read_video(sample.video).shape == (T, 64, 52, 3)
    with ShardWriter(tmp_path / "shards") as writer:
        writer.write(sample)
    read = ClipReader(Catalog(str(tmp_path / "shards" / "shards" / "*.tar"))).sample(0, 0)
    assert (read.caption, read.source, read.key) == ("two people", sample.source, sample.key)
    assert np.array_equal(annotations_of(read).mask(3, 12), mask_of(3, 12) > 0)


def test_keyed_by_track_both_ways(layout, tmp_path):
    annotations = read_annotations(layout, "clip.a", num_frames=T)
    write_annotations(tmp_path / "tracks", annotations, keyed_by="track")
    by_track = read_json(tmp_path / "tracks" / "refine_bbox_jsons" / "clip.a.json")
    assert by_track["1"]["frames"] == [4, 5, 7, 8, 9, 10, 11, 12]
    assert by_track["1"]["face"][0]["frame_id"] == 4

    # What was keyed by track stays so, and gives the same sample.
    (tmp_path / "tracks" / "videos").symlink_to(layout / "videos")
    sample = import_clip(tmp_path / "tracks", "clip.a")
    export_clip(sample, tmp_path / "again")
    assert read_json(tmp_path / "again" / "refine_bbox_jsons" / "clip.a.json") == by_track
    for one, other in zip(sample.tracks, import_clip(layout, "clip.a").tracks, strict=True):
        assert np.array_equal(one.boxes, other.boxes, equal_nan=True)
        assert np.array_equal(one.valid, other.valid)

    export_clip(sample, tmp_path / "frames", keyed_by="frame")
    by_frame = read_json(tmp_path / "frames" / "refine_bbox_jsons" / "clip.a.json")
    assert by_frame["4"]["face"][0]["new_track_id"] in (1, 2)


def test_a_clip_without_masks(layout, tmp_path):
    for folder in (layout / "track_masks_data").rglob("*"):
        if folder.suffix == ".png":
            folder.unlink()
    results = layout / "track_masks_data" / "clip.a" / "tracking_mask_results"
    for folder in results.iterdir():
        folder.rmdir()
    results.rmdir()
    sample = through_a_shard(import_clip(layout, "clip.a"))
    assert sample.masks is None
    export_clip(sample, tmp_path / "out")
    assert_same_files(tmp_path / "out", layout)


def test_keys_are_safe_and_differ(layout):
    key = import_clip(layout, "clip.a").key
    assert key.startswith("clip_a-")
    for file in [*layout.rglob("clip.a*")]:
        file.rename(file.with_name(file.name.replace("clip.a", "clip_a")))
    assert import_clip(layout, "clip_a").key == "clip_a-000000000" != key


def break_json(folder, name, content):
    (folder / "track_masks_data" / "clip.a" / f"{name}.json").write_text(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: break_json(d, "valid_frame", "{"), r"valid_frame\.json: cannot be read as JSON"),
        (lambda d: break_json(d, "valid_frame", "[]"), r"must be a JSON object, is a list"),
        (lambda d: break_json(d, "valid_frame", '{"1": {"face": [99]}}'), r"from 0 to 12"),
        (lambda d: break_json(d, "valid_frame", '{"1": {"face": 3}}'), r"must be a list of whole numbers"),
        (lambda d: break_json(d, "corresponding_data", '{"../1": {"face": 1}}'), r"1' must be a track's"),
        (lambda d: break_json(d, "corresponding_data", '{"1": {"face": "../../x"}}'), r"whole number from 1"),
        (lambda d: break_json(d, "corresponding_data", '{"1": {"face": 4}}'), r"no folder of mask object 4"),
        (lambda d: (d / "videos" / "clip.a.mp4").unlink(), r"no video of clip 'clip\.a'"),
        (lambda d: (d / "refine_bbox_jsons" / "clip.a.json").unlink(), r"cannot be read as JSON"),
        (
            lambda d: write_json(d / "refine_bbox_jsons" / "clip.a.json", {"13": {}}),
            r"'13' is not one of the clip's frames 0 to 12",
        ),
        (
            lambda d: write_json(d / "refine_bbox_jsons" / "clip.a.json", {"0": {"face": [{"box": 1}]}}),
            r"frame 0: a face without a box",
        ),
        (
            lambda d: (d / "refine_bbox_jsons" / "clip.a.json").write_text('{"0": {"face": [NaN]}}'),
            r"NaN is not a number",
        ),
    ],
)  # fmt: skip
def test_damaged_files_are_named(layout, damage, message):
    damage(layout)
    with pytest.raises(DataError, match=message):
        import_clip(layout, "clip.a")


def test_damaged_masks_are_named(layout):
    masks = layout / "track_masks_data" / "clip.a" / "tracking_mask_results"
    file = masks / "3" / "annotated_frame_00004.png"
    cv2.imwrite(str(file), mask_of(1, 4))
    with pytest.raises(DataError, match=r"00004\.png: has values other than 0 and 3"):
        read_annotations(layout, "clip.a", num_frames=T)
    cv2.imwrite(str(file), mask_of(3, 4)[:-2])
    with pytest.raises(DataError, match=r"00004\.png: has \(height, width\) \(60, 50\)"):
        read_annotations(layout, "clip.a", num_frames=T)
    file.write_bytes(b"")
    with pytest.raises(DataError, match=r"00004\.png: not a grey PNG"):
        read_annotations(layout, "clip.a", num_frames=T)
    file.unlink()
    with pytest.raises(DataError, match=r"00004\.png is missing"):
        read_annotations(layout, "clip.a", num_frames=T)
    (masks / "latest").mkdir()
    with pytest.raises(DataError, match="latest: not a mask object's number"):
        read_annotations(layout, "clip.a", num_frames=T)


@pytest.mark.parametrize("name", ["../clip.a", "/clip.a", "..", "a/b", "a\\b", ".hidden", "", "a\0b"])
def test_names_never_lead_elsewhere(layout, tmp_path, name):
    with pytest.raises(DataError, match="not a plain file name"):
        import_clip(layout, name)
    sample = import_clip(layout, "clip.a")
    forged = {**sample.source, "consisid": {**sample.source["consisid"], "name": name}}
    with pytest.raises(DataError, match="not a plain file name"):
        export_clip(replace(sample, source=forged), tmp_path / "out")
    forged_masks = replace(sample.masks, ids=(1, 2, 3, "../../x"))
    unmasked = tuple(replace(track, mask_ids={}) for track in sample.tracks)
    with pytest.raises(DataError, match="not numbers from 1 to 65535"):
        export_clip(replace(sample, masks=forged_masks, tracks=unmasked), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(layout):
    before = sorted(layout.rglob("*"))
    with pytest.raises(DataError, match="is there already"):
        export_clip(import_clip(layout, "clip.a"), layout)
    assert sorted(layout.rglob("*")) == before


def test_clips_that_we_prepared_are_exported_too(tmp_path):
    """Two people, one with a mask of the face and a head: what comes back says the same of them."""
    clip = synthetic_clip("someone", num_frames=6)
    pictures = np.zeros((6, 1, clip.height, clip.width), bool)
    pictures[:, 0, 10:30, 8:40] = True
    head = ClipRegion(
        boxes=clip.tracks[0].boxes + 1, scores=clip.tracks[0].scores, valid=np.arange(6) % 2 == 0
    )
    main = replace(clip.tracks[0], head=head, mask_ids={"face": 3}, control_frames={"face": 2})
    other = replace(clip.tracks[0], boxes=clip.tracks[0].boxes + 5)
    clip = replace(
        clip, tracks=(main, other), masks=ClipMasks(*encode_rle_batch(pictures), (3,), "sam2"), audio=None
    )
    export_clip(clip, tmp_path)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / f"{clip.key}.mp4").write_bytes(clip.video)
    again = import_clip(tmp_path, clip.key)
    assert len(again.tracks) == 1, "as ConsisID has it, people without a face mask do not count"
    for name, region in main.regions().items():
        found = again.tracks[0].regions()[name]
        assert np.array_equal(found.boxes, region.boxes)
        assert np.array_equal(found.valid, region.valid)
    assert again.tracks[0].mask_ids == {"face": 3}
    assert again.tracks[0].control_frames == {"face": 2}
    assert np.array_equal(again.masks.runs, clip.masks.runs)


def test_photos_are_no_clips(tmp_path):
    clip = synthetic_clip("photo", num_frames=1, size=32)
    with pytest.raises(DataError, match="is a photo: ConsisID's layout is of clips"):
        export_clip(replace(clip, video=None, image=b"jpeg", fps=Fraction(0)), tmp_path)


def test_no_clips_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no refine_bbox_jsons"):
        clip_names(tmp_path)


def test_captions_with_and_without_suffix(tmp_path):
    """ConsisID's tools write paths without ".mp4", which its loader then does not find."""
    about = {"cap": "a man", "fps": 30.0, "duration": 8.13}
    captions = [
        {"path": "a/one.mp4", **about},
        {"path": "two", **about},
        {"path": "x", **about, "duration": 1},
    ]
    write_json(tmp_path / "captions.json", captions)
    (tmp_path / "list.txt").write_text("videos,captions.json,notes\n\n")
    one, two = read_clip_list(tmp_path / "list.txt", root=tmp_path)
    assert (one.video, one.name) == (tmp_path / "videos" / "a" / "one.mp4", "one")
    assert (two.video, two.name) == (tmp_path / "videos" / "two.mp4", "two")
    assert (two.annotations, two.caption) == (tmp_path / "notes", "a man")

    write_json(tmp_path / "captions.json", [{"path": "../one", **about}])
    with pytest.raises(DataError, match="leads out of the videos folder"):
        read_clip_list(tmp_path / "list.txt", root=tmp_path)
    write_json(tmp_path / "captions.json", [{"path": "one", "cap": None}])
    with pytest.raises(DataError, match="entry 0 has no usable 'cap'"):
        read_clip_list(tmp_path / "list.txt", root=tmp_path)
    (tmp_path / "list.txt").write_text("videos captions.json\n")
    with pytest.raises(DataError, match=r"list\.txt:1: must be"):
        read_clip_list(tmp_path / "list.txt", root=tmp_path)


def test_masks_must_fit_the_video(layout):
    write_video(layout / "videos" / "clip.a.mp4", np.zeros((T, 64, 64, 3), np.uint8), fps=Fraction(25))
    with pytest.raises(DataError, match=r"masks have \(height, width\) \(62, 50\), its video \(64, 64\)"):
        import_clip(layout, "clip.a")


def test_somebody_must_have_a_face(layout):
    break_json(layout, "corresponding_data", '{"1": {"head": 2}}')
    with pytest.raises(DataError, match="no person has both a face box"):
        import_clip(layout, "clip.a")


def test_a_failed_export_leaves_nothing_behind(layout, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left")

    sample = import_clip(layout, "clip.a")
    monkeypatch.setattr(cv2, "imencode", full_disk)
    with pytest.raises(OSError, match="no space left"):
        export_clip(sample, tmp_path / "out")
    assert not [file for file in (tmp_path / "out").rglob("*") if file.name.startswith((".", "clip"))]
