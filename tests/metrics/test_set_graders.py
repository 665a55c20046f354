"""FID, KID, FVD and E-FID through the graders: what goes in, what is missing, what order does not change."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.io import savemat

from portraitgen.faces.dlib import DlibBackend
from portraitgen.metrics.expression_files import read_expression
from portraitgen.metrics.frechet import FrechetDistance
from portraitgen.metrics.grader import GradedClip, MissingWeights, SetGrader
from portraitgen.metrics.graders.efid import EfidGrader
from portraitgen.metrics.graders.fid import FidGrader
from portraitgen.metrics.graders.fvd import FvdGrader
from portraitgen.metrics.networks.i3d import I3D
from portraitgen.metrics.networks.inception import Inception
from portraitgen.metrics.one_pass import add_clip
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.scores import COPY_REFERENCE, GENERATED, TRUTH

BACKEND = DlibBackend()


class Small(torch.nn.Module):
    """In the place of Inception, which takes half a second a picture and ten for a distance: 32 features."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 32, 5, stride=3)

    def forward(self, frames):
        return self.conv(frames / 127.5 - 1).relu().mean(dim=(2, 3))


def fid_grader(weights, monkeypatch, **settings):
    monkeypatch.setattr("portraitgen.metrics.graders.fid.NUM_FEATURES", 32)
    grader = FidGrader(weights, frames=None, **settings)
    grader.network = Small()
    return grader


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "pt_inception-2015-12-05.pth"
    torch.save(Inception().state_dict(), path)
    return str(path)


def videos(count, *, frames=6, seed=0):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, 256, (count, frames, 3, 24, 20), dtype=np.uint8))


def clip(shown, truth, *, method=GENERATED, video="v"):
    true = Pictures(truth, BACKEND, name="truth")
    return GradedClip(
        video=video,
        method=method,
        pictures=true if method == TRUTH else Pictures(shown, BACKEND, name="shown"),
        truth=true,
        reference=None,
        driving=None,
        fps=25.0,
        audio=None,
        prompt=None,
    )


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_fid_of_methods_is_that_of_all_their_frames_in_any_order(inception, monkeypatch):
    truth, shown = videos(2), videos(2, seed=1) // 2
    forward, backward = (fid_grader(inception, monkeypatch, kid_subset=5) for _ in range(2))
    assert isinstance(forward, SetGrader)
    for grader, order in ((forward, (0, 1)), (backward, (1, 0))):
        for place in order:
            add_clip(grader, clip(shown[place], truth[place]))
            add_clip(grader, clip(truth[place], truth[place], method=COPY_REFERENCE))
            add_clip(grader, clip(truth[place], truth[place], method=TRUTH))
    figures = forward.compute(GENERATED)
    metric = FrechetDistance(forward.network, num_features=32)
    metric.update(truth.flatten(0, 1), real=True)
    metric.update(shown.flatten(0, 1), real=False)
    assert figures["fid"].value == pytest.approx(float(metric.compute()), rel=1e-5)
    assert (figures["fid"].num_samples, figures["fid"].num_missing) == (12, 0)
    assert forward.compute(COPY_REFERENCE)["fid"].value < 1e-3 * figures["fid"].value
    assert forward.compute(TRUTH) == {}
    for name, figure in backward.compute(GENERATED).items():
        assert figure.value == pytest.approx(figures[name].value, rel=1e-6)
    empty = fid_grader(inception, monkeypatch).compute(GENERATED)
    assert np.isnan(empty["fid"].value)
    assert "at least 2 samples in each set" in empty["fid"].reason
    assert "subset_size=100 is more than the 0 real" in empty["kid"].reason


def test_what_has_no_truth_is_held_against_the_photos_it_was_made_from(inception, monkeypatch):
    """Generated from a face and words: the set of all photos, those of several people too."""
    shown, photos = videos(3, seed=1) // 2, videos(4, frames=1)
    grader = fid_grader(inception, monkeypatch, kid_subset=4, against="reference")
    alone = replace(clip(shown[0], shown[0]), truth=None)
    add_clip(grader, alone)  # without a photo it is of no use here
    pictures = [Pictures(photo, BACKEND, name="photo") for photo in photos]
    for number in range(2):
        add_clip(grader, replace(clip(shown[number], shown[0]), truth=None, reference=pictures[number]))
    add_clip(grader, replace(clip(shown[2], shown[0]), truth=None, people=tuple(pictures[2:])))
    metric = FrechetDistance(grader.network, num_features=32)
    metric.update(photos.flatten(0, 1), real=True)
    metric.update(shown.flatten(0, 1), real=False)
    figure = grader.compute(GENERATED)["fid_reference"]
    assert figure.value == pytest.approx(float(metric.compute()), rel=1e-5)
    assert figure.num_samples == 18
    with pytest.raises(ValueError, match="against must be 'truth' or 'reference'"):
        FidGrader(inception, against="photo")


def test_a_picture_is_one_sample_and_a_short_clip_has_each_frame_once(inception, monkeypatch):
    """Repeated to 16 frames, 7 pictures were 112 samples, and KID of 100 refused nothing."""
    grader = fid_grader(inception, monkeypatch, kid_subset=100)
    grader.num_frames = 16
    for picture in videos(7, frames=1):
        add_clip(grader, clip(picture, picture))
    add_clip(grader, clip(*videos(2, frames=6)))
    figures = grader.compute(GENERATED)
    assert {figure.num_samples for figure in figures.values()} == {13}
    assert figures["fid"].bias > 0
    assert np.isnan(figures["kid"].value)
    assert "subset_size=100 is more than the 13 real or 13 generated samples" in figures["kid"].reason


def test_faces_are_cut_out_and_missing_ones_counted(inception, carphone, monkeypatch):
    from portraitgen.media.decode import read_video

    frames = torch.from_numpy(read_video(carphone)[:30:10]).movedim(-1, 1)
    blank = torch.cat([frames[:2], torch.zeros_like(frames[:1])])
    grader = fid_grader(inception, monkeypatch, crop="face")
    add_clip(grader, clip(blank, frames))
    figure = grader.compute(GENERATED)["fid_face"]
    assert (figure.num_samples, figure.num_missing) == (2, 1)
    assert figure.value >= 0
    assert grader.facts["crop"] == "face"


def test_fvd_takes_windows_of_16_and_counts_short_clips(tmp_path):
    torch.save(I3D().state_dict(), tmp_path / "i3d_pretrained_400.pt")
    grader = FvdGrader(str(tmp_path / "i3d_pretrained_400.pt"), windows=2, min_windows=2)
    seen = []

    class Mean(torch.nn.Module):
        """In the place of I3D, which takes seconds: means of the windows' pixels."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, windows):
            seen.append(list(windows.shape))
            return windows.float().flatten(2).mean(dim=2)[:, :1] * torch.arange(400)

    grader.network = Mean()
    long, short = videos(2, frames=50), videos(2, frames=12)
    add_clip(grader, clip(long[0], long[1]))
    add_clip(grader, clip(short[0], short[1], video="short"))
    assert seen == [[1, 16, 3, 24, 20]] * 4, "two windows of each, the third is not asked for"
    figure = grader.compute(GENERATED)["fvd"]
    assert (figure.num_samples, figure.num_missing) == (2, 1)
    assert figure.value > 0
    assert figure.bias > 0
    grader.min_windows = 3
    refused = grader.compute(GENERATED)["fvd"]
    assert np.isnan(refused.value)
    assert re.match(r"2 windows, fewer than 3: two samples of one distribution .* apart", refused.reason)
    with pytest.raises(MissingWeights, match=r"fetch i3d_pretrained_400.pt from songweige/TATS"):
        FvdGrader()


class Detector(torch.nn.Module):
    """Called as StyleGAN-V's TorchScript is; the answer says how."""

    def forward(
        self, clips: torch.Tensor, rescale: bool, resize: bool, return_features: bool
    ) -> torch.Tensor:
        assert return_features
        assert not rescale
        assert not resize
        return clips.mean(dim=(2, 3, 4)).repeat(1, 134)[:, :400]


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_i3d_gets_clips_in_its_range(tmp_path):
    torch.jit.script(Detector()).save(tmp_path / "i3d_torchscript.pt")
    grader = FvdGrader(str(tmp_path / "i3d_torchscript.pt"), program=True)
    black, white = torch.zeros(1, 16, 3, 24, 20, dtype=torch.uint8), torch.full((1, 16, 3, 8, 8), 255)
    torch.testing.assert_close(grader.network(black), torch.full((1, 400), -1.0))
    torch.testing.assert_close(grader.network(white.to(torch.uint8)), torch.full((1, 400), 1.0))
    with pytest.raises(ValueError, match="cannot be read as a file of tensors"):
        FvdGrader(str(tmp_path / "i3d_torchscript.pt"))
    (tmp_path / "page.pt").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"page.pt is no TorchScript"):
        FvdGrader(str(tmp_path / "page.pt"), program=True)


def test_efid_is_that_of_the_coefficients_in_files(tmp_path):
    random = np.random.default_rng(0)
    coefficients = random.normal(size=(4, 30, 257)).astype(np.float32)
    for name in ("generated", "real"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "generated/a.npy", coefficients[0])
    savemat(tmp_path / "generated/b.mat", {"exp": coefficients[1][:, 80:144]})
    np.save(tmp_path / "real/a.npy", coefficients[2])
    savemat(tmp_path / "real/b.mat", {"coeff": coefficients[3]})
    grader = EfidGrader(str(tmp_path / "generated"), str(tmp_path / "real"))
    truth = videos(1)[0]
    for video in ("a", "b", "c", "../generated/a"):
        add_clip(grader, clip(truth, truth, video=video))
    figure = grader.compute(GENERATED)["efid_deep3d"]
    metric = FrechetDistance(torch.nn.Identity(), num_features=64)
    for index, values in enumerate(coefficients):
        metric.update(torch.from_numpy(values[:, 80:144]), real=index >= 2)
    assert figure.value == pytest.approx(float(metric.compute()))
    assert (figure.num_samples, figure.num_missing) == (60, 2)
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read as coefficients"):
        read_expression(tmp_path / "pickle.npy")
    savemat(tmp_path / "other.mat", {"pose": coefficients[0]})
    with pytest.raises(ValueError, match="neither coeff nor coeff_3dmm nor exp"):
        read_expression(tmp_path / "other.mat")
    with pytest.raises(MissingWeights, match=r"real is not set; fetch a folder of <video>.npy"):
        EfidGrader(str(tmp_path / "generated"))
