"""What a clip's example holds when it is asked for: captions, rates, boxes, key points, and another size."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from portraitgen.data.prepare.masks import HullMasks
from portraitgen.data.sample import DataError
from portraitgen.data.shards import ShardWriter
from portraitgen.faces.drawing import draw_landmarks
from portraitgen.media.encode import encode_clip
from tests.data.modules import clip_module
from tests.synthetic import synthetic_clip, synthetic_frames

FRAMES = 40


def wide_clip(name: str, *, left: int, width: int = 160, seed: int = 0):
    """A clip of a drawn face of 96 pixels' height, from column `left` on of a grey picture."""
    clip = synthetic_clip(name, num_frames=FRAMES, size=96, seed=seed)
    (track,) = clip.tracks
    frames = np.full((FRAMES, 96, width, 3), 90, np.uint8)
    frames[:, :, left : left + 96] = synthetic_frames(track.landmarks, 96, seed=seed)
    shift = np.array([left, 0], np.float32)
    moved = replace(
        track,
        boxes=track.boxes + np.tile(shift, 2),
        keypoints=track.keypoints + shift,
        landmarks=track.landmarks + shift,
    )
    return HullMasks()(
        replace(clip, width=width, video=encode_clip(frames, fps=25, crf=10), tracks=(moved,), caption=name)
    )


@pytest.fixture(scope="module")
def clips():
    return {
        clip.key: clip
        for clip in (wide_clip("left", left=0), wide_clip("right", left=104, width=200, seed=1))
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory, clips):
    folder = tmp_path_factory.mktemp("clips")
    with ShardWriter(folder) as writer:
        for clip in clips.values():
            writer.write(clip)
    return folder


def batches(root, count: int = 6, **settings) -> list[dict]:
    settings = {"clip_frames": 4, "batch_size": 1, "samples_per_epoch": count, **settings}
    module = clip_module(str(root / "shards" / "*.tar"), **settings)
    return [module.on_after_batch_transfer(batch, 0) for batch in module.train_dataloader()]


def test_what_the_shard_knows_reaches_the_batch(root, clips):
    asked = {"boxes": True, "key_points": True, "captions": True, "fps": True, "size": [96, 160]}
    for batch in batches(root, filters=None, **asked):
        clip = clips[batch["key"][0]]
        (track,), frames = clip.tracks, batch["frame_index"][0].numpy()
        shift = 0 if clip.width == 160 else 40  # the wider clip is shown from there on
        np.testing.assert_allclose(batch["boxes"][0], track.boxes[frames] - [shift, 0, shift, 0], atol=1e-3)
        np.testing.assert_allclose(batch["key_points"][0], track.keypoints[frames] - [shift, 0], atol=1e-3)
        assert batch["caption"] == [clip.caption]
        assert batch["fps"].tolist() == [25.0]
        assert batch["fps"].dtype == torch.float32


def test_nothing_is_there_that_was_not_asked_for(root):
    (batch, *_) = batches(root, size=64, reference=None, pictures=False)
    assert batch.keys() == {"key", "frame_index", "landmarks"}


@pytest.mark.parametrize("size", [[64, 64], [96, 64], [64, 96], [192, 192]])
def test_clips_of_all_sizes_are_shown_at_one(root, clips, size):
    """Pictures, landmarks, masks and drawings move together, and the face stays."""
    seen = set()
    for batch in batches(root, size=size, masks="face", pose_size=[64, 96], boxes=True, count=10):
        clip = clips[batch["key"][0]]
        (track,), frames = clip.tracks, batch["frame_index"][0].numpy()
        assert batch["frames"].shape == (1, 4, 3, *size)
        assert batch["reference"].shape == (1, 3, *size)
        landmarks = batch["landmarks"][0].numpy()
        box = batch["boxes"][0].numpy()
        assert (box >= -1).all()
        assert (box <= [size[1] + 1, size[0] + 1] * 2).all()
        # The map from the clip to what is shown, read off the landmarks: the same for window and reference.
        stored = np.concatenate([track.landmarks[frames], track.landmarks[batch["reference_index"].numpy()]])
        shown = np.concatenate([landmarks, batch["reference_landmarks"].numpy()])
        for axis, (limit, stored_limit) in enumerate(zip(size[::-1], (clip.width, 96), strict=True)):
            scale, offset = np.polyfit(stored[..., axis].ravel(), shown[..., axis].ravel(), 1)
            np.testing.assert_allclose(scale * stored[..., axis] + offset, shown[..., axis], atol=1e-2)
            assert offset < 1e-3, "nothing is made up"
            assert scale * stored_limit + offset > limit - 1e-2
        mouth = np.clip(landmarks[:, 62:67].mean(axis=1), 0, None)
        for frame, (x, y), mask in zip(batch["frames"][0], mouth, batch["masks"][0, :, 0], strict=True):
            assert mask[int(y), int(x)] == 1
            assert 0.01 < mask.mean() < 0.9
            assert (frame[:, int(y), int(x)] < 0).all(), "the mouth is dark"
        drawn = draw_landmarks(landmarks, image_size=tuple(size), canvas_size=(64, 96))
        np.testing.assert_allclose(batch["pose"][0], drawn / 127.5 - 1, atol=1e-6)
        seen.add(batch["key"][0])
    assert len(seen) == 2


def test_clips_at_their_own_size_are_not_touched(tmp_path):
    with ShardWriter(tmp_path) as writer:
        writer.write(synthetic_clip("own", num_frames=FRAMES, size=64))
    plain, framed = batches(tmp_path), batches(tmp_path, size=64)
    assert all(
        torch.equal(left[name], right[name])
        for left, right in zip(plain, framed, strict=True)
        for name in left
        if name != "key"
    )


def test_what_lacks_a_caption_is_left_out_and_counted(tmp_path, clips, caplog):
    with ShardWriter(tmp_path) as writer:
        (first, second) = clips.values()
        writer.write(replace(first, caption=None))
        writer.write(second)
    with caplog.at_level("INFO"):
        seen = batches(tmp_path, captions=True)
    assert {batch["key"][0] for batch in seen} == {second.key}
    assert "1 of 2 samples in 1 shard(s) can be used" in caplog.text
    assert "left out: 1 without a caption" in caplog.text
    with pytest.raises(DataError, match=r"captions=true: none of 1 samples has a caption; prepare them with"):
        batches(tmp_path, captions=True, filters={"min_face": [None, float(first.scores["min_face"])]})


def test_each_clip_has_its_own_rate(tmp_path, clips):
    (first, second) = clips.values()
    with ShardWriter(tmp_path) as writer:
        writer.write(replace(first, fps=Fraction(30000, 1001)))
        writer.write(second)
    rates = {b["key"][0]: b["fps"].item() for b in batches(tmp_path, fps=True, size=64, pictures=False)}
    assert rates == {first.key: pytest.approx(29.97003), second.key: 25.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"differ in frame size .*or set data\.examples\.size"),
        ({"size": [64, 60]}, r"size=\[64, 60\]: give multiples of 8"),
        ({"size": [64]}, "size must be a side or a pair"),
        ({"reference": "last"}, "'last' is not one of random, first, neutral, nor null"),
        ({"pictures": ["faces"]}, r"pictures=\['faces'\]"),
    ],
)
def test_what_cannot_be_is_named(root, settings, message):
    with pytest.raises(DataError, match=message):
        batches(root, **settings)
