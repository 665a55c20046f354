"""ConsisID's face features: the official numbers in compatibility mode, and one face by default."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.identity_condition import (
    ConditionModels,
    identity_condition,
    shrink_long_side,
)
from portraitgen.faces.templates import FACEXLIB
from portraitgen.faces.types import Face


class Watched:
    """The stand-ins of the golden file, which keep what they were shown."""

    def __init__(self, boxes=(), *, central=True):
        self.seen, self.boxes, self.central = {}, boxes, central

    def models(self):
        return ConditionModels(self.find, self.parse, self.look, 336, self.align, self.embed)

    def find(self, image):
        faces = []
        for number, box in enumerate(self.boxes):
            points = np.full((5, 2), number, np.float32)
            embedding = np.full(512, number + 1, np.float32)
            faces.append(Face(np.array(box, np.float32), 1.0, points, points, embedding))
        return faces

    def align(self, image):
        points = np.arange(1, 11, dtype=np.float32).reshape(5, 2)
        aligned = cv2.resize(image, (512, 512), interpolation=cv2.INTER_NEAREST)
        return (aligned, points) if self.central else None

    def embed(self, aligned):
        self.seen["get_feat"] = list(aligned.shape)
        return np.full(512, 0.25, np.float32)

    def parse(self, picture):
        self.seen["parse_in"] = picture
        rows, columns = torch.meshgrid(torch.arange(512), torch.arange(512), indexing="ij")
        labels = (rows // 32 + columns // 32) % 19
        return torch.nn.functional.one_hot(labels, 19).permute(2, 0, 1)[None].float()

    def look(self, picture):
        self.seen["clip_in"] = picture
        projection = torch.cos(0.1 * torch.arange(768.0))[None] * 3 * picture.std()
        return projection, [torch.full((1, 577, 1024), float(number)) for number in range(5)]


def picture(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([3 * x % 256, 5 * y % 256, (x + y) % 256], axis=-1).astype(np.uint8)


def test_compat_gives_the_official_features(shared):
    cases = json.loads((shared / "golden" / "consisid_process_face_embeddings.json").read_text())["cases"]
    cases = [case for case in cases if "id_cond" in case]
    assert len(cases) == 18
    for case in cases:
        watched = Watched(case["insightface_boxes"])
        found = identity_condition(
            picture(*case["image_hw"]), watched.models(), align=case["is_align_face"], compat=True
        )
        for tensor, wanted in ((found.identity, case["id_cond"]), (found.picture, case["face_image"])):
            assert list(tensor.shape) == wanted["shape"]
            assert tensor.mean().item() == pytest.approx(wanted["mean"], abs=1e-6)
            assert tensor.std().item() == pytest.approx(wanted["std"], abs=1e-6)
            assert tensor.flatten()[:8].tolist() == pytest.approx(wanted["first8"], abs=1e-6)
        assert found.identity[0, 512:].norm().item() == pytest.approx(case["id_cond_clip_norm"], abs=1e-6)
        assert [list(layer.shape) for layer in found.layers] == [case["hidden_shape"]] * case["n_hidden"]
        assert found.keypoints.tolist() == case["kps"]
        seen = watched.seen
        assert list(seen["clip_in"].shape) == case["seen"]["clip_in"]["shape"]
        assert seen["clip_in"].mean().item() == pytest.approx(case["seen"]["clip_in"]["mean"], abs=1e-6)
        assert seen["clip_in"].mean(dim=(0, 2, 3)).tolist() == pytest.approx(
            case["seen"]["clip_in"]["ch"], abs=1e-6
        )
        assert ("parse_in" in seen) == ("parse_in" in case["seen"])
        if "parse_in" in seen:
            assert seen["parse_in"].mean().item() == pytest.approx(case["seen"]["parse_in"]["mean"], abs=1e-6)
        assert seen.get("get_feat") == case["seen"].get("get_feat")


def test_compat_without_a_central_face_is_an_error(shared):
    cases = json.loads((shared / "golden" / "consisid_process_face_embeddings.json").read_text())["cases"]
    assert any(case.get("message") == "facexlib align face fail" for case in cases)
    with pytest.raises(ValueError, match="no face could be aligned"):
        identity_condition(picture(480, 480), Watched([[0, 0, 9, 9]], central=False).models(), compat=True)


def test_long_pictures_are_shrunk_as_officially(shared):
    cases = json.loads((shared / "golden" / "consisid_process_face_embeddings.json").read_text())["cases"]
    sizes = [case for case in cases if "resize_numpy_image_long" in case]
    assert len(sizes) == 3
    for case in sizes:
        image = np.zeros((*case["resize_numpy_image_long"], 3), np.uint8)
        assert list(shrink_long_side(image).shape[:2]) == case["out"]


def test_identity_and_looks_are_of_one_face(shared):
    """In a real group: ConsisID takes who it is from the largest face and its looks from the central one."""
    path = shared / "testdata" / "photos" / "multi" / "obama_biden_2.jpg"
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    backend = DlibBackend(min_score=0.15)
    people = sorted(backend.detect(image, embed=True), key=lambda face: -np.prod(face.box[2:] - face.box[:2]))
    # Let the other of the two large faces be the largest by a hair: the one farther from the middle.
    middle = image.shape[1] / 2
    people = sorted(people[:2], key=lambda face: abs(face.keypoints[:, 0].mean() - middle))
    central, largest = people
    grown = replace(largest, box=largest.box + np.array([-30, -30, 30, 30], np.float32))
    all_of_it_face = torch.nn.functional.one_hot(torch.ones(512, 512, dtype=torch.long), 19)
    models = replace(
        Watched().models(),
        find=lambda image: [central, grown],
        parse=lambda picture: all_of_it_face.permute(2, 0, 1)[None].float(),
    )

    found = identity_condition(image, models)

    looked_at = np.ascontiguousarray((255 * found.picture[0]).round().byte().permute(1, 2, 0).numpy())
    face = max(backend.detect(looked_at, embed=True), key=lambda face: face.score)
    embedding = found.identity[0, :128].numpy()
    assert face.embedding @ embedding > backend.identity_threshold
    assert face.embedding @ central.embedding < backend.identity_threshold
    # Key points are of the picture that goes along, where ConsisID draws them, and not of the one given.
    assert np.abs(found.keypoints - FACEXLIB.keypoints).max() < 40
    assert np.abs(found.keypoints - face.keypoints).max() < 12


def test_without_alignment_the_picture_is_looked_at_as_it_is(shared):
    image = picture(300, 500)
    found = identity_condition(image, Watched([[0, 0, 10, 10], [5, 5, 40, 60]]).models(), align=False)
    assert found.picture.shape == (1, 3, 300, 500)
    assert found.identity[0, 0] == 2
    assert found.keypoints.tolist() == [[1, 1]] * 5
    with pytest.raises(ValueError, match="no face found in this picture"):
        identity_condition(image, Watched().models())
