"""Recognition networks against the official ones (weights by rule) and against real weights."""

import json
from pathlib import Path

import cv2
import dlib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from portraitgen.faces.backend import largest_face
from portraitgen.faces.dlib import EMBEDDING_FILE, DlibBackend, model_file
from portraitgen.faces.recognition.alignment import align_faces
from portraitgen.faces.recognition.dlib_resnet import DlibResNet
from portraitgen.faces.recognition.iresnet import IResNet, arcface_depth, from_tface
from portraitgen.faces.recognition.recognizer import FaceRecognizer, load_recognition
from portraitgen.faces.templates import ARCFACE


@pytest.fixture(scope="module")
def golden(shared):
    return load_file(shared / "golden/faceloss_iresnet.safetensors")


@pytest.fixture(scope="module")
def published(shared):
    """Network → name → shape, of the files that others publish."""
    text = (shared / "golden/faceloss_state_dict_keys.json").read_text()
    return {network: dict(shapes) for network, shapes in json.loads(text).items()}


@pytest.mark.golden
@pytest.mark.parametrize("depth", [18, 34, 50, 100])
def test_names_are_those_of_arcface_torch(published, depth):
    with torch.device("meta"):
        network = IResNet(depth)
    ours = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert ours == published[f"iresnet_r{depth}"]
    assert arcface_depth(network.state_dict()) == depth


@pytest.mark.golden
def test_names_of_tface_are_ours_after_renaming(published):
    with torch.device("meta"):
        network = IResNet(100, tface=True)
    renamed = {from_tface(name): shape for name, shape in published["tface_IR_101"].items()}
    assert renamed == {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert sum(parameter.numel() for parameter in network.parameters()) == 65_150_912


@pytest.mark.golden
@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
def test_iresnet_and_its_identity_gradient_are_the_official_ones(
    golden, published, key_seeded, depth, tmp_path
):
    torch.save(key_seeded(published[f"iresnet_r{depth}"]), tmp_path / "backbone.pth")
    recognizer = load_recognition("arcface", tmp_path / "backbone.pth")
    assert recognizer.name == f"arcface_r{depth}"
    crops = golden["input"].clone().requires_grad_()
    torch.testing.assert_close(recognizer.network(crops), golden[f"r{depth}_out"], rtol=1e-4, atol=1e-4)
    one, other = recognizer(crops)
    loss = 1 - (one * other.detach()).sum()
    loss.backward()
    torch.testing.assert_close(loss.detach(), golden[f"r{depth}_idloss"][0], rtol=1e-4, atol=1e-6)
    expected = golden[f"r{depth}_idloss_grad0"]
    assert (crops.grad[0] - expected).abs().max() <= 1e-4 * expected.abs().max()
    if depth == 50:
        maps = recognizer.network.stages(golden["input"])
        for stage, found in enumerate(maps, start=1):
            torch.testing.assert_close(found[:1, ::8], golden[f"r50_layer{stage}"], rtol=1e-4, atol=1e-4)


@pytest.mark.golden
def test_r34_is_the_official_one(golden, published, key_seeded):
    network = IResNet(34).eval()
    network.load_state_dict(key_seeded(published["iresnet_r34"]))
    torch.testing.assert_close(network(golden["input"]), golden["r34_out"], rtol=1e-4, atol=1e-4)


@pytest.mark.golden
@pytest.mark.slow
def test_curricularface_is_the_official_one(golden, published, key_seeded, tmp_path):
    torch.save(key_seeded(published["tface_IR_101"]), tmp_path / "curricular.bin")
    recognizer = load_recognition("curricularface", tmp_path / "curricular.bin")
    found = recognizer.network(golden["input"])
    torch.testing.assert_close(found, golden["ir101_out"], rtol=1e-4, atol=1e-4)
    for stage, maps in enumerate(recognizer.network.stages(golden["input"])):
        torch.testing.assert_close(maps[:1, ::8], golden[f"ir101_mid{stage}"], rtol=1e-4, atol=1e-4)


@pytest.mark.golden
def test_tface_at_small_depth_is_the_official_one(golden, key_seeded):
    """IR_18 is IR_101 with fewer blocks: the same code in a second."""
    parts = {part: place for place, part in enumerate(("bn1", "conv1", "bn2", "prelu", "conv2", "bn3"))}
    heads = {"conv1": "input_layer.0", "bn1": "input_layer.1", "prelu": "input_layer.2"}
    heads |= {"bn2": "output_layer.0", "fc": "output_layer.3", "features": "output_layer.4"}
    network = IResNet(18, tface=True).eval()
    shapes = {}
    for name, tensor in network.state_dict().items():
        first, _, rest = name.partition(".")
        if first.startswith("layer"):
            block, part, leaf = rest.split(".", 2)
            place = "shortcut_layer" if part == "downsample" else f"res_layer.{parts[part]}"
            theirs = f"body.{2 * (int(first[-1]) - 1) + int(block)}.{place}.{leaf}"
        else:
            theirs = f"{heads[first]}.{rest}"
        assert from_tface(theirs, 18) == name
        shapes[theirs] = list(tensor.shape)
    network.load_state_dict({from_tface(name, 18): tensor for name, tensor in key_seeded(shapes).items()})
    torch.testing.assert_close(network(golden["input"]), golden["ir18_out"], rtol=1e-4, atol=1e-4)


def test_files_of_other_networks_are_refused_by_name(published, tmp_path):
    def file(shapes):
        torch.save({name: torch.zeros(1) for name in shapes}, tmp_path / "file.pth")
        return tmp_path / "file.pth"

    with pytest.raises(ValueError, match=r"no network of arcface_torch .*non-commercial.*as curricularface"):
        load_recognition("arcface", file(published["tface_IR_101"]))
    with pytest.raises(ValueError, match=r"IR_101 of HuangYG123.* another network than TFace's; fetch glint"):
        load_recognition("curricularface", file(published["huangyg_IR_101"]))
    with pytest.raises(ValueError, match=r"does not fit IResNet: .* fetch glint360k"):
        load_recognition("curricularface", file(published["iresnet_r18"]))
    with pytest.raises(
        ValueError, match=r"no weights file .*absent.pth: fetch backbone.pth .*\(licence: non"
    ):
        load_recognition("arcface", tmp_path / "absent.pth")
    with pytest.raises(ValueError, match=r"arcface needs its weights: fetch backbone.pth"):
        load_recognition("arcface")
    with pytest.raises(ValueError, match="'facenet'; known are arcface, curricularface, dlib, mobileface"):
        load_recognition("facenet")


@pytest.fixture(scope="module")
def dlib_recognizer():
    return load_recognition("dlib")


@pytest.mark.golden
def test_the_dlib_network_is_dlibs(dlib_recognizer):
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (3, 150, 150, 3), dtype=np.uint8)
    pictures = np.stack([cv2.GaussianBlur(picture, (0, 0), 2 + row) for row, picture in enumerate(pictures)])
    model = dlib.face_recognition_model_v1(model_file(EMBEDDING_FILE, None))
    expected = np.array([model.compute_face_descriptor(picture) for picture in pictures])
    crops = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    found = dlib_recognizer.network(crops)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(dlib_recognizer(crops).norm(dim=1).numpy(), 1, atol=1e-6)


def test_dlib_file_is_read_as_others_read_it(shared, dlib_recognizer, tmp_path):
    theirs = load_file(shared / "testdata/models/dlib_face128_fp16.safetensors")
    ours = dict(dlib_recognizer.network.state_dict())
    for name, tensor in theirs.items():
        if name != "mean":
            parts = name.split(".")
            layer = parts[-2].replace("c", "conv") if parts[-2] != "fc" else "fc"
            layer = layer.replace("a", "affine").replace("conv0", "conv").replace("affine0", "affine")
            leaf = {"g": "weight", "b": "bias"}.get(parts[-1], parts[-1])
            renamed = ".".join([*parts[:-2], layer, leaf])
            torch.testing.assert_close(ours.pop(renamed), tensor.float(), rtol=1e-3, atol=1e-4)
    assert not ours
    data = Path(model_file(EMBEDDING_FILE, None)).read_bytes()
    (tmp_path / "cut.dat").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut.dat is not dlib_face.* or is cut off: blocks"):
        load_recognition("dlib", tmp_path / "cut.dat")


@pytest.mark.parametrize("name", ["dlib", "mobileface"])
def test_people_are_told_apart(shared, name):
    """Real photos through the real networks: every pair of one person is nearer than every pair of two."""
    path = shared / "testdata/models/mobileface_v2_256.safetensors" if name == "mobileface" else None
    recognizer = load_recognition(name, path)
    vectors, people = [], []
    backend = DlibBackend()
    for file in sorted((shared / "testdata/photos/ids").glob("*/[12].jpg")):
        picture = cv2.imread(str(file))[:, :, ::-1].copy()
        face = largest_face([face for face in backend.detect(picture, embed=True) if face.score >= 0])
        image = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
        vector, valid = recognizer.embed(image, torch.from_numpy(face.keypoints)[None])
        assert valid.all()
        if name == "dlib":
            assert float(vector[0] @ torch.from_numpy(face.embedding)) > 0.999, "as the backend embeds"
        vectors.append(vector[0])
        people.append(file.parent.name)
    cosines = torch.stack(vectors) @ torch.stack(vectors).T
    same = torch.tensor([[a == b for b in people] for a in people])
    same_pairs = cosines[same & ~torch.eye(len(people), dtype=torch.bool)]
    assert same_pairs.min() > cosines[~same].max()
    assert same_pairs.min() > recognizer.identity_threshold > cosines[~same].max()


def test_a_recognizer_stays_exact_and_frozen_whatever_its_owner_does(dlib_recognizer):
    owner = torch.nn.ModuleDict({"identity": FaceRecognizer(DlibResNet(), name="d", identity_threshold=0.9)})
    owner.train()
    owner.to(torch.bfloat16)
    recognizer = owner["identity"]
    assert not recognizer.network.training
    assert {tensor.dtype for tensor in recognizer.network.state_dict().values()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in recognizer.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert recognizer(torch.zeros(1, 3, 150, 150, dtype=torch.bfloat16)).dtype == torch.float32
    vectors, valid = dlib_recognizer.embed(torch.zeros(2, 3, 40, 40), torch.full((2, 5, 2), torch.nan))
    assert not valid.any()
    assert not vectors.any()


def test_an_identity_loss_descends(shared):
    """Pixels follow the gradient towards another face: what a training with this loss relies on."""
    recognizer = load_recognition("mobileface", shared / "testdata/models/mobileface_v2_256.safetensors")
    folder = shared / "testdata/photos/lfw10_aligned112"
    faces = [cv2.imread(str(folder / f"pair{pair}_0.jpg"))[:, :, ::-1].copy() for pair in (0, 1)]
    crops = torch.stack([torch.from_numpy(face) for face in faces]).permute(0, 3, 1, 2) / 127.5 - 1
    target = recognizer(crops[1:])
    picture = crops[:1].clone().requires_grad_()
    optimizer = torch.optim.Adam([picture], lr=0.02)
    losses = []
    for _ in range(12):
        loss = 1 - (recognizer(picture) * target).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.7
    assert losses[-1] < 0.3
    keypoints = torch.as_tensor(ARCFACE.keypoints).float()[None] * 2
    grown = torch.nn.functional.interpolate(crops[1:], scale_factor=2, mode="bilinear")
    aligned, _ = align_faces(grown, keypoints, ARCFACE)
    assert float((recognizer(aligned) * target).sum()) > 0.95
