"""Pictures by Flux identity through generate.py, from photos of a real man; and their grading and export."""

import json

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from portraitgen.media.decode import read_video
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.evaluate.evaluate import evaluate
from portraitgen.runs.generate.generate import generate
from portraitgen.training.weights import save_weights
from tests.systems.flux_identity import tiny

EXAMPLES = {"size": 64, "ref_size": None, "ref_margin": 0.5, "grow": 0.2}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of the tiny ways, as if trained: the adapter has a say."""
    folder = tmp_path_factory.mktemp("weights")
    for way in tiny.WAYS:
        settings = OmegaConf.to_container(tiny.config(way).model, resolve=True)
        torch.manual_seed(0)
        network = instantiate(settings["network"], _convert_="all")
        tiny.train_adapters(network)
        save_weights(
            folder / f"{way}.safetensors",
            {name.replace(".base_layer.", "."): value for name, value in network.state_dict().items()},
            config=settings,
            step=0,
            system="flux_identity",
            provenance={"data": {"examples": EXAMPLES}, "shards": []},
        )
    return folder


@pytest.fixture(scope="module")
def photos(carphone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    frames = read_video(carphone)
    for name, number in {"ann": 0, "bob": 60}.items():
        cv2.imwrite(str(folder / f"{name}.png"), frames[number][..., ::-1])
    height, width = frames[0].shape[:2]
    mask = np.zeros((height // 2, width // 2), np.uint8)
    mask[10:50, 20:60] = 255
    cv2.imwrite(str(folder / "hole.png"), mask)
    cv2.imwrite(str(folder / "empty.png"), 0 * mask)
    cv2.imwrite(str(folder / "square.png"), mask[:50, :50])
    cv2.imwrite(str(folder / "wall.png"), np.full((64, 64, 3), 90, np.uint8))
    return folder


@pytest.fixture
def run(weights, tmp_path):
    def run(way, *words, out="out"):
        register_configs()
        given = [f"weights={weights}/{way}.safetensors", f"out={tmp_path / out}", "device=cpu"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            generate(compose("generate", [*given, *words]))
        lines = (tmp_path / out / "samples.jsonl").read_text().splitlines()
        *_, row = map(json.loads, lines)
        return row, cv2.imread(str(tmp_path / out / row["image"])).astype(int)

    return run


def test_a_person_comes_into_the_hole_of_a_photo(run, photos):
    words = [f"reference={photos}/ann.png", f"inputs.photo={photos}/bob.png"]
    row, found = run("fill_diptych", *words)
    assert row["shown"] == ["reference", "given", "generated"]
    assert row["references"] == [[f"{photos}/ann.png"]]
    assert found.shape == (64, 64, 3)
    _, elsewhere = run("fill_diptych", *words, f"layout=[{photos}/hole.png]", "size=[64,96]", out="masked")
    assert elsewhere.shape == (64, 96, 3)
    _, boxed = run("fill_diptych", *words, "layout=[[0.1,0.1,0.4,0.5]]", out="boxed")
    assert np.abs(boxed - found).max() > 0
    other = [f"reference={photos}/bob.png", f"inputs.photo={photos}/bob.png"]
    _, changed = run("fill_diptych", *other, out="other")
    assert np.abs(changed - found).max() > 0, "who it is has a say"


def test_a_picture_of_a_person(run, photos):
    row, found = run("kontext", f"reference={photos}/ann.png", "size=[64,96]", "num_samples=2")
    assert row["shown"] == ["reference", "generated"]
    assert found.shape == (64, 96, 3)
    _, closer = run(
        "kontext", f"reference={photos}/ann.png", "inputs.ref_margin=0", "size=[64,96]", out="near"
    )
    assert np.abs(closer - found).max() > 0


@pytest.mark.parametrize("way", tiny.WAYS)
def test_prepared_photos_are_drawn_again_and_graded(run, way, tmp_path):
    shards = tiny.write_pairs(tmp_path / "data", people=1)
    row, found = run(way, f"shards={shards}", "sampling.num_steps=1", "limit=1")
    assert found.shape == (64, 64, 3)
    assert row["shown"][-1] == "truth"
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = ["metrics.graders.landmarks=null", "metrics.checks=[]"]
        evaluate(compose("evaluate", [f"generated={tmp_path / 'out'}", *words]))
    results = json.loads((tmp_path / "out/report/results.json").read_text())
    assert np.isfinite(results["psnr"])
    assert results["protocol"]["settings"]["system"] == "flux_identity"


@pytest.mark.parametrize(
    ("way", "words", "message"),
    [
        ("fill_diptych", ["reference=ann.png"], r"are of FillDiptych; give reference=… inputs\.photo=…"),
        ("kontext", ["reference=ann.png", "inputs.photo=bob.png"], "are of Kontext; give reference=… prompt"),
        ("none", ["reference=ann.png"], "are of TextOnly; give prompt=…"),
        ("kontext", ["reference=ann.png", "prompt=sea"], "prompt: these weights were trained without text"),
        ("kontext", ["reference=wall.png"], r"reference=wall\.png: dlib finds no face"),
        ("kontext", ["reference=ann.png", "size=62"], r"size=\[62,62\]: both sides must be multiples of 4"),
        ("kontext", ["reference=[ann.png,bob.png]"], "reference: 2 given, at most 1"),
        (
            "fill_diptych",
            ["reference=ann.png", "inputs.photo=bob.png", "layout=[square.png]"],
            "the mask must have the photo's proportion",
        ),
        (
            "fill_diptych",
            ["reference=ann.png", "inputs.photo=bob.png", "layout=[empty.png]"],
            "it has no white pixel",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(run, photos, monkeypatch, way, words, message):
    monkeypatch.chdir(photos)
    with pytest.raises(ValueError, match=message):
        run(way, *words)
