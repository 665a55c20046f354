"""LPIPS against torchmetrics' arithmetic, with the real layer weights and a random AlexNet."""

import pytest
import torch

from portraitgen.faces.dlib import DlibBackend
from portraitgen.metrics.grader import ClipGrader, GradedClip, MissingWeights
from portraitgen.metrics.graders.lpips import LpipsGrader
from portraitgen.metrics.networks.lpips import Lpips, frame_lpips, load_lpips
from portraitgen.metrics.one_pass import grade_clip
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.scores import GENERATED, TRUTH


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    features = {f"features.{name}": value for name, value in Lpips().features.state_dict().items()}
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save({**features, "classifier.1.weight": torch.zeros(2, 2)}, path)
    return str(path)


@pytest.fixture(scope="module")
def frames():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (2, 20, 3, 40, 48), dtype=torch.uint8, generator=generator)


def test_distances_are_those_of_torchmetrics(weights, frames, monkeypatch):
    from torchmetrics.functional.image import lpips as theirs

    ours = load_lpips(weights)
    features = torch.nn.Sequential(*ours.features, torch.nn.MaxPool2d(3, stride=2))
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda net, pretrained: features)
    reference = theirs._LPIPS(net="alex")
    a, b = frames / 127.5 - 1
    with torch.no_grad():
        expected = reference(a, b).flatten()
    found = frame_lpips(ours, *frames)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert found.min() > 0
    assert not frame_lpips(ours, frames[0], frames[0]).any()
    torch.testing.assert_close(
        frame_lpips(ours, frames[0, 3:5], frames[1, 3:5]), found[3:5], rtol=1e-4, atol=1e-7
    )


def test_every_frame_is_graded_against_the_truth(weights, frames, tmp_path):
    grader = LpipsGrader(weights)
    assert isinstance(grader, ClipGrader)

    def grade(shown, truth, method=GENERATED):
        backend = DlibBackend()
        nothing = dict.fromkeys(("reference", "driving", "audio", "prompt"))
        true = None if truth is None else Pictures(truth, backend, name="truth")
        pictures = Pictures(shown, backend, name="shown")
        return grade_clip(
            grader, GradedClip(video="v", method=method, pictures=pictures, truth=true, fps=25.0, **nothing)
        )

    noisy = (frames[0].float() + torch.linspace(0, 40, 20)[:, None, None, None]).clamp(0, 255).to(torch.uint8)
    scores = grade(noisy, frames[0]).scores["lpips"]
    assert scores[0] == 0 < scores[5] < scores[-1]
    assert grade(frames[0], frames[0], TRUTH).scores == {}
    assert grade(frames[0], None).reasons == {"lpips": "no true frames are given"}
    assert "32 pixels" in grade(frames[0, ..., :20], frames[0, ..., :20]).reasons["lpips"]
    with pytest.raises(MissingWeights, match=r"fetch alexnet-owt-7be5be79.pth from https://.*BSD-3-Clause"):
        LpipsGrader()
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not fit Lpips"):
        LpipsGrader(str(tmp_path / "other.pth"))
