"""Features of samples: written beside shards, read window by window, refused when they are of others."""

import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import webdataset

from portraitgen.data.archive import LocalFile
from portraitgen.data.catalog import Catalog
from portraitgen.data.datamodule import ShardDataModule
from portraitgen.data.engines.local import LocalEngine
from portraitgen.data.features.extract import ExtractFeature
from portraitgen.data.features.feature import WindowValues
from portraitgen.data.features.reader import FeatureReader
from portraitgen.data.features.store import FeatureFacts, FeatureIndex, is_finished
from portraitgen.data.features.verify import feature_problems
from portraitgen.data.manifest import update_dataset
from portraitgen.data.motion import MotionFrames
from portraitgen.data.sample import DataError
from portraitgen.data.shards import ShardWriter
from tests.data.modules import clip_module
from tests.synthetic import synthetic_clip

LENGTHS = (20, 26, 23)


@dataclass(frozen=True)
class Numbered:
    """Of each frame [2, 3] numbers that tell the sample and the frame; none of the second clip if `picky`."""

    picky: bool = False
    scale: float = 1.0
    name: ClassVar[str] = "numbered"
    batch_key: ClassVar[str] = "numbers"
    unit: ClassVar[str] = "frame"

    def depends_on(self):
        return {"scale": self.scale}

    def __call__(self, sample):
        if self.picky and sample.num_frames == LENGTHS[1]:
            raise DataError("not this one")
        frames = np.arange(sample.num_frames)[:, None, None] + np.arange(6).reshape(2, 3) / 8
        return (self.scale * (frames + 100 * sample.num_frames)).astype(np.float16)


@dataclass(frozen=True)
class PerPerson:
    name: ClassVar[str] = "person"
    batch_key: ClassVar[str] = "identity"
    unit: ClassVar[str] = "person"

    def depends_on(self):
        return {}

    def __call__(self, sample):
        return np.stack(
            [np.full(4, 10 * sample.num_frames + i, np.float32) for i in range(len(sample.tracks))]
        )


@dataclass(frozen=True)
class Said:
    name: ClassVar[str] = "said"
    batch_key: ClassVar[str] = "caption"
    unit: ClassVar[str] = "text"

    def depends_on(self):
        return {}

    def __call__(self, sample):
        return f"{sample.key} é"


def compute(root: Path, feature, *, workers: int = 0) -> tuple[Path, list[str]]:
    folder = FeatureFacts.of(feature).save(root)
    shards = sorted((root / "shards").glob("*.tar"))
    missing = [shard for shard in shards if not is_finished(folder, shard)]
    results = LocalEngine(workers).run(ExtractFeature(feature, folder), missing, progress=lambda done: None)
    return folder, [problem for found in results for problem in found]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two shards with three clips, the last one of two people."""
    root = tmp_path_factory.mktemp("data")
    with ShardWriter(root, max_samples=2) as writer:
        for number, length in enumerate(LENGTHS):
            clip = synthetic_clip(f"clip{number}", num_frames=length, size=32, seed=number)
            writer.write(replace(clip, tracks=clip.tracks * 2) if number == 2 else clip)
    return root


@pytest.fixture
def root(prepared, tmp_path):
    return Path(shutil.copytree(prepared, tmp_path / "data"))


def datamodule(root: Path, **settings) -> ShardDataModule:
    defaults = {"clip_frames": 4, "batch_size": 3, "samples_per_epoch": 12, "snap_keyframes": False}
    return clip_module(str(root / "shards" / "train-*.tar"), **{**defaults, **settings})


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_holds_the_values_of_its_frames_and_its_person(root, num_workers):
    for feature in (Numbered(), PerPerson(), Said()):
        compute(root, feature)
    module = datamodule(root, features=["numbered", "person", "said"], num_workers=num_workers)
    seen = set()
    for batch in module.train_dataloader():
        assert batch["numbers"].dtype == torch.float16
        for i, key in enumerate(batch["key"]):
            length = LENGTHS[int(key[4])]
            expected = (
                100 * length + batch["frame_index"][i][:, None, None] + torch.arange(6).reshape(2, 3) / 8
            )
            assert torch.equal(batch["numbers"][i], expected.half())
            first = expected[0] - batch["frame_index"][i][0] + batch["reference_index"][i]
            assert torch.equal(batch["reference_numbers"][i], first.half())
            assert batch["identity"][i].tolist() in ([10.0 * length] * 4, [10.0 * length + 1] * 4)
            assert batch["caption"][i] == f"{key} é"
            seen.add(key)
    assert len(seen) == 3
    on_device = module.on_after_batch_transfer(batch, 0)
    assert on_device["numbers"].dtype == on_device["identity"].dtype == torch.float32
    module.teardown("fit")


@pytest.mark.parametrize("pick", ["uniform", "mean"])
def test_motion_frames_have_values_too(root, pick):
    compute(root, Numbered())
    motion = MotionFrames(per_segment=2, ratio=3, segments=2, pick=pick)
    settings = {
        "features": ["numbered"],
        "motion": motion,
        "pictures": ["reference"],
        "samples_per_epoch": 30,
    }
    seen = set()
    for batch in datamodule(root, **settings).train_dataloader():
        for i, key in enumerate(batch["key"]):
            first, found = int(batch["frame_index"][i, 0]), batch["motion_found"][i].numpy()
            # One frame each of the two just before the window, then of the six before them by threes.
            offsets = [[5, 6, 7], [2, 3, 4], [1], [0]] if pick == "mean" else [[6], [3], [1], [0]]
            for slot, taken in enumerate(offsets):
                frames = [first - 1 - offset for offset in taken if first - 1 - offset >= 0]
                assert found[slot] == (first - 1 - taken[len(taken) // 2] >= 0)
                expected = 100 * LENGTHS[int(key[4])] + np.mean(frames or 0) + np.arange(6).reshape(2, 3) / 8
                got = batch["motion_numbers"][i, slot].numpy()
                if found[slot]:
                    np.testing.assert_allclose(got, expected, rtol=1e-3)
                else:
                    assert not got.any()
            seen.add(int(found.sum()))
    assert len(seen) >= 3


def test_tars_of_features_are_plain_and_in_the_order_of_the_shards(root):
    folder, _ = compute(root, Numbered())
    tar = folder / "train-000000.tar"
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["clip0-000000000", "clip1-000000000"]
    for sample, length in zip(samples, LENGTHS, strict=False):
        stored = np.load(io.BytesIO(sample["npy"]), allow_pickle=False)
        np.testing.assert_array_equal(stored, Numbered()(synthetic_clip("x", num_frames=length, size=32)))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_bytes_every_time_and_nothing_is_done_twice(root, prepared, tmp_path, workers):
    other = Path(shutil.copytree(prepared, tmp_path / "other"))
    first, _ = compute(root, Numbered())
    second, _ = compute(other, Numbered(), workers=workers)
    files = sorted(file.name for file in first.iterdir())
    assert files == ["feature.json", *(f"train-00000{i}.{e}" for i in (0, 1) for e in ("idx.npz", "tar"))]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)
    (first / "train-000000.tar").write_bytes(b"cut short")
    before = (first / "train-000001.tar").stat().st_mtime_ns
    compute(root, Numbered())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)
    assert (first / "train-000001.tar").stat().st_mtime_ns == before


@dataclass(frozen=True)
class Interrupted(Numbered):
    """Ends as if it were killed, in the middle of a shard."""

    def __call__(self, sample):
        if sample.num_frames == LENGTHS[1]:
            raise KeyboardInterrupt
        return super().__call__(sample)


def test_what_was_interrupted_is_done_anew(root, prepared, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        compute(root, Interrupted())
    folder = root / "aux" / FeatureFacts.of(Numbered()).folder_name
    assert [file.name for file in folder.iterdir()] == ["feature.json"], "no half of a tar"
    (folder / ".train-000000.tar.123.tmp").write_bytes(b"left by a process that was killed")
    compute(root, Numbered())
    undisturbed, _ = compute(Path(shutil.copytree(prepared, tmp_path / "other")), Numbered())
    files = sorted(file.name for file in undisturbed.iterdir())
    assert sorted(file.name for file in folder.iterdir()) == files
    assert all((folder / name).read_bytes() == (undisturbed / name).read_bytes() for name in files)


def test_only_the_bytes_of_the_window_are_read(root, monkeypatch):
    compute(root, Numbered())
    reader = FeatureReader(Catalog(str(root / "shards" / "*.tar")), "numbered")
    sizes, read = [], LocalFile.read
    monkeypatch.setattr(LocalFile, "read", lambda *given: sizes.append(given[2]) or read(*given))
    values = reader.values(0, 1, slice(3, 5))
    assert values.shape == (2, 2, 3)
    assert sizes == [values.nbytes]
    assert reader.places(0, 1, 0, np.array([3, 4]))[0][1:] == reader.places(0, 1, 0, np.array([4, 3]))[0][1:]


def test_a_sample_without_a_value_is_left_out(root):
    _, problems = compute(root, Numbered(picky=True))
    assert problems == ["train-000000: clip1-000000000: not this one"]
    module = datamodule(root, features=["numbered"], samples_per_epoch=30)
    keys = {key for batch in module.train_dataloader() for key in batch["key"]}
    assert keys == {"clip0-000000000", "clip2-000000000"}


def test_settings_and_weights_give_another_folder(root):
    first, second = compute(root, Numbered())[0], compute(root, Numbered(scale=2))[0]
    assert first != second
    with pytest.raises(DataError, match=r"several numbered \(numbered@\w{8}, numbered@\w{8}\): name one"):
        datamodule(root, features=["numbered"]).train_dataloader()
    batch = next(iter(datamodule(root, features=[second.name]).train_dataloader()))
    assert batch["numbers"].min() > 2 * 100 * min(LENGTHS) - 1
    update_dataset(root)
    summary = json.loads((root / "dataset.json").read_text())
    assert summary["features"] == {first.name: {"scale": 1.0}, second.name: {"scale": 2}}


def test_what_feature_json_says_stays_readable(root):
    """Features cost days of a cluster: a name in their file does not change with a name in the code."""
    folder, _ = compute(root, Numbered(scale=2.0))
    facts = FeatureFacts.of(Numbered(scale=2.0))
    stored = {"name": "numbered", "batch_key": "numbers", "unit": "frame", "identity": {"scale": 2.0}}
    found = json.loads((folder / "feature.json").read_text())
    assert found == {**stored, "fingerprint": facts.fingerprint, "version": 1}
    assert FeatureFacts.load(folder) == facts


def test_features_of_other_shards_are_refused(root):
    folder, _ = compute(root, Numbered())
    index = dict(np.load(folder / "train-000001.idx.npz"))
    np.savez(folder / "train-000001.idx.npz", **{**index, "shard_sha256": np.array("0" * 64)})
    with pytest.raises(DataError, match=r"were computed from another train-000001\.tar: run prepare\.py"):
        datamodule(root, features=["numbered"]).train_dataloader()
    compute(root, Numbered())
    next(iter(datamodule(root, features=["numbered"]).train_dataloader()))


def test_features_that_are_not_there_are_named(root):
    message = (
        r"has no vae that all shards share \(there: numbered@\w{8}\); run: python prepare\.py features out="
    )
    compute(root, Numbered())
    with pytest.raises(DataError, match=message):
        datamodule(root, features=["vae"]).train_dataloader()
    (root / "aux" / FeatureFacts.of(Numbered()).folder_name / "train-000000.idx.npz").unlink()
    with pytest.raises(DataError, match=r"train-000000\.tar are not finished or damaged"):
        datamodule(root, features=["numbered"]).train_dataloader()


def test_pictures_can_be_left_out(root):
    compute(root, Numbered())
    batch = next(iter(datamodule(root, features=["numbered"], pictures=["reference"]).train_dataloader()))
    assert "frames" not in batch
    assert "reference" in batch
    batch = next(iter(datamodule(root, features=["numbered"], pictures=False).train_dataloader()))
    assert not {"frames", "reference"} & batch.keys()
    module = datamodule(root, pictures=["reference"], train_span=(0, 0.5), val_span=(0.5, 1))
    assert {"frames", "reference"} <= next(iter(module.val_dataloader())).keys(), "grading sees the truth"
    module = datamodule(root, pictures=[], train_span=(0, 0.5), val_span=(0.5, 1))
    assert not {"frames", "reference"} & next(iter(module.train_dataloader())).keys()
    assert {"frames", "reference"} <= next(iter(module.val_dataloader())).keys()
    module = datamodule(root, pictures=False, train_span=(0, 0.5), val_span=(0.5, 1))
    assert not {"frames", "reference"} & next(iter(module.val_dataloader())).keys()
    with pytest.raises(DataError, match=r"data\.examples\.pictures=\['faces'\]: give true, false or some of"):
        datamodule(root, pictures=["faces"])


def test_damage_is_found(root):
    shards = sorted((root / "shards").glob("*.tar"))
    folder, _ = compute(root, Numbered())
    assert list(feature_problems(root, shards)) == []
    tar = folder / "train-000001.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    (folder / "train-000000.idx.npz").unlink()
    (lost, unfinished), (damaged, changed) = feature_problems(root, shards)
    assert (lost.name, damaged) == ("train-000000.tar", tar)
    assert "not finished or damaged" in unfinished
    assert changed == f"{folder.name}/train-000001: has other bytes than were written"


def test_a_cut_tar_is_refused(root):
    folder, _ = compute(root, Numbered())
    tar = folder / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(DataError, match=r"have \d+ bytes and had \d+"):
        FeatureIndex.load(tar)


@dataclass(frozen=True)
class OfWindows:
    """Of windows of 4 frames, 2 apart, 5 after one another: [1, 2] numbers, sample and start."""

    name: ClassVar[str] = "windows"
    batch_key: ClassVar[str] = "latents"
    unit: ClassVar[str] = "window"
    stride: int = 2

    def depends_on(self):
        return {"stride": self.stride}

    def __call__(self, sample):
        if sample.num_frames == LENGTHS[0]:
            raise DataError("not this one")
        starts = np.arange(0, sample.num_frames - 6, 5)
        values = np.stack([np.full(len(starts), sample.num_frames), starts], axis=1)[:, None]
        windows = np.stack([starts, np.full(len(starts), self.stride), np.full(len(starts), 4)], axis=1)
        return WindowValues(windows, values.astype(np.float16))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_windows_that_were_encoded_are_those_that_are_chosen(root, num_workers):
    compute(root, OfWindows())
    module = datamodule(
        root, features=["windows"], stride=2, pictures=False, num_workers=num_workers, samples_per_epoch=60
    )
    seen = set()
    for batch in module.train_dataloader():
        assert batch["latents"].shape == (3, 1, 2)
        for key, frames, values in zip(batch["key"], batch["frame_index"], batch["latents"], strict=True):
            assert torch.equal(frames, frames[0] + 2 * torch.arange(4))
            assert values.tolist() == [[LENGTHS[int(key[4])], frames[0]]]
            seen.add((key[4], int(frames[0])))
    module.teardown("fit")
    assert seen == {("1", start) for start in (0, 5, 10, 15)} | {("2", start) for start in (0, 5, 10, 15)}


def test_windows_lie_within_the_span_and_begin_where_they_like(root):
    """Keyframes do not matter where nothing is decoded; a clip without a window in the span is left out."""
    compute(root, OfWindows())
    settings = {"features": ["windows"], "stride": 2, "snap_keyframes": True, "samples_per_epoch": 60}
    module = datamodule(root, train_span=(0.0, 0.5), **settings)
    starts = {int(each[0]) for batch in module.train_dataloader() for each in batch["frame_index"]}
    assert starts == {0, 5}
    module = datamodule(root, train_span=(0.55, 0.9), **settings)
    found = {
        (key, int(frames[0]))
        for batch in module.train_dataloader()
        for key, frames in zip(batch["key"], batch["frame_index"], strict=True)
    }
    assert found == {("clip1-000000000", 15)}, "from frame 13 of 23 on there is one at 15, to 21: too long"
    with pytest.raises(DataError, match=r"none of 2 samples has a window within .* that its features are of"):
        datamodule(root, train_span=(0.7, 1.0), **settings).train_dataloader()


def test_windows_of_another_kind_are_refused(root):
    compute(root, OfWindows())
    message = r"windows@\w{8} is of windows of 4 frames, 2 apart: set data\.examples\.clip_frames=4 and"
    for settings in ({"stride": 1}, {"stride": 2, "clip_frames": 5}, {"stride": [2, 4]}):
        with pytest.raises(DataError, match=message):
            datamodule(root, features=["windows"], **settings).train_dataloader()
