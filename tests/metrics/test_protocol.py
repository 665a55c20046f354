"""What must agree between two results, and what may differ."""

import numpy as np
import pytest
import torch

from portraitgen.metrics.graders.pixels import METRICS
from portraitgen.metrics.protocol import Protocol, VideoFacts, differences, digest_given, fingerprint
from portraitgen.metrics.results import aggregate
from portraitgen.metrics.saved import protocol_json
from portraitgen.metrics.scores import Row

FACTS = VideoFacts("a", 2, 25.0, 64, 64, "0123")


def stated(metrics=METRICS, **changes) -> dict:
    settings = {
        "videos": (FACTS,),
        "frame_sampler": "all frames",
        "resize": "none",
        "crop": "none",
        "face_backend": "dlib",
        "min_face_score": 0.15,
        "graders": {"psnr": {"weights_sha256": "abc"}},
    }
    rows = [Row("a", "generated", np.arange(2), {"psnr": np.ones(2)})]
    return protocol_json(aggregate(rows, metrics=metrics, protocol=Protocol(**{**settings, **changes})))


def test_who_generated_with_which_versions_may_differ():
    other = stated(settings={"step": 3}, commit="1234", versions={"torch": "9"}, command="python x")
    assert differences(stated(), other) == []
    assert fingerprint(stated()) == fingerprint(other)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"resize": "all to 64"}, "resize: none | all to 64"),
        ({"min_face_score": 0.5}, "min_face_score: 0.15 | 0.5"),
        ({"graders": {"psnr": {"weights_sha256": "def"}}}, "graders.psnr.weights_sha256: abc | def"),
        ({"videos": (VideoFacts("a", 2, 25.0, 64, 64, "4567"),)}, "videos.a.digest: 0123 | 4567"),
        ({"metrics": {"psnr": METRICS["ssim"]}}, "metrics.psnr.label: PSNR | SSIM"),
    ],
)
def test_what_changes_a_figure_is_named(changes, line):
    other = stated(**changes)
    assert line in differences(stated(), other)
    assert fingerprint(stated()) != fingerprint(other)


def test_other_videos_differ():
    other = stated(videos=(FACTS, VideoFacts("b", 2, 25.0, 64, 64, "89")))
    assert "videos.b.digest: (absent) | 89" in differences(stated(), other)


def test_what_only_one_knows_of_a_video_is_no_difference():
    """A clip that cannot be read and has no truth says nothing of itself; a video that is not there does."""
    unknown = stated(videos=(VideoFacts("a", None, None, None, None, None),))
    assert differences(stated(), unknown) == differences(unknown, stated()) == []
    assert differences(unknown, stated(videos=())) == [
        f"videos.a.{name}: None | (absent)" for name in ("num_frames", "fps", "width", "height", "digest")
    ]


def test_a_figure_that_only_one_has_is_not_compared():
    alone = {name: METRICS[name] for name in ("psnr",)}
    graders = {"psnr": {"weights_sha256": "abc"}, "ssim": {"weights_sha256": "def"}}
    one, other = stated(graders=graders), stated(metrics=alone)
    assert differences(one, other) == differences(other, one) == []


def test_the_digest_knows_all_that_a_clip_is_graded_against():
    frames = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    places, sound = np.arange(2), np.zeros(8, np.float32)
    digests = {
        digest_given(places, truth=frames),
        digest_given(np.arange(1, 3), truth=frames),
        digest_given(places, truth=frames + 1),
        digest_given(places, reference=frames),
        digest_given(places, truth=frames, reference=frames[0]),
        digest_given(places, truth=frames, reference=frames[1]),
        digest_given(places, truth=frames, driving=np.zeros((2, 68, 2))),
        digest_given(places, truth=frames, driving=np.ones((2, 68, 2))),
        digest_given(places, truth=frames, audio=sound),
        digest_given(places, truth=frames, audio=sound[:4]),
        digest_given(places, truth=frames, prompt="a man"),
        digest_given(places, truth=frames, prompt="a woman"),
        digest_given(places),
    }
    assert len(digests) == 13
    strided = frames.transpose(2, 3).contiguous().transpose(2, 3)
    assert digest_given(places, truth=strided) == digest_given(places, truth=frames)
