"""Shards, indexes and arrays of somebody else: what they claim is compared with their bytes, in time."""

import io
import json
import resource
import tarfile
import time
import zipfile
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portraitgen.data.archive import Archive
from portraitgen.data.catalog import Catalog
from portraitgen.data.description import read_description
from portraitgen.data.index import ShardIndex, index_path
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import DataError
from portraitgen.data.scan import open_index, scan_shard
from portraitgen.data.shards import ShardWriter
from portraitgen.faces.landmark_file import load_landmarks
from portraitgen.media.bounded import parse_rate, read_array, read_arrays, read_json
from tests.synthetic import synthetic_clip


def tar_of(path: Path, size_field: bytes, *, checksum: bool = True) -> Path:
    """A tar whose first header states this size."""
    entry = tarfile.TarInfo("a-000000000.json")
    header = bytearray(entry.tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = size_field.ljust(12, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = (b"%06o\0 " % sum(header)) if checksum else b"-1\0     "
    path.write_bytes(bytes(header) + bytes(1024))
    return path


@pytest.mark.parametrize(
    "size", [b"-1000", b"-00000001000", b"+0", b"0o7", b"7_7", b"99", b"77777777777", b" "]
)
def test_a_size_that_is_none_ends_a_tar(size, tmp_path):
    """A negative one led back to its own header, for ever."""
    members = [*Archive(tar_of(tmp_path / "a.tar", size)).members()]
    assert sum(member.size for member in members) == 0
    assert [*Archive(tar_of(tmp_path / "b.tar", size, checksum=False)).members()] == []


def npz(compressed: bool = True, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npy(array: np.ndarray, *, shape: tuple[int, ...] | None = None) -> bytes:
    """An array, or the header of another shape in front of its bytes."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape}
    )
    return buffer.getvalue() + array.tobytes()


BOMBS = {
    "more than its bytes": npz(a=npy(np.zeros(4), shape=(10**9,))),
    "more than can be": npz(a=npy(np.zeros(4), shape=(10**12, 10**12))),
    "negative": npz(a=npy(np.zeros(4), shape=(-4,))),
    "zeros": npz(a=npy(np.zeros(1 << 26))),
    "objects": npz(a=npy(np.zeros(4)).replace(b"<f8", b"|O ")),
    "a pickle": npz(a=b"\x80\x04."),
    "not a zip": b"PK\x03\x04" + bytes(100),
    "empty": b"",
    "many": npz(**{f"a{n}": b"" for n in range(2000)}),
}


@pytest.mark.parametrize("case", BOMBS)
def test_an_archive_of_arrays_is_bounded(case, tmp_path):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / "a.npz"
    path.write_bytes(BOMBS[case])
    for source in (path, BOMBS[case]):
        with pytest.raises(ValueError, match=r"no sound \.npz"):
            read_arrays(source)
    with pytest.raises(ValueError, match="not a landmark file"):
        load_landmarks(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300_000  # KiB


def test_arrays_come_back_as_they_were(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.asfortranarray(np.eye(3)), "c": np.array("text")}
    arrays |= {"d": np.zeros((0, 4), np.int64), "e": np.array(7)}
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez_compressed(tmp_path / "b.npz", **arrays)
    for name in ("a.npz", "b.npz"):
        found = read_arrays(tmp_path / name)
        assert found.keys() == arrays.keys()
        assert all(np.array_equal(found[key], arrays[key]) for key in arrays)
        assert all(found[key].dtype == arrays[key].dtype for key in arrays)
    np.save(tmp_path / "a.npy", arrays["a"])
    assert np.array_equal(read_array(tmp_path / "a.npy"), arrays["a"])
    (tmp_path / "a.npy").write_bytes(npy(np.zeros(2), shape=(10**9,)))
    with pytest.raises(ValueError, match="it claims 8000000000 bytes"):
        read_array(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "stated",
    [
        "1e9999999",
        "1/0",
        "1/000",
        "-25",
        "nan",
        "inf",
        "9" * 5000,
        "25/-1",
        "",
        None,
        [],
        True,
        1e300,
        -1,
        "２５",
    ],
)
def test_a_rate_that_is_none(stated):
    began = time.monotonic()
    with pytest.raises(ValueError, match="frame rate"):
        parse_rate(stated)
    assert time.monotonic() - began < 1


def test_rates_that_are():
    stated = [25, 29.97, "30000/1001", "24.5", 0, Fraction(30000, 1001)]
    expected = [25, Fraction("29.97"), Fraction(30000, 1001), Fraction(49, 2), 0, Fraction(30000, 1001)]
    assert [parse_rate(each) for each in stated] == expected


def test_json_is_bounded(tmp_path):
    for data in (b"[" * 100_000, b"{", b"\xff", b"1" * 6000):
        with pytest.raises(ValueError):
            read_json(data)
    with pytest.raises(ValueError, match="more than the 10 that are read"):
        read_json(b" " * 11, limit=10)


def described(**changes: Any) -> bytes:
    """The json of a sound sample, with entries at dotted places changed."""
    about: dict[str, Any] = {
        "v": 1,
        "key": "a-000000000",
        "source": {"uri": "a.mp4"},
        "video": {"n": 4, "fps": "25", "w": 8, "h": 8, "codec": "h264", "gop": 12},
        "landmarks": {"scheme": "ibug68", "num": 68},
        "regions": ["face"],
        "tracks": {"1": {"face": {"valid": [[0, 4]]}}},
        "identities": {},
        "mask_ids": None,
        "mask_source": None,
        "scores": {},
    }
    for place, value in changes.items():
        *above, name = place.split("__")
        node = about
        for part in above:
            node = node[part]
        node[name] = value
    return json.dumps(about).encode()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("v", 2),
        ("v", None),
        ("key", 3),
        ("source", "x"),
        ("source__uri", 3),
        ("video", []),
        ("video__n", 10**9),
        ("video__n", -1),
        ("video__n", "4"),
        ("video__n", True),
        ("video__fps", 1e300),
        ("video__fps", "1e9999999"),
        ("video__fps", -25),
        ("video__w", 10**9),
        ("video__h", 0),
        ("video__codec", 3),
        ("landmarks__num", 10**9),
        ("landmarks__scheme", []),
        ("regions", "face"),
        ("regions", ["nose"]),
        ("tracks", {}),
        ("tracks", {"2": {"face": {"valid": []}}}),
        ("tracks", {"1": []}),
        ("tracks", {"1": {"face": []}}),
        ("tracks", {"1": {"face": {"valid": [[0, 10**9]]}}}),
        ("tracks", {"1": {"face": {"valid": [[-1, 2]]}}}),
        ("tracks", {"1": {"face": {"valid": [[0, 4]], "mask_id": "x"}}}),
        ("identities", ["x"]),
        ("identities", {"1": ["x"]}),
        ("identities", {"1": ""}),
        ("mask_ids", 3),
        ("mask_ids", ["x"]),
        ("scores", []),
        ("scores", {"a": "x"}),
        ("scores", {"a": 1e300}),
        ("scores", {"a": None}),
    ],
)
def test_a_sample_s_json_is_judged(place, value):
    with pytest.raises(DataError, match=place.split("__")[-1] if place != "v" else "schema"):
        read_description(described(**{place: value}))


def test_a_sound_one_is_not_refused():
    assert read_description(described())["video"]["n"] == 4
    for data in (b"[]", b"{}", b"", b"[" * 100_000):
        with pytest.raises(DataError):
            read_description(data)


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    with ShardWriter(root) as writer:
        for number in range(2):
            writer.write(synthetic_clip(f"person{number}", num_frames=8, size=32, seed=number))
    return next((root / "shards").glob("*.tar"))


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("num_frames", lambda old: old * 0 + 10**9),
        ("num_frames", lambda old: -old),
        ("num_tracks", lambda old: old * 0 + 10**6),
        ("landmarks_offset", lambda old: old + 10**12),
        ("landmarks_offset", lambda old: old * 0 - 1),
        ("member_size", lambda old: old + 10**12),
        ("member_offset", lambda old: old - 10**12),
        ("member_kind", lambda old: old + 1000),
        ("packet_splits", lambda old: old[::-1].copy()),
        ("run_splits", lambda old: old[:-1]),
        ("fps", lambda old: old * 0),
        ("fps", lambda old: -old),
        ("size", lambda old: old * 0 + 10**9),
        ("num_landmarks", lambda old: old * 0 + 10**9),
        ("keys", lambda old: old[:1].repeat(1000)),
        ("identities", lambda old: old + 1000),
        ("configuration", lambda old: old + 1000),
        ("num_masks", lambda old: old + 10**9),
        ("runs", lambda old: old[:, :2]),
    ],
)
def test_an_index_that_claims_more_than_its_tar_is_made_anew(shard, column, change, tmp_path, caplog):
    """One of a billion frames took 11.9 GB."""
    theirs = tmp_path / "shards" / shard.name
    theirs.parent.mkdir()
    theirs.write_bytes(shard.read_bytes())
    sound, _ = scan_shard(theirs)
    index_path(theirs).parent.mkdir()
    replace(sound, **{column: change(getattr(sound, column))}).save(index_path(theirs))
    with pytest.raises(DataError, match="damaged"):
        ShardIndex.load(index_path(theirs))
    made = open_index(theirs)
    for name in [field.name for field in fields(ShardIndex)]:
        assert np.array_equal(getattr(made, name), getattr(sound, name), equal_nan=name == "scores")
    assert "damaged" in caplog.text


def test_infinite_landmarks_of_a_valid_frame_are_refused(shard, tmp_path):
    """They reached the loss."""
    theirs = tmp_path / "shards" / shard.name
    theirs.parent.mkdir()
    data = bytearray(shard.read_bytes())
    index, _ = scan_shard(shard)
    place = int(index.landmarks_offset[0])
    data[place : place + 4] = np.float32(np.inf).tobytes()
    theirs.write_bytes(data)
    reader = ClipReader(Catalog([str(theirs)]))
    with pytest.raises(DataError, match="landmarks of person 1 are infinite"):
        reader.landmarks(0, 0, 0, np.arange(4))
    assert np.isfinite(reader.landmarks(0, 1, 0, np.arange(4))).all()
