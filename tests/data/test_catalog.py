"""Finding shards and choosing samples: what is wrong is said in one line with file, number and setting."""

import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from portraitgen.data.catalog import Catalog, find_shards
from portraitgen.data.clip_examples import ClipExamples
from portraitgen.data.clips import ClipWindows
from portraitgen.data.examples import ExamplesByPosition
from portraitgen.data.index import ShardIndex, index_path
from portraitgen.data.manifest import manifest_path
from portraitgen.data.order import EvenSpread
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import DataError
from portraitgen.data.selection import Candidates, Selection
from portraitgen.data.shards import ShardWriter
from portraitgen.data.window_selection import need_windows
from portraitgen.media.encode import encode_clip
from portraitgen.media.gop import GopDecoder
from tests.synthetic import synthetic_clip


@pytest.fixture(scope="module")
def clips():
    valid = np.arange(40) % 20 > 0
    return [
        synthetic_clip("a", num_frames=40, size=32, seed=0),
        synthetic_clip("b", num_frames=40, size=32, seed=1, valid=valid),
        synthetic_clip("c", num_frames=14, size=32, seed=2),
    ]


@pytest.fixture
def shard(tmp_path, clips) -> Path:
    return write(tmp_path / "set", clips)


def write(root, samples, **settings) -> Path:
    with ShardWriter(root, **settings) as writer:
        for sample in samples:
            writer.write(sample)
    return writer.close()[0]


def select(catalog, windows, filters=None) -> Selection:
    candidates = Candidates(catalog, filters or {})
    need_windows(candidates, windows)
    return candidates.selection("in a test")


def keys(catalog, selection) -> list[str]:
    return [catalog.indexes[s].key(r)[0] for s, r in zip(selection.shards, selection.rows, strict=True)]


def test_patterns(tmp_path):
    names = ["train-000000.tar", "train-000001.tar", "train-000010.tar", "val-000000.tar"]
    for name in names:
        (tmp_path / name).touch()

    def found(*patterns):
        return [path.name for path in find_shards([f"{tmp_path}/{pattern}" for pattern in patterns])]

    assert found("train-{000000..000001}.tar") == names[:2]
    assert found("{val,train}-000000.tar") == ["train-000000.tar", "val-000000.tar"]
    assert found("train-*.tar", "train-000001.tar") == names[:3]
    assert found("{train,val}-{000000..000000}.tar") == ["train-000000.tar", "val-000000.tar"]
    assert [path.name for path in find_shards(f"{tmp_path}/val-*")] == names[3:]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "train-{000000..000002}.tar",
            r"no shard matches '.*train-000001.tar' \(of '.*train-\{000000\.\.000002\}.tar'\)",
        ),
        ("none/*.tar", "no shard matches"),
        ("", r"is a folder; name its shards: '.*/shards/train-\*.tar'"),
    ],
)
def test_a_pattern_that_finds_nothing_is_named(tmp_path, pattern, message):
    (tmp_path / "train-000000.tar").touch()
    with pytest.raises(DataError, match=message):
        find_shards(f"{tmp_path}/{pattern}")
    with pytest.raises(DataError, match=r"data\.shards is empty"):
        find_shards([])


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        (ClipWindows(14), "abc"),
        (ClipWindows(15), "ab"),
        (ClipWindows(20), "a"),
        (ClipWindows(4, stride=5), "ab"),
        (ClipWindows(10, span=(0.75, 1)), "ab"),
        (ClipWindows(4, span=(0.75, 1)), "abc"),
    ],
)
def test_only_clips_with_a_window_are_chosen(shard, windows, expected):
    catalog = Catalog(str(shard))
    assert "".join(keys(catalog, select(catalog, windows))) == expected


def test_too_short_clips_are_told_with_numbers(shard):
    message = r"45 valid frames .*\(clip_frames 12, stride 4\) within 0% to 100%.*of 3 sample.*run has 40"
    with pytest.raises(DataError, match=message):
        select(Catalog(str(shard)), ClipWindows(12, stride=4))


def test_filters(tmp_path, clips):
    scored = [replace(clip, scores={"size": i} | ({"sync": 5} if i else {})) for i, clip in enumerate(clips)]
    catalog = Catalog(str(write(tmp_path, scored)))

    def chosen(**filters):
        return "".join(keys(catalog, select(catalog, ClipWindows(1), filters)))

    assert chosen(size=(1, None)) == "bc"
    assert chosen(size=(None, 1)) == "ab"
    assert chosen(sync=(0, 9)) == "bc", "a has no such score"
    assert chosen(sync=(0, 9), size=(None, 1)) == "b"
    with pytest.raises(DataError, match=r"data.filters.sink: no shard has this score; there are: size, sync"):
        chosen(sink=(0, 1))
    with pytest.raises(DataError, match=r"data.filters .*size.* leave none of 3 samples"):
        chosen(size=(9, None))


def test_one_frame_size_and_one_kind_of_landmarks(tmp_path, clips):
    write(tmp_path, [clips[0], synthetic_clip("d", num_frames=20, size=64)])
    with pytest.raises(DataError, match=r"differ in frame size \(1 of 32x32, 1 of 64x64\)"):
        select(Catalog(f"{tmp_path}/shards/*.tar"), ClipWindows(1)).frame_size()
    other = replace(clips[1], landmark_scheme="mediapipe478")
    write(tmp_path, [other], first_shard=1)
    message = "landmarks: train-000000.tar has 68 of ibug68, train-000001.tar has 68 of mediapipe478"
    with pytest.raises(DataError, match=message):
        Catalog(f"{tmp_path}/shards/*.tar")


@pytest.mark.parametrize("with_index", [True, False])
def test_a_shard_cut_short_gives_its_intact_samples_and_one_line(shard, caplog, with_index):
    index = ShardIndex.load(index_path(shard))
    place = index.members(2)["tracks.npz"]
    shard.write_bytes(shard.read_bytes()[: place.offset + place.size // 2])
    if not with_index:
        index_path(shard).unlink()
    with caplog.at_level(logging.WARNING):
        catalog = Catalog(str(shard))
    (line,) = caplog.messages
    assert "train-000000.tar" in line
    assert "2 of 3 samples can be used" in line
    assert "json is missing" in line
    selection = select(catalog, ClipWindows(1))
    assert keys(catalog, selection) == ["a", "b"]
    reader = ClipReader(catalog)
    out = np.empty((40, 48, 32), np.uint8)
    reader.frames(0, 1, np.arange(40), out=out)
    assert reader.sample(0, 1).key == "b-000000000"


def test_every_cut_of_a_shard_is_survived(shard, clips):
    """Whatever the last byte is, the samples before it are found and none is half there."""
    whole = shard.read_bytes()
    index = ShardIndex.load(index_path(shard))
    ends = [index.members(row)["json"].offset + index.members(row)["json"].size for row in range(3)]
    for size in np.linspace(ends[0] - 700, len(whole) - 1, 40).astype(int).tolist():
        shard.write_bytes(whole[:size])
        complete = sum(end <= size for end in ends)
        if complete:
            assert len(Catalog(str(shard)).indexes[0]) == complete
        else:
            with pytest.raises(DataError, match="no sample of 1 shard"):
                Catalog(str(shard))


@pytest.mark.parametrize("content", [b"", b"a text file", bytes(20_000)])
def test_a_file_that_is_no_shard_is_named(tmp_path, content):
    shard = tmp_path / "shards" / "train-000000.tar"
    shard.parent.mkdir()
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"no sample of 1 shard.*train-000000.tar"):
        Catalog(str(shard))


def test_one_bad_shard_does_not_spoil_the_others(tmp_path, clips, caplog):
    write(tmp_path, clips, max_samples=1)
    (tmp_path / "shards" / "train-000001.tar").write_bytes(b"gone")
    catalog = Catalog(f"{tmp_path}/shards/*.tar")
    assert keys(catalog, select(catalog, ClipWindows(1))) == ["a", "c"]
    (line,) = caplog.messages
    assert "train-000001.tar" in line
    assert "0 of 1 samples can be used" in line


def test_a_damaged_index_is_made_again(shard, caplog):
    index_path(shard).write_bytes(b"PK broken")
    manifest_path(shard).unlink()
    catalog = Catalog(str(shard))
    assert keys(catalog, select(catalog, ClipWindows(1))) == ["a", "b", "c"]
    assert "is not an index" in caplog.text


def test_names_in_archives_are_never_paths(tmp_path, clips, caplog):
    """A tar whose members climb out of the folder yields no sample and writes nothing."""
    good = write(tmp_path / "good", clips[:2])
    data = good.read_bytes().replace(b"a-000000000.", b"../00000000.")
    bad = tmp_path / "bad" / "shards" / "train-000000.tar"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(_with_checksums(data))
    catalog = Catalog(str(bad))
    assert keys(catalog, select(catalog, ClipWindows(1))) == ["b"]
    assert sorted(
        path.name for path in tmp_path.rglob("*0000*") if path.is_file() and "good" not in str(path)
    ) == ["train-000000.tar"]


def _with_checksums(tar: bytes) -> bytes:
    """The tar with the checksum of every header put right."""
    data = bytearray(tar)
    for start in range(0, len(data), 512):
        header = data[start : start + 512]
        if header[257:262] == b"ustar":
            total = sum(header) - sum(header[148:156]) + 8 * 32
            data[start + 148 : start + 156] = f"{total:06o}\0 ".encode()
    return bytes(data)


def test_photos_are_read_like_clips(tmp_path):
    """A photo gives the planes that a lossless clip of the same picture gives, chroma included."""
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    expected = GopDecoder().decode_yuv420(encode_clip([decoded], fps=25, crf=0), start=0, count=1)[0]
    drawn = synthetic_clip("photo", num_frames=1, size=32)
    catalog = Catalog(str(write(tmp_path, [replace(drawn, video=None, image=jpeg)])))
    opened = ClipExamples(clip_frames=1).open(catalog, span=(0.0, 1.0), filters={}, grading=False)
    batch = ExamplesByPosition(opened, EvenSpread(1, 2), seed=0).__getitems__([0, 1]).tensors
    assert batch["reference_index"].tolist() == [0, 0]
    for planes in (batch["frames"][1, 0].numpy(), batch["reference"][0].numpy()):
        assert np.abs(planes.astype(int) - expected).max() <= 2
