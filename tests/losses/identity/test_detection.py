"""Where faces are: from the batch, and from a detector where that is asked for; and pictures graded alone."""

import cv2
import numpy as np
import pytest
import torch

from portraitgen.faces.backend import largest_face
from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.padded_search import find_face
from portraitgen.faces.types import Face
from portraitgen.losses.identity.arcface_loss import ArcFaceLoss
from tests.losses.identity.glance import face_loss, points
from tests.losses.identity.test_face_loss import SIDE, pass_of, photos


class Stub:
    """Finds one face, or none, at the places that it is told in turn."""

    name, min_score = "stub", 0.5

    def __init__(self, places):
        self.places, self.seen = list(places), []

    def detect(self, image, *, embed=False):
        self.seen.append(image)
        place = self.places.pop(0)
        if place is None:
            return []
        box = np.array([0, 0, SIDE, SIDE], np.float32)
        return [Face(box, 1.0, np.zeros((68, 2), np.float32), place.numpy())]


def test_where_the_batch_knows_the_face_no_detector_is_called():
    estimate, batch = photos(2)
    never = Stub([])
    value = face_loss(detector=never)(pass_of(estimate, batch))
    assert value.loss.count == 2
    assert not never.seen


def test_a_detector_finds_the_true_face_where_the_batch_does_not_say():
    estimate, batch = photos(2)
    known = face_loss()(pass_of(estimate, batch))
    del batch["key_points"]
    # Of the second picture nobody is found, nor with a border around it.
    detector = Stub([points(SIDE), None, None])
    value = face_loss(align_source="detect_target", detector=detector)(pass_of(estimate, batch))
    assert value.loss.count == 1
    alone = face_loss()(
        pass_of(
            estimate[:1],
            photos(2)[1]
            | {"image": batch["image"][:1]}
            | {"people": torch.ones(1, 1, dtype=torch.bool), "key_points": points(SIDE).expand(1, 1, 5, 2)},
        )
    )
    assert value.loss.total.item() == pytest.approx(alone.loss.total.item(), rel=1e-5)
    assert known.loss.count == 2
    assert [image.dtype for image in detector.seen] == [np.uint8] * 3
    value.loss.total.backward()
    assert estimate.grad.flatten(1).any(1).tolist() == [True, False]


def test_the_detector_looks_at_what_was_drawn_if_asked_and_a_face_not_found_does_not_count():
    """As seed 003: at high noise that mostly fails. Pixels are clamped for the detector alone."""
    estimate, batch = photos(2)
    bright = (estimate.detach() * 3).requires_grad_()
    detector = Stub([points(SIDE), None, None])
    value = face_loss(align_source="detect", detector=detector)(pass_of(bright, batch))
    assert value.loss.count == 1
    expected = face_loss()(pass_of(bright[:1], {k: v[:1] for k, v in batch.items()}))
    assert value.loss.total.item() == pytest.approx(expected.loss.total.item(), rel=1e-5)
    value.loss.total.backward()
    assert bright.grad.flatten(1).any(1).tolist() == [True, False]
    assert bright.grad.isfinite().all()


def test_an_error_of_the_detector_is_an_error():
    """Seed 003 printed it and dropped the loss."""

    class Broken(Stub):
        def detect(self, image, *, embed=False):
            raise RuntimeError("no memory left")

    estimate, batch = photos(1)
    with pytest.raises(RuntimeError, match="no memory left"):
        face_loss(align_source="detect", detector=Broken([]))(pass_of(estimate, batch))


@pytest.fixture(scope="module")
def people(shared):
    folder = shared / "testdata/photos/ids"
    names = {"one": "obama/1", "again": "obama/2", "other": "biden/1"}
    return {name: cv2.imread(str(folder / f"{path}.jpg"))[:, :, ::-1].copy() for name, path in names.items()}


def test_a_face_that_fills_the_picture_is_found_with_a_border_around_it(people):
    """A quarter of each side is added: what is found is moved back by it."""
    inside = Stub([None, points(SIDE)])
    found = find_face(np.zeros((40, 60, 3), np.uint8), inside)
    assert [image.shape for image in inside.seen] == [(40, 60, 3), (60, 90, 3)]
    assert (inside.seen[1][:10] == 128).all()
    np.testing.assert_allclose(found.keypoints, points(SIDE).numpy() - [15, 10])
    np.testing.assert_allclose(found.box, np.array([-15, -10, SIDE - 15, SIDE - 10]))
    assert find_face(np.zeros((40, 60, 3), np.uint8), Stub([None, None])) is None
    backend = DlibBackend()
    sure = [face for face in backend.detect(people["one"]) if face.score >= backend.min_score]
    assert np.array_equal(find_face(people["one"], backend).keypoints, largest_face(sure).keypoints)


def test_pictures_are_graded_from_arrays_tensors_and_pil_alike(people, shared):
    from PIL import Image

    from portraitgen.faces.recognition.recognizer import load_recognition

    loss = ArcFaceLoss(load_recognition("dlib"), DlibBackend())
    same, other = loss(people["one"], people["again"]), loss(people["one"], people["other"])
    assert 0 <= same < other <= 2
    assert loss(people["one"], people["one"]) == pytest.approx(0, abs=1e-6)
    tensor = torch.from_numpy(people["one"]).movedim(-1, 0) / 127.5 - 1
    for picture in (tensor.requires_grad_(), Image.fromarray(people["one"])):
        assert loss(picture, people["again"]) == pytest.approx(same, abs=1e-5)
    assert loss(people["one"], np.zeros((80, 80, 3), np.uint8)) is None
    for wrong in (torch.zeros(80, 80, 3), np.zeros((80, 80), np.uint8), np.zeros((80, 80, 3))):
        with pytest.raises(ValueError, match="a picture is"):
            loss(people["one"], wrong)
