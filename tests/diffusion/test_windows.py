"""Windows: equal to AniPortrait's where asked, every frame covered, blending exact; chained clips."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from portraitgen.diffusion.windows import (
    WindowBatch,
    blend_weights,
    chained_clips,
    context_windows,
    radical_inverse,
    windowed,
)


def test_aniportrait_goldens(shared: Path) -> None:
    golden = json.loads((shared / "golden/aniportrait_context_uniform.json").read_text())
    assert len(golden["cases"]) > 400
    for case in golden["cases"]:
        arguments = [case[name] for name in ("num_frames", "context_size", "context_overlap")]
        options = {"stride": case["context_stride"], "closed_loop": case["closed_loop"], "step": case["step"]}
        if case["error"]:
            with pytest.raises(ValueError):
                context_windows(*arguments, **options)
        else:
            assert context_windows(*arguments, **options) == case["windows"], case
    for index, value in golden["ordered_halving"]:
        assert radical_inverse(index) == value


@pytest.mark.parametrize("closed_loop", [False, True])
@pytest.mark.parametrize(
    ("size", "overlap", "stride"), [(16, 4, 1), (12, 0, 1), (7, 6, 1), (16, 4, 3), (1, 0, 1)]
)
def test_every_frame_is_covered(closed_loop: bool, size: int, overlap: int, stride: int) -> None:
    lengths = [*range(1, 200), *range(200, 2001, 37), 2000]
    for num_frames in lengths:
        for step in (0, 1, 5):
            windows = context_windows(
                num_frames, size, overlap, stride=stride, closed_loop=closed_loop, step=step
            )
            assert {len(window) for window in windows} == {min(size, num_frames)}
            # The plain windows alone hold all frames, without the dilated ones.
            plain = [
                window for window in windows if len(window) < 2 or (window[1] - window[0]) % num_frames == 1
            ]
            assert {frame for window in plain for frame in window} == {*range(num_frames)}


def test_no_window_comes_twice() -> None:
    """A dilated window as long as the clip was predicted twice, and weighed double."""
    for step in range(6):
        for num_frames in range(17, 80):
            windows = [tuple(window) for window in context_windows(num_frames, 16, 4, stride=2, step=step)]
            assert len({*windows}) == len(windows), (num_frames, step)


def test_every_length_up_to_2000_is_covered_by_both_kinds() -> None:
    for num_frames in range(1, 2001):
        for closed_loop in (False, True):
            windows = context_windows(num_frames, 16, 4, closed_loop=closed_loop)
            assert {frame for window in windows for frame in window} == {*range(num_frames)}


@pytest.mark.parametrize("step", [0, 1, 2, 3, 17])
@pytest.mark.parametrize("num_frames", [17, 20, 45, 100])
def test_open_windows_run_forward_and_overlap_enough(num_frames: int, step: int) -> None:
    windows = context_windows(num_frames, 16, 4, step=step)
    for window in windows:
        assert window == list(range(window[0], window[0] + 16))
    for window, following in itertools.pairwise(windows):
        assert 0 < following[0] - window[0] <= 12
    assert len(windows) == len({window[0] for window in windows})


def test_open_windows_need_no_more_than_necessary_and_move_with_the_step() -> None:
    assert [window[0] for window in context_windows(20, 16, 4)] == [0, 4]
    assert [window[0] for window in context_windows(100, 16, 4)] == [0, 12, 24, 36, 48, 60, 72, 84]
    assert [window[0] for window in context_windows(100, 16, 4, step=1)][:3] == [0, 6, 18]


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((0, 16, 4), {}),
        ((20, 0, 0), {}),
        ((20, 16, 16), {}),
        ((20, 16, -1), {}),
        ((20, 16, 4), {"stride": 0}),
        ((20, 16, 4), {"step": -1}),
    ],
)
def test_bad_windows(arguments: tuple[int, int, int], options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="not"):
        context_windows(*arguments, **options)


@pytest.mark.parametrize("blend", ["mean", "triangular"])
@pytest.mark.parametrize("closed_loop", [False, True])
@pytest.mark.parametrize("num_frames", [1, 16, 17, 20, 45, 101])
def test_blend_weights_sum_to_one_on_every_frame(blend: str, closed_loop: bool, num_frames: int) -> None:
    windows = context_windows(num_frames, 16, 4, stride=3, closed_loop=closed_loop)
    weights = blend_weights(windows, num_frames, blend=blend)
    total = torch.zeros(num_frames)
    for window, row in zip(windows, weights, strict=True):
        for frame, weight in zip(window, row, strict=True):
            total[frame] += weight
    torch.testing.assert_close(total, torch.ones(num_frames))
    assert bool((weights > 0).all())


def test_triangular_weights_fade_from_one_window_to_the_next() -> None:
    weights = blend_weights([[0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8]], 9, blend="triangular")
    torch.testing.assert_close(weights[0], torch.tensor([1, 1, 1, 3 / 4, 2 / 4, 1 / 4]))
    assert torch.equal(weights[1], weights[0].flip(0))


@pytest.mark.parametrize(
    ("windows", "blend", "message"),
    [
        ([[0, 1], [2, 3]], "median", "mean, triangular"),
        ([[0, 1, 2], [3]], "mean", "different sizes"),
        ([[0, 1], [3, 4]], "mean", "exactly the 4 frames"),
        ([[0, 1], [1, 2]], "mean", "exactly the 4 frames"),
    ],
)
def test_bad_blends(windows: list[list[int]], blend: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blend_weights(windows, 4, blend=blend)


@pytest.mark.parametrize("blend", ["mean", "triangular"])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
@pytest.mark.parametrize("closed_loop", [False, True])
def test_a_network_that_looks_at_frames_alone_is_unchanged(
    blend: str, batch_size: int, closed_loop: bool
) -> None:
    """Windows, batches of them and blending must then be invisible: over 16 frames without guidance too."""
    noisy, pose, reference, time = (
        torch.randn(2, 45, 3),
        torch.randn(2, 45, 3),
        torch.randn(2, 3),
        torch.rand(2),
    )

    def predict(noisy: Tensor, time: Tensor, batch: WindowBatch) -> Tensor:
        clip = noisy * batch.of_frames(pose) + batch.of_samples(reference)[:, None]
        return clip * time[:, None, None]

    windows = context_windows(45, 16, 4, closed_loop=closed_loop)
    out = windowed(predict, windows, blend=blend, batch_size=batch_size)(noisy, time)
    torch.testing.assert_close(out, (noisy * pose + reference[:, None]) * time[:, None, None])


def test_batches_of_windows_equal_single_ones_bit_for_bit() -> None:
    noisy, time = torch.randn(2, 45, 3, dtype=torch.float32), torch.rand(2)
    windows = context_windows(45, 16, 4)

    def predict(noisy: Tensor, time: Tensor, batch: WindowBatch) -> Tensor:
        return noisy.cumsum(1) * time[:, None, None]

    single, *batched = (
        windowed(predict, windows, blend="triangular", batch_size=size)(noisy, time) for size in (1, 2, 3, 4)
    )
    for other in batched:
        assert torch.equal(single, other)


def test_mean_blend_is_the_mean_of_the_windows() -> None:
    noisy = torch.randn(1, 6, 2)

    def predict(noisy: Tensor, time: Tensor, batch: WindowBatch) -> Tensor:
        return noisy - noisy.mean(1, keepdim=True)

    out = windowed(predict, [[0, 1, 2, 3], [2, 3, 4, 5]])(noisy, torch.zeros(1))
    first, second = (
        noisy[:, part] - noisy[:, part].mean(1, keepdim=True) for part in (slice(4), slice(2, 6))
    )
    expected = torch.cat([first[:, :2], (first[:, 2:] + second[:, :2]) / 2, second[:, 2:]], 1)
    torch.testing.assert_close(out, expected)


def test_windows_of_another_clip_are_refused() -> None:
    predict = windowed(lambda noisy, time, batch: noisy, [[0, 1], [1, 2]])
    with pytest.raises(ValueError, match="3 frames, the clip has 5"):
        predict(torch.zeros(1, 5, 2), torch.zeros(1))
    with pytest.raises(ValueError, match="at least 1"):
        windowed(lambda noisy, time, batch: noisy, [[0, 1]], batch_size=0)


@pytest.mark.parametrize(
    ("num_frames", "clip", "motion"), [(1, 12, 124), (12, 12, 124), (300, 12, 124), (37, 5, 0)]
)
def test_chained_clips_follow_each_other(num_frames: int, clip: int, motion: int) -> None:
    chain = chained_clips(num_frames, clip, motion)
    assert [frame for link in chain for frame in link.frames] == list(range(num_frames))
    assert all(len(link.frames) == clip for link in chain[:-1])
    assert not chain[0].motion
    for link in chain:
        assert link.motion.stop == link.frames.start, "motion ends right before the clip"
        assert len(link.motion) == min(motion, link.frames.start)


@pytest.mark.parametrize("arguments", [(0, 12, 124), (20, 0, 124), (20, 12, -1)])
def test_bad_chains(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="chain needs"):
        chained_clips(*arguments)
