"""Temporal segments: the picks of Loopy's 124 frames, and that their ranges tile the past."""

import json

import numpy as np
import pytest

from portraitgen.media.segments import TemporalSegments


def test_ranges_and_picks_are_those_of_the_paper(shared):
    for case in json.loads((shared / "golden/loopy_tsm.json").read_text())["cases"]:
        segments = TemporalSegments(per_segment=case["s"], ratio=case["r"], segments=case["n_segments"])
        assert segments.length == case["total"]
        assert segments.ranges.tolist() == case["ranges"]
        assert segments.picks().tolist() == case["uniform_mid"]


def test_by_default_twenty_frames_stand_for_124():
    segments = TemporalSegments()
    assert (segments.count, segments.length) == (20, 124)
    starts, ends = segments.ranges.T
    assert starts[0] == 0
    assert starts[1:].tolist() == ends[:-1].tolist()


def test_random_picks_are_all_frames_of_their_ranges_and_no_others():
    segments = TemporalSegments(pick="random")
    rng = np.random.default_rng(0)
    drawn = np.stack([segments.picks(rng) for _ in range(400)])
    for (start, end), picks in zip(segments.ranges.tolist(), drawn.T, strict=True):
        assert set(picks.tolist()) == set(range(start, end))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0}, "ratio=0"),
        ({"segments": 0}, "segments=0"),
        ({"pick": "first"}, "pick='first'"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TemporalSegments(**settings)
