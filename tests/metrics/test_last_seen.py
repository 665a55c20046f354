"""A picture that goes on is looked at once, and the figures are those of looking each time."""

from weakref import ref

import numpy as np
import pytest
import torch

from portraitgen.faces.dlib import DlibBackend
from portraitgen.media.decode import read_video
from portraitgen.metrics.frames import CHUNK
from portraitgen.metrics.grader import GradedClip
from portraitgen.metrics.graders.fid import FidGrader
from portraitgen.metrics.graders.lpips import LpipsGrader
from portraitgen.metrics.last_seen import LastSeen
from portraitgen.metrics.networks.inception import Inception
from portraitgen.metrics.networks.lpips import Lpips, frame_lpips
from portraitgen.metrics.one_pass import add_clip, grade_clip
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.scores import COPY_REFERENCE

COUNT = 2 * CHUNK + 5


class Found:
    """What can be referred to weakly."""


@pytest.fixture(scope="module")
def copied(carphone):
    """37 frames of the talking man, and the first of them as often."""
    truth = torch.from_numpy(read_video(carphone)[:COUNT, :128, 24:152]).movedim(-1, 1).contiguous()
    backend = DlibBackend()
    shown = Pictures(truth[:1].expand(COUNT, -1, -1, -1), backend, name="copy")
    nothing = dict.fromkeys(("driving", "audio", "prompt", "reference"))
    return GradedClip(
        video="v",
        method=COPY_REFERENCE,
        pictures=shown,
        truth=Pictures(truth, backend, name="truth"),
        fps=25.0,
        **nothing,
    )


def test_lpips_looks_at_a_copied_picture_once(copied, tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "alexnet-owt-7be5be79.pth"
    torch.save({f"features.{name}": value for name, value in Lpips().features.state_dict().items()}, path)
    grader = LpipsGrader(str(path))
    looks = []
    grader.network.features.get_submodule("0").register_forward_hook(
        lambda *given: looks.append(len(given[1][0]))
    )
    found = grade_clip(grader, copied).scores["lpips"]
    assert sum(looks) == COUNT + 1
    clips = [pictures.frames.tensor for pictures in (copied.pictures, copied.truth)]
    each = [
        frame_lpips(grader.network, *pair) for pair in zip(*(clip.split(1) for clip in clips), strict=True)
    ]
    np.testing.assert_allclose(found, torch.cat(each).numpy(), rtol=0, atol=1e-6)


def test_what_all_have_that_expect_it_is_kept_no_longer(copied):
    looks = []
    seen = LastSeen()

    def ask(first):
        return seen.of(copied.truth, first, lambda: looks.append(first) or Found())

    kept = ref(ask(0))
    assert kept() is not None
    ask(0)
    for _ in range(2):
        seen.expect(copied.truth)
    for first in (16, 32):
        kept = ref(ask(first))
        assert kept() is not None
        ask(first)
        assert kept() is None
    assert looks == [0, 16, 32]


def test_fid_looks_at_a_copied_picture_once(copied, tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(Inception().state_dict(), path)
    grader = FidGrader(str(path), frames=6)
    looks = []
    grader.network.register_forward_hook(lambda *given: looks.append(len(given[1][0])))
    kept = []
    grader.sets.add = lambda *given, missing: kept.append(given[1])
    add_clip(grader, copied)
    assert sum(looks) == 6 + 1
    one = grader.network(copied.pictures.first)
    torch.testing.assert_close(torch.cat(kept), one.expand(6, -1), rtol=0, atol=1e-6)
