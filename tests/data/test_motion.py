"""Motion frames: the right ones, no more of them decoded than picked, and what a clip's start does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from portraitgen.data.archive import Archive
from portraitgen.data.index import ShardIndex, index_path
from portraitgen.data.motion import MotionFrames
from portraitgen.data.sample import DataError
from portraitgen.data.shards import ShardWriter
from portraitgen.media import gop
from portraitgen.media.gop import GopDecoder
from tests.data.modules import clip_module
from tests.synthetic import synthetic_clip

NUM_FRAMES = 160


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two clips; in the second nobody is seen in frame 20."""
    folder = tmp_path_factory.mktemp("clips")
    valid = np.arange(NUM_FRAMES) != 20
    with ShardWriter(folder) as writer:
        writer.write(synthetic_clip("whole", num_frames=NUM_FRAMES, size=32))
        writer.write(synthetic_clip("torn", num_frames=NUM_FRAMES, size=32, seed=1, valid=valid))
    return folder


def batches(root: Path, motion: MotionFrames, count: int = 20, **settings) -> list[dict]:
    settings = {"clip_frames": 12, "batch_size": 1, "samples_per_epoch": count, **settings}
    return list(clip_module(str(root / "shards" / "*.tar"), motion=motion, **settings).train_dataloader())


@pytest.mark.parametrize("stride", [1, 2])
def test_motion_frames_are_the_picks_before_the_window(root, shared, stride):
    cases = json.loads((shared / "golden/loopy_tsm.json").read_text())["cases"]
    offsets = next(case["uniform_mid"] for case in cases if case["s"] == 2 and case["r"] == 2)
    motion = MotionFrames(per_segment=2, ratio=2, before_start="exclude")
    index = ShardIndex.load(index_path(root / "shards" / "train-000000.tar"))
    videos = {
        index.key(row): Archive(root / "shards" / "train-000000.tar").read(index.members(row)["mp4"])
        for row in range(len(index))
    }
    starts = set()
    for batch in batches(root, motion, stride=stride, snap_keyframes=False):
        first = int(batch["frame_index"][0, 0])
        expected = np.array([first - stride * (1 + offset) for offset in reversed(offsets)])
        assert batch["motion_index"][0].tolist() == expected.tolist()
        assert batch["motion_found"].all()
        planes = GopDecoder().decode_yuv420(videos[batch["key"][0]], start=0, count=NUM_FRAMES)
        np.testing.assert_array_equal(batch["motion"][0], planes[expected])
        starts.add(first)
    assert len(starts) > 5


def test_of_a_window_and_124_frames_before_it_33_are_decoded(root, monkeypatch):
    copied = []
    copy = gop._copy_planes
    monkeypatch.setattr(gop, "_copy_planes", lambda frame, out: copied.append(out.shape) or copy(frame, out))
    motion = MotionFrames(before_start="exclude")
    module = clip_module(
        str(root / "shards" / "*.tar"), clip_frames=12, motion=motion, batch_size=2, samples_per_epoch=2
    )
    (batch,) = module.train_dataloader()
    assert batch["motion"].shape == (2, 20, 48, 32)
    assert len(copied) == 2 * (12 + 20 + 1)
    assert (batch["frame_index"][:, 0] >= 124).all()
    assert (batch["motion_index"][:, 0] == batch["frame_index"][:, 0] - 117).all()
    assert (batch["motion_index"][:, -1] == batch["frame_index"][:, 0] - 1).all()
    on_device = module.on_after_batch_transfer(batch, 0)["motion"]
    assert (on_device.shape, on_device.dtype) == ((2, 20, 3, 32, 32), torch.float32)


def test_what_lies_before_the_run_is_absent(root):
    seen = set()
    for batch in batches(root, MotionFrames(), count=40, snap_keyframes=False):
        first = int(batch["frame_index"][0, 0])
        run_start = 21 if batch["key"][0].startswith("torn") and first > 20 else 0
        wanted = first - 1 - MotionFrames().past.picks()[::-1]
        found = batch["motion_found"][0].numpy()
        assert found.tolist() == (wanted >= run_start).tolist()
        assert batch["motion_index"][0].numpy()[found].tolist() == wanted[found].tolist()
        assert (batch["motion_index"][0][~found] == -1).all()
        assert not batch["motion"][0][~found].any()
        assert not batch["motion_landmarks"][0][~found].any()
        assert batch["motion"][0][found].any(dim=(1, 2)).all()
        assert (batch["motion_landmarks"][0][found] != 0).all()
        seen.add(int(found.sum()))
    assert len(seen) > 5
    assert min(seen) < 8


def test_the_first_frame_can_stand_in(root):
    for batch in batches(root, MotionFrames(before_start="first"), snap_keyframes=False, pictures=["motion"]):
        first = int(batch["frame_index"][0, 0])
        run_start = 21 if batch["key"][0].startswith("torn") and first > 20 else 0
        wanted = np.maximum(first - 1 - MotionFrames().past.picks()[::-1], run_start)
        assert batch["motion_index"][0].tolist() == wanted.tolist()
        assert batch["motion_found"].all()
        repeated = wanted == run_start
        if repeated.any():
            assert (batch["motion"][0][repeated] == batch["motion"][0][repeated][0]).all()
            assert torch.equal(
                batch["motion_landmarks"][0][repeated],
                batch["motion_landmarks"][0][:1].expand(repeated.sum(), -1, -1),
            )
        assert "frames" not in batch


def test_a_window_that_begins_a_clip_has_no_first_frame_before_it(root):
    """With "first" the window's own first frame stands in."""
    motion = MotionFrames(per_segment=1, segments=2, before_start="first")
    frames, found = motion.before(0, stride=1, run_start=0, rng=np.random.default_rng(0))
    assert (frames.tolist(), found.tolist()) == ([0, 0], [True, True])


def test_windows_are_the_same_with_motion_and_without(root):
    """Nothing is drawn for it before the window is chosen."""
    names = ("key", "frame_index", "reference_index")

    def chosen(motion):
        return [[str(batch[name]) for name in names] for batch in batches(root, motion)]

    alone = chosen(None)
    for pick in ("uniform", "random"):
        assert chosen(MotionFrames(pick=pick)) == alone


def test_clips_without_so_long_a_past_are_left_out(root, caplog):
    with pytest.raises(DataError, match=r"no sample has 40 valid frames in a row after 124 more"):
        batches(root, MotionFrames(before_start="exclude"), clip_frames=40)
    with caplog.at_level("INFO"):
        kept = batches(root, MotionFrames(before_start="exclude"), clip_frames=36)
    assert {batch["key"][0] for batch in kept} == {"whole-000000000"}
    assert "1 without a window" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"stride": [1, 4], "motion": MotionFrames()},
            r"stride=\[1, 4\]: windows with motion frames",
        ),
        ({"motion": MotionFrames(pick="mean")}, "pick=mean: pictures are not averaged"),
    ],
)
def test_settings_that_make_no_sense_are_named(root, settings, message):
    with pytest.raises(DataError, match=message):
        batches(root, **settings)
    with pytest.raises(DataError, match="before_start=black: give one of absent, first, exclude"):
        MotionFrames(before_start="black")
