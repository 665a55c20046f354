"""The training stream: one law for any number of workers, ranks and restarts, broken samples included."""

import gc
import itertools
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from portraitgen.data.archive import Archive
from portraitgen.data.datamodule import ShardDataModule
from portraitgen.data.examples import ExamplesByPosition
from portraitgen.data.index import ShardIndex, index_path
from portraitgen.data.loader import ResumableLoader
from portraitgen.data.motion import MotionFrames
from portraitgen.data.prepare.masks import HullMasks
from portraitgen.data.sample import DataError
from portraitgen.data.shards import ShardWriter
from portraitgen.faces.drawing import draw_landmarks
from portraitgen.media.gop import GopDecoder
from portraitgen.media.masks import decode_rle_batch
from tests.data.batches import assert_same, take
from tests.data.modules import clip_module, photo_module
from tests.data.photos import Person, photo
from tests.synthetic import synthetic_clip

NUM_CLIPS = 7
PORTRAIT, LANDSCAPE = (96, 64), (64, 96)
PHOTO_SETTINGS = {"people": 2, "flip": 0.5, "faces": 112, "identities": True, "other": 0.5, "captions": True}
KINDS = {
    "clips": {},
    "motion": {"motion": MotionFrames(per_segment=2, segments=3, pick="random"), "fps": True, "boxes": True},
    "photos": {"size": 64, **PHOTO_SETTINGS},
    "buckets": {"buckets": [PORTRAIT, LANDSCAPE], **PHOTO_SETTINGS},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Seven clips of 40 frames in three shards."""
    folder = tmp_path_factory.mktemp("clips")
    with ShardWriter(folder, max_samples=3) as writer:
        for seed in range(NUM_CLIPS):
            writer.write(synthetic_clip(f"person{seed}", num_frames=40, size=32, seed=seed))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Seven photos in three shards, four upright and three lying, two people in some of them."""
    folder = tmp_path_factory.mktemp("photos")
    with ShardWriter(folder, max_samples=3) as writer:
        for number in range(NUM_CLIPS):
            people = [Person(0, 8, 64, seed=number, name="ABC"[number % 3])]
            if number % 2:
                people.append(Person(60, 70, 32, seed=number + 10))
            size = (128, 96) if number % 2 else (96, 128 + 4 * number)
            writer.write(photo(f"person{number}", size, people, seed=number, caption=f"number {number}"))
    return folder


@pytest.fixture(params=KINDS)
def make(request, root, photos):
    """Builds the loader of a kind of examples, as `loader` does."""
    folder = root if request.param in ("clips", "motion") else photos

    def built(folder: Path = folder, **settings) -> ResumableLoader:
        return loader(folder, **KINDS[request.param], **settings)

    built.kind, built.folder = request.param, folder
    return built


def datamodule(root: Path, **settings) -> ShardDataModule:
    settings = {"batch_size": 2, "seed": 5, "samples_per_epoch": 8, **settings}
    shards = str(root / "shards" / "train-*.tar")
    if "people" in settings:
        return photo_module(shards, **settings)
    return clip_module(shards, **{"clip_frames": 4, "snap_keyframes": False, **settings})


def loader(
    root: Path, *, rank: int = 0, world_size: int = 1, num_workers: int = 0, **settings
) -> ResumableLoader:
    module = datamodule(root, num_workers=num_workers, **settings)
    return module.train_stream(rank=rank, world_size=world_size)


def test_a_batch_holds_the_frames_that_it_names(root):
    stream = loader(root, pose_size=64)
    samples = {}
    for shard in sorted((root / "shards").glob("*.tar")):
        index = ShardIndex.load(index_path(shard))
        for row in range(len(index)):
            video = Archive(shard).read(index.members(row)["mp4"])
            samples[index.key(row)] = GopDecoder().decode_yuv420(video, start=0, count=40)
    landmarks = {
        f"person{s}-000000000": synthetic_clip("x", num_frames=40, size=32, seed=s) for s in range(NUM_CLIPS)
    }
    for batch in take(stream, 6):
        for i, key in enumerate(batch["key"]):
            frames, reference = batch["frame_index"][i].numpy(), int(batch["reference_index"][i])
            np.testing.assert_array_equal(batch["frames"][i], samples[key][frames])
            np.testing.assert_array_equal(batch["reference"][i], samples[key][reference])
            known = landmarks[key].tracks[0].landmarks
            np.testing.assert_array_equal(batch["landmarks"][i], known[frames])
            np.testing.assert_array_equal(batch["reference_landmarks"][i], known[reference])
            drawn = draw_landmarks(known[frames], image_size=(32, 32), canvas_size=(64, 64))
            np.testing.assert_array_equal(batch["pose"][i], drawn)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_holds_the_masks_that_were_written(tmp_path, num_workers):
    clips = {}
    with ShardWriter(tmp_path) as writer:
        for seed in range(3):
            clip = HullMasks()(synthetic_clip(f"person{seed}", num_frames=20, size=32, seed=seed))
            clips[clip.key] = clip
            writer.write(clip)
        writer.write(synthetic_clip("unmasked", num_frames=20, size=32))
    seen = set()
    for batch in take(loader(tmp_path, masks="face", num_workers=num_workers), 6):
        assert batch["masks"].dtype == torch.uint8
        for key, frames, masks in zip(batch["key"], batch["frame_index"], batch["masks"], strict=True):
            stored = clips[key].masks
            np.testing.assert_array_equal(
                masks, decode_rle_batch(stored.runs, stored.offsets, (32, 32), frames.numpy())
            )
            assert 0 < masks.float().mean() < 1
            seen.add(key)
    assert seen == set(clips), "samples without masks are left out"
    on_device = datamodule(tmp_path).on_after_batch_transfer(batch, 0)["masks"]
    assert (on_device.shape, on_device.dtype) == ((2, 4, 1, 32, 32), torch.float32)


def test_masks_that_are_not_there_are_refused(root):
    with pytest.raises(DataError, match=r"data\.examples\.masks=face: none of 7 samples has masks"):
        loader(root, masks="face")
    with pytest.raises(DataError, match=r"data\.examples\.masks=hair: give one of face, head, person"):
        loader(root, masks="hair")


def test_workers_do_not_change_a_batch(make):
    assert_same(take(make(), 9), take(make(num_workers=2), 9))


class _InACycle:
    """Only the garbage collector ends it; it notes which process that was."""

    def __init__(self, ended: Path) -> None:
        self._itself, self._ended = self, ended

    def __del__(self) -> None:
        (self._ended / str(os.getpid())).touch()


def test_workers_leave_alone_what_is_garbage_in_the_process_that_forked_them(root, tmp_path, monkeypatch):
    """A decoder or a session of a network would wait there for threads that a fork does not have."""
    read = ExamplesByPosition.__getitems__

    def collect_and_read(self, wanted):
        gc.collect()
        return read(self, wanted)

    monkeypatch.setattr(ExamplesByPosition, "__getitems__", collect_and_read)
    gc.disable()
    try:
        _InACycle(tmp_path)
        take(loader(root, num_workers=2), 3)
        gc.collect()
    finally:
        gc.enable()
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


def test_batches_held_by_the_consumer_are_not_overwritten(make):
    """More batches than there are slabs, all of them kept."""
    expected = take(make(), 30)
    stream = make(num_workers=2)
    kept = []
    while len(kept) < 30:
        kept += list(stream)
    stream.close()
    assert_same(kept[:30], expected)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 3, 4, 5, 8])
def test_resumes_with_the_next_batch_over_epoch_borders(make, num_workers, stop):
    """An epoch is 4 batches: stops in mid-epoch, at a border and after one."""
    whole = take(make(), 10)
    first = make(num_workers=num_workers)
    before = take(first, stop)
    resumed = make(num_workers=num_workers)
    resumed.load_state_dict(first.state_dict())
    assert_same(before + take(resumed, 10 - stop), whole)
    assert resumed.state_dict() == {"epoch": 2, "batches": 2, "samples": 2, "position": 20}


def test_going_on_in_the_same_process_is_resuming(make):
    stream = make(num_workers=2)
    assert_same(take(stream, 3) + take(stream, 4), take(make(), 7))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reading_draws_nothing_from_the_global_generators(make, num_workers):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    take(make(num_workers=num_workers), 3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_an_epoch_has_the_length_that_it_says(make):
    stream = make()
    assert len(stream) == len(list(stream)) == len(list(stream)) == 4
    assert stream.state_dict() == {"epoch": 1, "batches": 4, "samples": 2, "position": 16}
    for _ in stream:
        break
    assert stream.state_dict() == {"epoch": 2, "batches": 1, "samples": 2, "position": 18}
    assert len(list(stream)) == 3, "the rest of the epoch"


def test_two_ranks_see_together_what_one_sees_with_twice_the_batch(make):
    ranks = [take(make(rank=rank, world_size=2, num_workers=rank * 2), 5) for rank in range(2)]
    for number, batch in enumerate(take(make(batch_size=4), 5)):
        parts = [ranks[rank][number] for rank in range(2)]
        for name, value in batch.items():
            if isinstance(value, list):
                assert value == parts[0][name] + parts[1][name]
            else:
                torch.testing.assert_close(value, torch.cat([p[name] for p in parts]), rtol=0, atol=0)


def test_a_pass_has_every_sample_once_whatever_the_epoch_is_called(make):
    if make.kind == "buckets":
        pytest.skip("buckets have passes of their own")
    keys = [key for batch in take(make(), 2 * NUM_CLIPS) for key in batch["key"]]
    passes = [keys[i : i + NUM_CLIPS] for i in range(0, len(keys), NUM_CLIPS)]
    assert all(len(set(one)) == NUM_CLIPS for one in passes)
    assert len({tuple(one) for one in passes}) == len(passes)


def test_another_seed_is_another_stream(make):
    one, other = (
        [(b["key"], b["landmarks" if "landmarks" in b else "image"]) for b in take(make(seed=seed), 4)]
        for seed in (1, 2)
    )
    assert str(one) != str(other)


def test_a_state_of_longer_epochs_is_refused(make):
    with pytest.raises(DataError, match="batch 9 of an epoch, but epochs have now 4"):
        make().load_state_dict({"epoch": 0, "batches": 9})


def test_a_state_of_other_batches_is_refused(make):
    """With twice as many devices every second sample was left out."""
    state = make(world_size=2).state_dict()
    with pytest.raises(DataError, match="batches of 4 samples over all devices, they would now be of 2"):
        make().load_state_dict(state)


def seen(batches: list[dict]) -> list[tuple]:
    """Which samples, and which pictures of them."""
    return [(key, str(batch["landmarks" if "landmarks" in batch else "image"][i]))
            for batch in batches for i, key in enumerate(batch["key"])]  # fmt: skip


@pytest.mark.parametrize("ranks", [(3, 1), (3, 2), (1, 3), (2, 4)])
def test_on_other_devices_the_data_go_on_behind_the_last_sample(make, ranks):
    """None is repeated or left out, wherever in an epoch and whether or not the batches divide."""
    if make.kind == "buckets":
        pytest.skip("the order depends on the size of the batches")
    then, now = ranks
    whole = seen(take(make(batch_size=1, samples_per_epoch=12), 48))
    for count in (1, 4, 5):
        first = [make(rank=rank, world_size=then, samples_per_epoch=12) for rank in range(then)]
        before = [take(stream, count) for stream in first]
        then_on = [make(rank=rank, world_size=now, samples_per_epoch=12) for rank in range(now)]
        for stream in then_on:
            stream.load_state_dict(stream.recounted(first[0].state_dict()))
        after = [take(stream, 3) for stream in then_on]
        batches = [*itertools.chain(*zip(*before, strict=True)), *itertools.chain(*zip(*after, strict=True))]
        assert seen(batches) == whole[: 2 * (count * then + 3 * now)]


def test_counts_of_other_batches_come_nearest_from_above(root):
    stream = loader(root, samples_per_epoch=8)  # 4 batches of 2
    state = {"epoch": 1, "batches": 1, "samples": 3, "position": 9}
    assert stream.recounted(state) == {"epoch": 1, "batches": 1, "samples": 2, "position": 9}
    assert stream.recounted(state, multiple_of=2) == {"epoch": 1, "batches": 2, "samples": 2, "position": 9}
    assert stream.recounted({**state, "position": 1})["batches"] == 1
    same = {"epoch": 1, "batches": 4, "samples": 2, "position": 16}
    assert stream.recounted(same, multiple_of=2) == same


def test_with_buckets_batches_of_another_size_are_refused(make):
    if make.kind != "buckets":
        pytest.skip("goes on")
    with pytest.raises(DataError, match=r"data\.examples\.buckets"):
        make().recounted(make(world_size=2).state_dict())


def test_fixed_clips_are_the_same_each_time_and_shared_out_evenly(root):
    module = datamodule(root, val_span=(0.75, 1), train_span=(0, 0.75), val_samples=5, num_workers=2)
    module.setup("fit")
    whole = list(module.val_dataloader())
    assert [len(batch["key"]) for batch in whole] == [2, 2, 1]
    assert_same(whole, list(module.val_dataloader()))
    assert all(torch.all(batch["frame_index"] >= 30) for batch in whole)
    ranks = [list(module.val_stream(rank=rank, world_size=2)) for rank in range(2)]
    assert [sum(len(batch["key"]) for batch in rank) for rank in ranks] == [3, 3]
    seen = {
        (k, tuple(f))
        for rank in ranks
        for b in rank
        for k, f in zip(b["key"], b["frame_index"].tolist(), strict=True)
    }
    assert seen == {
        (k, tuple(f)) for b in whole for k, f in zip(b["key"], b["frame_index"].tolist(), strict=True)
    }


def damage(root: Path, target: Path, rows: dict[str, list[int]]) -> Path:
    """A copy of the shards with the frame data of some clips overwritten."""
    shutil.copytree(root, target)
    for name, damaged in rows.items():
        shard = target / "shards" / name
        index = ShardIndex.load(index_path(shard))
        data = bytearray(shard.read_bytes())
        for row in damaged:
            packets = index.packets(row)
            if packets is None:
                place = index.members(row)["jpg"]
                data[place.offset : place.offset + place.size] = bytes(place.size)
                continue
            start = index.members(row)["mp4"].offset
            for offset, size in zip(packets.offsets.tolist(), packets.sizes.tolist(), strict=True):
                data[start + offset : start + offset + size] = bytes(size)
        shard.write_bytes(data)
    return target


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_sample_is_replaced_by_the_next_and_named_once(make, tmp_path, caplog, num_workers):
    broken = damage(make.folder, tmp_path / "broken", {"train-000001.tar": [1]})
    whole = take(make(), 7)
    stream = make(broken, num_workers=num_workers)
    with caplog.at_level(logging.WARNING):
        batches = take(stream, 7)
    bad = "person4-000000000"
    keys, expected = ([key for batch in part for key in batch["key"]] for part in (batches, whole))
    assert bad in expected
    assert bad not in keys
    (line,) = [record.message for record in caplog.records if bad in record.message]
    assert "train-000001.tar" in line
    assert "replaced" in line
    assert sum(stream.failures.values()) == expected.count(bad)
    assert_same(batches, take(make(broken, num_workers=2 - num_workers), 7))
    if make.kind == "buckets":
        return  # the next of its own bucket stands in its place
    # Only the places of the broken clip differ, and there stands the next clip.
    for place, (got, want) in enumerate(zip(keys[:-1], expected[:-1], strict=True)):
        assert got == (expected[place + 1] if want == bad else want)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_broken_samples_end_the_run_with_one_clear_line(make, tmp_path, num_workers):
    rows = {"train-000000.tar": [0, 1, 2], "train-000001.tar": [0, 1, 2], "train-000002.tar": [0]}
    broken = damage(make.folder, tmp_path / "broken", rows)
    with pytest.raises(
        DataError, match=r"^16 samples in a row could not be read, the last being person\d"
    ) as error:
        take(make(broken, num_workers=num_workers), 1)
    assert "Traceback" not in str(error.value)
