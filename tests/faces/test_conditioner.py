"""What a generator is told of a face: of one person, in one batch as one by one, and where its key points
lie.
"""

import cv2
import numpy as np
import pytest
import torch

from portraitgen.faces.backend import largest_face
from portraitgen.faces.conditioner import FaceView, untrained_conditioner
from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.recognition.pack import PackRecognizer
from portraitgen.faces.recognition.recognizer import load_recognition
from portraitgen.faces.templates import FACEXLIB


@pytest.fixture(scope="module")
def backend():
    return DlibBackend()


def read(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def view_of(photo, face):
    return FaceView(photo, face.keypoints, face.landmarks, "ibug68")


@pytest.fixture(scope="module")
def views(shared, backend):
    found = []
    for name in ("single/ffhq_0100.jpg", "multi/obama_biden_2.jpg"):
        photo = read(shared / "testdata/photos" / name)
        found.append(view_of(photo, largest_face(backend.detect(photo))))
    return found


def test_what_a_batch_holds(views):
    conditioner = untrained_conditioner()
    found = conditioner(views)
    batch = found.batch()
    assert found.embedding.shape == (2, conditioner.embedding_dim) == (2, 256 + 24)
    assert found.hidden.shape == (2, 5, 17, 32)
    assert (found.picture.dtype, list(found.picture.shape)) == (torch.uint8, [2, 512, 512, 3])
    assert batch["face_picture"].shape == (2, 3, 512, 512)
    assert batch["face_picture"].amax() == 1
    torch.testing.assert_close(found.embedding[:, 256:].norm(dim=-1), torch.ones(2))
    assert not torch.allclose(found.embedding[:, :256].norm(dim=-1), torch.ones(2)), "as the network gives it"
    assert conditioner.facts()["masks"] == "landmarks"
    assert not conditioner.train().training


def test_a_face_does_not_depend_on_the_batch(views):
    conditioner = untrained_conditioner()
    together = conditioner(views)
    for number, view in enumerate(views):
        alone = conditioner([view])
        assert torch.equal(alone.picture[0], together.picture[number])
        torch.testing.assert_close(alone.embedding[0], together.embedding[number])
        torch.testing.assert_close(alone.hidden[0], together.hidden[number], rtol=1e-4, atol=1e-5)


def test_the_face_is_upright_on_white_and_its_key_points_are_of_that_picture(views, backend):
    found = untrained_conditioner()(views)
    for picture, points in zip(found.picture.numpy(), found.key_points.numpy(), strict=True):
        assert (picture[0] == 255).all()
        assert (picture[-1] == 255).all()
        # The template is a mean face's; where this face's parts are shows how far it is from that.
        assert np.abs(points - FACEXLIB.keypoints).max() < 40
        again = largest_face(backend.detect(picture))
        assert np.abs(again.keypoints - points).max() < 15


def test_embedding_and_looks_are_of_the_one_face(shared, backend):
    """In a group ConsisID takes them from two people: of whom they are here, the real network says."""
    photo = read(shared / "testdata/photos/multi/obama_biden_2.jpg")
    people = sorted(
        backend.detect(photo, embed=True), key=lambda face: -np.prod(face.box[2:] - face.box[:2])
    )[:2]
    conditioner = untrained_conditioner()
    conditioner.recognizer = load_recognition("dlib")
    found = conditioner([view_of(photo, face) for face in people])
    assert people[0].embedding @ people[1].embedding < backend.identity_threshold
    for number, face in enumerate(people):
        own = torch.nn.functional.normalize(found.embedding[number, :128], dim=0).numpy()
        assert own @ face.embedding > 0.9
        shown = largest_face(backend.detect(found.picture[number].numpy(), embed=True))
        assert shown.embedding @ face.embedding > backend.identity_threshold


def test_of_photos_it_takes_the_largest_face(shared, backend, views):
    conditioner = untrained_conditioner()
    photos = [view.picture for view in views]
    assert torch.equal(conditioner.of_photos(photos, backend).embedding, conditioner(views).embedding)
    nobody = read(shared / "testdata/photos/negative/llama.jpg")
    with pytest.raises(ValueError, match="no face found in photo 2 of 2"):
        conditioner.of_photos([photos[0], nobody], backend)


def test_the_recogniser_of_a_pack_gives_its_embeddings_as_they_are(shared, views):
    recognizer = PackRecognizer(str(shared / "testdata/models/stub_buffalo/models/buffalo_l"))
    conditioner = untrained_conditioner()
    conditioner.recognizer = recognizer
    found = conditioner(views).embedding[:, : recognizer.embedding_dim].numpy()
    for number, view in enumerate(views):
        unit = recognizer.backend._embedding(view.picture[..., ::-1].copy(), view.key_points)
        norm = np.linalg.norm(found[number])
        assert norm != pytest.approx(1, abs=1e-3)
        np.testing.assert_allclose(found[number] / norm, unit, atol=1e-5)
    assert len(conditioner.facts()["recognizer_file"]) == 64
