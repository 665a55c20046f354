"""Requests files of published protocols, which generate.py takes and evaluate.py grades."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.evaluate.evaluate import evaluate
from portraitgen.runs.generate.generate import generate
from portraitgen.runs.generate.protocol_requests import write_requests
from portraitgen.training.weights import save_weights
from tests.command_line import run_command
from tests.nn.text.folders import save_clip
from tests.systems.uniportrait import tiny


def composed(name, *words):
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, [*words])


def write_people(folder, photos, *, number):
    """A list of people, each with a copy of one of the photos."""
    with (folder / "people.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["photo", "word"])
        for place in range(number):
            (folder / f"{place:06d}.jpg").write_bytes(photos[place % len(photos)])
            writer.writerow([f"{place:06d}.jpg", "woman" if place % 3 else "man"])
    return folder / "people.csv"


@pytest.mark.parametrize(
    ("protocol", "requests", "first"),
    [
        ("one", 15 * 40, ("000000-00", ["000000"], "a man wearing a red hat")),
        (
            "two",
            105 * 21,
            ("000000_000001-00", ["000000", "000001"], "a painting of a man and a woman together in the "),
        ),
    ],
)
def test_fastcomposer(protocol, requests, first, tmp_path, caplog):
    people = write_people(tmp_path, [b"jpeg"], number=15)
    words = [f"protocol=fastcomposer_{protocol}", f"people={people}", f"out={tmp_path}/new/requests.jsonl"]
    write_requests(composed("generate_requests", *words))
    rows = [json.loads(line) for line in (tmp_path / "new/requests.jsonl").read_text().splitlines()]
    assert len(rows) == requests == len({row["key"] for row in rows})
    assert {row["num_samples"] for row in rows} == {4}
    key, names, prompt = first
    assert rows[0]["key"] == key
    assert rows[0]["reference"] == [str(tmp_path / f"{name}.jpg") for name in names]
    assert rows[0]["prompt"].startswith(prompt)
    assert not any("{" in row["prompt"] for row in rows)
    pairs = {tuple(row["reference"]) for row in rows}
    assert len(pairs) == requests // len({row["key"].partition("-")[2] for row in rows})
    assert "do not compare" not in caplog.text
    write_requests(composed("generate_requests", *words, f"people={write_people(tmp_path, [b''], number=3)}"))
    assert "3 people, the protocol has 15" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo\na.jpg\n", r"line 2: no word; give photo and word"),
        ("photo,word\nb.jpg,man\n", r"b\.jpg: no such file"),
        ("photo,word\na.jpg,man\na.jpg,man\n", r"two photos are called a: rename one"),
        ("photo,word\na.jpg,man\n", r"1 people, but 2 are drawn"),
    ],
)
def test_a_list_that_cannot_be_used(text, message, tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "people.csv").write_text(text)
    words = ["protocol=fastcomposer_two", f"people={tmp_path}/people.csv", f"out={tmp_path}/out.jsonl"]
    with pytest.raises(ValueError, match=message):
        write_requests(composed("generate_requests", *words))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of a tiny stage 2 that reads prompts, untrained."""
    folder = tmp_path_factory.mktemp("weights")
    encoder = {"_target_": "portraitgen.nn.text.clip.CLIPText.from_pretrained"}
    encoder["folder"] = str(save_clip(folder / "clip", tokens=32))
    settings = OmegaConf.to_container(tiny.config("stage2").model, resolve=True)
    settings["prompts"] = {"_target_": "portraitgen.nn.text.prompts.Prompts", "encoder": encoder}
    torch.manual_seed(0)
    network = instantiate(settings["network"], _convert_="all")
    state = {name.replace(".base_layer.", "."): value for name, value in network.state_dict().items()}
    facts = {"data": {"examples": {"size": 64}}, "shards": []}
    path = folder / "last.safetensors"
    save_weights(path, state, config=settings, step=0, system="uniportrait", provenance=facts)
    return path


def test_from_the_people_to_the_report(weights, shared, tmp_path):
    photos = [
        (shared / f"testdata/photos/ids/{name}/1.jpg").read_bytes() for name in ("obama", "biden", "kit")
    ]
    people = write_people(tmp_path, photos, number=3)
    listed = tmp_path / "two.jsonl"
    words = [
        "protocol=fastcomposer_two",
        "protocol.prompts=['{people} at the sea']",
        "protocol.num_samples=2",
    ]
    assert (
        run_command("generate.py", "requests", *words, f"people={people}", f"out={listed}", folder=tmp_path)
        == 0
    )
    out = tmp_path / "pictures"
    words = [f"weights={weights}", f"requests={listed}", f"out={out}", "device=cpu", "sampling.num_steps=1"]
    words.append(f"paths.models={weights.parent}")
    generate(composed("generate", *words))
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows][:2] == ["000000_000001-0-1", "000000_000001-0-2"]
    assert len(rows) == 3 * 2
    # In the place of what cannot be drawn here, a true photo of the first two.
    true = cv2.imread(str(shared / "testdata/photos/multi/obama_biden.jpg"))
    cv2.imwrite(str(out / rows[0]["image"]), true)
    evaluate(composed("evaluate", f"generated={out}", "metrics=multi_identity"))
    results = json.loads((out / "report/results.json").read_text())
    assert results["sim_ref_dlib"] > 0.914, "of the one picture that shows people"
    # Two in each of the five others are missing: 10 of 12 people.
    assert results["people_missing_dlib"] == pytest.approx(10 / 6)
    assert results["sim_ref_min_dlib"] == pytest.approx(results["sim_ref_dlib"] / 6, abs=0.01)
    assert "clip_text" not in results or np.isnan(results["clip_text"] or np.nan)
    assert "fetch the folder of clip-vit-large-patch14" in json.dumps(results)
