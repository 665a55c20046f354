"""What of a face is shown: BiSeNet against facexlib's module (weights by their names), and hulls of
landmarks.
"""

import json

import cv2
import numpy as np
import pytest
import torch

from portraitgen.faces.parsing.bisenet import load_bisenet
from portraitgen.faces.parsing.parser import LandmarkParser, NetworkParser, background_of, load_parser


@pytest.fixture(scope="module")
def golden(repository):
    return json.loads((repository / "tests/golden/faces/bisenet.json").read_text())


@pytest.mark.golden
def test_bisenet_is_facexlibs(golden, key_seeded, tmp_path):
    """All tensors of the published file, those of the heads that only training has left aside."""
    torch.save(
        key_seeded({name: tuple(shape) for name, shape in golden["shapes"].items()}), tmp_path / "b.pth"
    )
    network = load_bisenet(tmp_path / "b.pth")
    pictures = torch.from_numpy(np.random.RandomState(2).standard_normal((2, 3, 64, 96))).float()
    with torch.no_grad():
        scores = network(pictures)
    assert scores.shape == (2, 19, 64, 96)
    torch.testing.assert_close(scores[1, :, 40, 50], torch.tensor(golden["scores_row"]), rtol=1e-4, atol=1e-6)
    for found, wanted in ((scores.mean(dim=(0, 2, 3)), "mean"), (scores.std(dim=(0, 2, 3)), "std")):
        torch.testing.assert_close(found, torch.tensor(golden[f"scores_{wanted}"]), rtol=1e-4, atol=1e-6)
    assert scores.argmax(dim=1)[0, ::8, ::8].tolist() == golden["labels"]
    assert isinstance(load_parser(tmp_path / "b.pth"), NetworkParser)


def test_other_weights_say_what_to_fetch(golden, key_seeded, tmp_path):
    shapes = {name: tuple(shape) for name, shape in golden["shapes"].items() if name != "ffm.conv1.weight"}
    torch.save(key_seeded(shapes), tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"differ at ffm.conv1.weight; fetch parsing_bisenet.pth"):
        load_parser(tmp_path / "b.pth")


def test_what_is_neither_face_nor_hair_is_background():
    """Skin, brows, eyes, glasses, nose, mouth, lips and hair stay: 11 of the 19 classes."""
    scores = torch.eye(19).T[None, :, :, None]
    kept = (~background_of(scores)[0, 0, :, 0]).nonzero().flatten().tolist()
    assert kept == [1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 17]


def test_without_weights_the_landmarks_outline_the_face(shared):
    from portraitgen.faces.dlib import DlibBackend

    photo = cv2.cvtColor(cv2.imread(str(shared / "testdata/photos/single/ffhq_0100.jpg")), cv2.COLOR_BGR2RGB)
    (face, *_) = DlibBackend().detect(photo)
    parser = load_parser()
    assert isinstance(parser, LandmarkParser)
    picture = torch.from_numpy(photo).movedim(-1, 0)[None] / 255
    outside = parser(picture, [face.landmarks], face.keypoints[None], "ibug68")
    assert outside.shape == (1, 1, *photo.shape[:2])
    x, y = face.keypoints.round().astype(int).T
    assert not outside[0, 0, y, x].any(), "eyes, nose and mouth are face"
    assert outside[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]].all(), "the corners are not"
    with pytest.raises(ValueError, match="no landmarks to outline it"):
        parser(picture, [np.zeros((0, 2))], face.keypoints[None], "none")
