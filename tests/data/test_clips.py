"""Windows and references: inside the span, inside a run, at keyframes when asked, all starts reachable."""

import json

import numpy as np
import pytest

from portraitgen.data.clips import ClipWindows, complete_starts, spread
from portraitgen.data.sample import DataError

NUM_FRAMES = 120
KEYFRAMES = np.arange(NUM_FRAMES) % 12 == 0
WHOLE = np.array([[0, 0, NUM_FRAMES]])


def draw(windows, runs=WHOLE, count=300):
    rngs = (np.random.default_rng(seed) for seed in range(count))
    return [windows.choose(NUM_FRAMES, np.asarray(runs), KEYFRAMES, rng) for rng in rngs]


@pytest.mark.parametrize(("clip_frames", "stride"), [(1, 1), (4, 1), (12, 2)])
def test_windows_lie_in_one_run_within_the_span(clip_frames, stride):
    runs = [[0, 0, 40], [0, 43, 100], [1, 10, 80]]
    windows = ClipWindows(clip_frames, stride, (0, 0.75), snap_keyframes=False)
    seen = set()
    for track, frames, reference in draw(windows, runs):
        assert np.all(np.diff(frames) == stride)
        assert len(frames) == clip_frames
        assert any(t == track and start <= frames[0] and frames[-1] < end for t, start, end in runs)
        assert frames[-1] < 90
        assert reference < 90
        assert reference not in frames
        assert any(t == track and start <= reference < end for t, start, end in runs)
        seen.add((track, int(frames[0])))
    assert {track for track, _ in seen} == {0, 1}


def test_spans_that_share_a_border_share_no_frame_and_leave_none_out():
    for num_frames in range(5, 60):
        low, high = (
            np.arange(*(int(b) for b in ClipWindows(1, span=span)._bounds(np.array(num_frames))))
            for span in ((0, 0.75), (0.75, 1))
        )
        assert [*low, *high] == list(range(num_frames))


def test_all_starts_are_drawn_and_none_beside():
    windows = ClipWindows(4, span=(0.75, 1), snap_keyframes=False)
    assert {int(window.frames[0]) for window in draw(windows)} == set(range(90, 117))


def test_snapped_windows_and_references_are_at_keyframes():
    for window in draw(ClipWindows(12, span=(0, 0.75))):
        assert window.frames[0] % 12 == 0
        assert window.reference % 12 == 0
        assert window.reference != window.frames[0]


def test_without_a_keyframe_to_choose_snapping_takes_any_frame():
    for window in draw(ClipWindows(4, span=(0, 1)), [[0, 1, 9]], count=50):
        assert 1 <= window.frames[0] <= 5
        assert 1 <= window.reference < 9


def test_first_reference_may_lie_outside_the_span():
    windows = ClipWindows(4, span=(0.75, 1), reference="first")
    assert {window.reference for window in draw(windows)} == {0}
    assert {window.reference for window in draw(windows, [[0, 2, 50], [0, 60, 120]])} == {2}


def test_a_lone_frame_is_its_own_reference():
    ((track, frames, reference),) = draw(ClipWindows(1), [[0, 7, 8]], count=1)
    assert (track, frames.tolist(), reference) == (0, [7], 7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_frames": 0}, "clip_frames"),
        ({"clip_frames": 2, "stride": 0}, "stride"),
        ({"clip_frames": 2, "span": (0.5, 0.5)}, "span"),
        ({"clip_frames": 2, "reference": "last"}, "'last' is not one of random, first"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, message):
    with pytest.raises(DataError, match=message):
        ClipWindows(**settings)


def test_a_clip_without_window_is_refused():
    with pytest.raises(DataError, match="no 12 valid frames in a row"):
        draw(ClipWindows(12), [[0, 0, 11]])


def test_windows_are_those_of_the_official_data_sets(shared):
    """Given a case's stride and start: frames at a distance, or as much of a short clip as there is."""
    cases = json.loads((shared / "golden/aniportrait_dataset_sampling.json").read_text())
    for case in cases:
        length = int(case["video"][1:])
        count = 1 if case["stage"] == "stage1" else 16
        strides = {"stage2": (1, 4), "stage2_noaug": (4,)}.get(case["stage"], (1,))
        first, frames = case["frames"][0], case["frames"]
        possible = [spread(first, min((count - 1) * stride + 1, length), count) for stride in strides]
        assert frames in [window.tolist() for window in possible]
        if case["stage"] == "stage2" and frames[-1] - frames[0] > 15:
            assert frames == possible[1].tolist()


def test_several_strides_are_drawn_equally_often_and_squeezed_into_short_runs():
    windows = ClipWindows(16, (1, 4), (0, 1), snap_keyframes=False)
    steps = [int(np.diff(window.frames)[0]) for window in draw(windows)]
    assert set(steps) == {1, 4}
    assert 110 < steps.count(4) < 190
    short = [[0, 10, 41]]
    for _, frames, _ in draw(windows, short, count=50):
        assert frames.tolist() in ([*range(frames[0], frames[0] + 16)], [*range(10, 41, 2)])
        assert 10 <= frames[0] <= frames[-1] < 41
    with pytest.raises(DataError, match="has no 16 valid frames in a row"):
        draw(windows, [[0, 0, 15]])
    with pytest.raises(DataError, match="must be at least 1"):
        ClipWindows(16, (1, 0))


def test_windows_begin_only_where_features_have_them():
    windows = ClipWindows(4, span=(0, 0.75), snap_keyframes=False)
    starts = np.zeros(NUM_FRAMES, bool)
    starts[[10, 33, 60, 88, 100]] = True
    rngs = (np.random.default_rng(seed) for seed in range(100))
    chosen = [windows.choose(NUM_FRAMES, WHOLE, KEYFRAMES, rng, starts) for rng in rngs]
    assert {int(window.frames[0]) for window in chosen} == {10, 33, 60}, "88 to 91 leave the span"
    assert windows.has_window(NUM_FRAMES, WHOLE, starts)
    starts[:60] = starts[61:88] = False
    runs = np.array([[0, 0, 62], [0, 63, 120]])
    assert not windows.has_window(NUM_FRAMES, runs, starts), "60 to 63 are not one run"
    with pytest.raises(DataError, match=r"no window within .* among those that its features are of"):
        windows.choose(NUM_FRAMES, runs, KEYFRAMES, np.random.default_rng(0), starts)


def test_windows_have_what_must_lie_before_them_in_their_run():
    """Also where that lies before the span."""
    windows = ClipWindows(4, span=(0.5, 1), snap_keyframes=False, lead=30)
    seen = draw(windows, [[0, 0, 40], [0, 50, 120]])
    assert {int(window.frames[0]) for window in seen} == set(range(80, 117))
    whole = {int(window.frames[0]) for window in draw(windows)}
    assert min(whole) == 60, "with the thirty frames before the span"


def test_without_a_reference_none_is_drawn():
    windows = ClipWindows(4, reference=None)
    alone = draw(windows, count=20)
    beside = draw(ClipWindows(4), count=20)
    assert all(window.reference is None for window in alone)
    assert [w.frames.tolist() for w in alone] == [w.frames.tolist() for w in beside]


def test_missed_frames_between_those_of_a_window_are_bridged():
    """A detector misses a frame here and there: without this, windows of 49 frames 3 apart need 145 in a
    row.
    """
    rng = np.random.default_rng(0)
    for holes in (0, 1, 3):
        valid = rng.random(200) > 0.12
        found = complete_starts(valid, 5, 3, holes=holes).tolist()
        for start in range(200 - 12):
            inside = valid[start : start + 13]
            missed = max(
                (len(run) for run in "".join(str(int(seen)) for seen in inside).split("1")), default=0
            )
            assert (start in found) == (inside[::3].all() and missed <= holes), (holes, start)
    assert complete_starts(np.ones(4, bool), 5, 1).tolist() == []

    runs = [[0, 0, 7], [0, 8, 16], [0, 30, 41]]
    windows = ClipWindows(5, 3, (0, 1), snap_keyframes=False, holes=1)
    seen = draw(windows, runs)
    starts = {int(window.frames[0]) for window in seen}
    assert starts == {0, 2, 3}, "whose frames miss 7, the hole"
    assert all((np.diff(window.frames) == 3).all() for window in seen)
    with pytest.raises(DataError, match="has no 13 valid frames in a row"):
        draw(ClipWindows(5, 3, (0, 1), snap_keyframes=False), runs)
    for more in ({"stride": (1, 4)}, {"lead": 3}, {"holes": -1}):
        with pytest.raises(DataError, match=r"holes .* must be at least 0, and go with one stride"):
            ClipWindows(**{"clip_frames": 5, "holes": 1, **more})
