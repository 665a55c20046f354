"""What must agree between two results, and what may differ."""

import numpy as np
import pytest
import torch

from portraitgen.metrics.graders.pixels import METRICS
from portraitgen.metrics.protocol import Protocol, VideoFacts, differences, digest_frames, fingerprint
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
        "graders": {"fvd": {"weights_sha256": "abc"}},
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
        ({"graders": {"fvd": {"weights_sha256": "def"}}}, "graders.fvd.weights_sha256: abc | def"),
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


def test_a_figure_that_only_one_has_is_not_compared():
    other = stated(metrics={"psnr": METRICS["psnr"]}, graders={})
    assert differences(stated(), other) == differences(other, stated()) == []


def test_the_digest_knows_frames_and_places():
    frames = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    digests = {
        digest_frames(np.arange(2), frames),
        digest_frames(np.arange(1, 3), frames),
        digest_frames(np.arange(2), frames + 1),
        digest_frames(np.arange(2), None),
    }
    assert len(digests) == 4
    strided = frames.transpose(2, 3).contiguous().transpose(2, 3)
    assert digest_frames(np.arange(2), strided) == digest_frames(np.arange(2), frames)
