"""Pictures of people by UniPortrait through generate.py, from photos of a real man."""

import json

import cv2
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from portraitgen.faces.dlib import DlibBackend
from portraitgen.media.decode import read_video
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.generate.generate import generate
from portraitgen.systems.uniportrait.photos import FaceCount, face_crop, photo_sets
from portraitgen.training.weights import load_weights, save_weights
from tests.systems.uniportrait import tiny


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of both tiny stages, as if trained: every part has a say."""
    folder = tmp_path_factory.mktemp("weights")
    for stage in ("stage1", "stage2"):
        settings = OmegaConf.to_container(tiny.config(stage).model, resolve=True)
        torch.manual_seed(0)
        network = instantiate(settings["network"], _convert_="all")
        for name, parameter in network.named_parameters():
            if "lora_B" in name or "router" in name or "id_resampler" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        state = {name.replace(".base_layer.", "."): value for name, value in network.state_dict().items()}
        facts = {"data": {"examples": {"size": 64}}, "shards": []}
        save_weights(
            folder / f"{stage}.safetensors",
            state,
            config=settings,
            step=0,
            system="uniportrait",
            provenance=facts,
        )
    return folder


@pytest.fixture(scope="module")
def photos(carphone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    frames = read_video(carphone)
    for name, number in {"ann": 0, "bob": 60, "cat": 100}.items():
        cv2.imwrite(str(folder / f"{name}.png"), frames[number][..., ::-1])
    cv2.imwrite(str(folder / "wall.png"), np.full((64, 64, 3), 90, np.uint8))
    return folder


@pytest.fixture
def run(weights, tmp_path):
    def run(*words, out="out", stage="stage2"):
        register_configs()
        given = [f"weights={weights}/{stage}.safetensors", f"out={tmp_path / out}", "device=cpu"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            generate(compose("generate", [*given, *words]))
        lines = (tmp_path / out / "samples.jsonl").read_text().splitlines()
        *_, row = map(json.loads, lines)
        return row, cv2.imread(str(tmp_path / out / row["image"])).astype(int)

    return run


def test_people_photos_layout_and_size(run, photos):
    pair = f"reference=[{photos}/ann.png,{photos}/bob.png]"
    row, both = run(pair)
    assert row["references"] == [[f"{photos}/ann.png"], [f"{photos}/bob.png"]]
    assert row["shown"] == ["person 1", "person 2", "generated"]
    assert both.shape == (64, 64, 3)
    _, alone = run(f"reference={photos}/ann.png", out="alone")
    assert np.abs(both - alone).max() > 0
    _, held = run(pair, "layout=[[0,0,0.5,1],[0.5,0,1,1]]", "size=[64,96]", out="held")
    assert held.shape == (64, 96, 3)
    row, louder = run(pair, "inputs.people_scale=1.5", "inputs.structure_scale=0", out="scaled")
    assert (row["inputs"]["inputs.people_scale"], row["inputs"]["inputs.structure_scale"]) == (1.5, 0.0)
    assert np.abs(louder - both).max() > 0


def test_several_photos_are_one_person_or_mixed_to_a_new_one(run, photos):
    ann, bob = f"{photos}/ann.png", f"{photos}/bob.png"
    _, first = run(f"reference={ann}", stage="stage1")
    _, together = run(f"reference=[[{ann},{bob}]]", out="set")
    _, mixed = run(f"reference=[[{ann},{bob}]]", "inputs.mix=0.4", out="mixed")
    _, unmixed = run(f"reference=[[{ann},{bob}]]", "inputs.mix=0", out="unmixed")
    _, alone = run(f"reference={ann}", out="alone")
    assert np.abs(together - alone).max() > 0
    assert np.abs(mixed - together).max() > 0
    # Nothing of the second photo, but the noise is that of another key.
    assert unmixed.shape == first.shape


def test_several_people_may_each_be_mixed_by_shares(run, photos):
    pair = f"reference=[{photos}/ann.png,[{photos}/bob.png,{photos}/cat.png]]"
    row, mixed = run(pair, "inputs.mix=[[],[0.9]]")
    assert row["inputs"]["inputs.mix"] == [[], [0.9]]
    _, less = run(pair, "inputs.mix=0.1", out="less")
    assert np.abs(mixed - less).max() > 0


def members(found):
    return [[[*each.nonzero().flatten().tolist()] for each in person] for person in found.members[0]]


def test_sets_of_photos_that_are_read_together():
    found = photo_sets([3, 1, 2])
    assert members(found) == [[[0, 1, 2]], [[0]], [[0, 1]]]
    assert found.shares.tolist() == [[[1], [1], [1]]]
    found = photo_sets([3, 1, 2], 0.6)
    assert members(found) == [[[0], [1], [2]], [[0], [], []], [[0], [1], []]]
    expected = torch.tensor([[[0.4, 0.3, 0.3], [1.0, 0.0, 0.0], [0.4, 0.6, 0.0]]])
    torch.testing.assert_close(found.shares, expected)
    found = photo_sets([3, 1, 2], [[0.3], [], [1.0]])
    assert members(found) == [[[0, 1], [2]], [[0], []], [[0], [1]]]
    torch.testing.assert_close(found.shares, torch.tensor([[[0.7, 0.3], [1.0, 0.0], [0.0, 1.0]]]))


@pytest.mark.parametrize(
    ("stage", "words", "message"),
    [
        ("stage1", ["reference=[ann.png,bob.png]"], "2 people, but these weights are of stage 1"),
        ("stage2", ["reference=ann.png", "prompt=sea"], "prompt: these weights were trained without text"),
        ("stage2", ["reference=ann.png", "layout=[[0,0,1,1],[0,0,1,1]]"], "layout: 2 places for 1 people"),
        ("stage2", ["reference=wall.png"], r"wall\.png: dlib finds no face in it; give a photo"),
        ("stage2", ["reference=ann.png", "size=63"], r"size=\[63,63\]: both sides must be multiples of 4"),
        (
            "stage2",
            ["reference=ann.png", "inputs.image_prompt=wall.png"],
            "these weights have no branch for it",
        ),
        ("stage2", ["reference=[ann.png,bob.png]", "inputs.mix=0.3"], "nobody has two photos to be mixed"),
        (
            "stage2",
            ["reference=[[ann.png,bob.png],cat.png]", "inputs.mix=[0.3]"],
            "of 1 people, but there are 2",
        ),
        ("stage2", ["reference=[[ann.png,bob.png]]", "inputs.mix=[0.3,0.3]"], "2 shares for the 2 photos"),
        ("stage2", ["reference=ann.png", "audio=ann.png"], "audio: uniportrait does not take it"),
    ],
)
def test_what_cannot_be_is_refused_by_name(run, photos, monkeypatch, stage, words, message):
    monkeypatch.chdir(photos)
    with pytest.raises(ValueError, match=message):
        run(*words, stage=stage)


def test_pictures_with_another_number_of_faces_are_drawn_anew(run, photos):
    """Nobody finds a face in what untrained weights draw."""
    _, first = run(f"reference={photos}/ann.png")
    _, again = run(f"reference={photos}/ann.png", "inputs.tries=2", out="again")
    assert np.abs(first - again).max() > 0
    picture = torch.from_numpy(cv2.imread(str(photos / "bob.png"))[..., ::-1].copy()).movedim(-1, 0)
    count = FaceCount(DlibBackend(), 1, tries=1)
    assert count.is_right(picture / 127.5 - 1)
    assert not FaceCount(DlibBackend(), 2, tries=1).is_right(picture / 127.5 - 1)
    assert FaceCount(OnlyWithBorder(), 1, tries=1).is_right(picture / 127.5 - 1), "a face that fills it"


def test_a_picture_has_no_frames_between_others(run, photos):
    with pytest.raises(ValueError, match="ann is a picture, and has no frames to make between others"):
        run(f"reference={photos}/ann.png", "interpolation=blend")


@pytest.mark.parametrize(("stage", "people"), [("stage1", 1), ("stage2", 2)])
def test_prepared_photos_of_several_people_are_drawn_with_all_whom_the_weights_know(
    run, tmp_path, stage, people
):
    shards = tiny.write_photos(tmp_path / "shards", people=2, count=2)
    row, _ = run(f"shards={shards}", "size=64", stage=stage)
    assert row["shown"] == [*(f"person {number}" for number in range(1, people + 1)), "generated", "truth"]


class OnlyWithBorder(DlibBackend):
    """Finds faces in larger pictures only."""

    def detect(self, image, *, embed=False):
        return super().detect(image, embed=embed) if image.shape[0] > 200 else []


def test_a_face_that_is_found_with_a_border_only_is_cut_out_at_the_same_place(photos):
    expected = face_crop(photos / "ann.png", DlibBackend())
    found = face_crop(photos / "ann.png", OnlyWithBorder())
    assert expected.shape == (3, 224, 224)
    assert (found - expected).abs().mean() < 0.05


def test_weights_without_a_base_of_their_own_are_drawn_on_the_one_that_is_named(
    run, weights, photos, tmp_path
):
    """As released weights are on RealisticVision instead of Stable Diffusion 1.5."""
    tensors, facts = load_weights(weights / "stage1.safetensors")
    config, adapters = facts["config"], {}
    for base in ("sd", "other"):
        unet = UNet2DConditionModel(**config["network"]["unet"])
        unet.save_pretrained(tmp_path / base)
    for name, value in tensors.items():
        if ".processor." in name or ".lora_" in name or name.startswith("id_"):
            adapters[name] = value
    config["network"]["base"] = {"path": str(tmp_path / "sd")}
    path = tmp_path / "stage1.safetensors"
    save_weights(path, adapters, config=config, step=0, system="uniportrait", provenance={"shards": []})
    given = [f"weights={path}", f"paths.models={tmp_path}", f"reference={photos}/ann.png", "size=64"]
    _, first = run(*given)
    _, other = run(*given, f"+model.network.base.path={tmp_path}/other", out="other")
    assert np.abs(first - other).max() > 0
