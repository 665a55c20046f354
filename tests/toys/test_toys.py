"""Three systems of other packages through the real commands, which do not know them.

They stand for what is to come: text to image and text with a face to video, both by adapters on a pretrained
base, and photos of several people to image. Where one of them needs a line in `runs`, `data`, `training` or
`metrics`, a wall is in the wrong place.
"""

import json

import cv2
import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from portraitgen.media.decode import read_video
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.convert import convert
from portraitgen.runs.evaluate.evaluate import evaluate
from portraitgen.runs.generate.generate import generate
from portraitgen.runs.train.train import train
from portraitgen.training.weights import load_facts
from tests.metrics.tiny_clip import save_tiny_clip
from tests.test_resume import assert_equal_runs

SYSTEMS = {"text_to_image": "photos", "face_to_video": "clips", "people_to_image": "photos"}
"""Each with the shards that it learns from."""

MOST_LINES = 120


def composed(name, *words):
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, [*words])


@pytest.fixture(scope="module")
def trained(models, shards, tmp_path_factory):
    """Folder of runs, each of two steps, by name of the system."""
    runs = tmp_path_factory.mktemp("runs")
    return {system: run(system, runs, models, shards) for system in SYSTEMS}


def run(system, runs, models, shards, *words):
    """Train, and give the folder of the run."""
    places = [
        f"paths.runs={runs}",
        f"paths.models={models}",
        f"data.shards={shards}/{SYSTEMS[system]}/shards/*",
    ]
    train(composed("train", f"experiment={system}/tiny", *places, *words))
    return runs / system / "tiny"


def generated(out, *words):
    """Generate into `out`, and give the rows of its list."""
    generate(composed("generate", f"out={out}", *words))
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]


def graded(out, *words):
    evaluate(composed("evaluate", f"generated={out}", *words))
    return json.loads((out / "report/results.json").read_text())


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_has_few_lines(toys, system):
    lines = [line for file in (toys / system).glob("*.py") for line in file.read_text().splitlines()]
    assert sum(bool(line.strip()) for line in lines) <= MOST_LINES


@pytest.mark.parametrize("system", SYSTEMS)
def test_nothing_knows_a_system(repository, system):
    words = (system, "".join(part.title() for part in system.split("_")))
    files = [*(repository / "portraitgen").rglob("*.py"), *(repository / "conf").rglob("*.yaml")]
    assert len(files) > 200
    assert [str(file) for file in files for word in words if word in file.read_text()] == []


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_run_that_was_stopped_ends_with_the_same_bits(trained, models, shards, tmp_path, system):
    stopped = run(system, tmp_path, models, shards, "trainer.max_steps=1")
    assert not (stopped / "weights/step_00000002.safetensors").exists()
    assert run(system, tmp_path, models, shards) == stopped
    assert_equal_runs(trained[system], stopped)
    losses = [row.split(",")[1] for row in (stopped / "metrics.csv").read_text().splitlines()]
    assert len(set(losses)) > 2, "it learns"


def test_a_prompt_becomes_a_picture_and_its_adapter_goes_to_diffusers(trained, models, tmp_path):
    weights = trained["text_to_image"] / "weights/last.safetensors"
    tensors, facts = load_file(weights), load_facts(weights)
    assert all(".lora_" in name for name in tensors), "the base is named, not copied"
    bases = {part: sorted(base["files"]) for part, base in facts["bases"].items()}
    assert bases == {
        "network.unet": ["diffusion_pytorch_model.safetensors"],
        "model.codec.vae": ["diffusion_pytorch_model.safetensors"],
        "model.prompts.encoder": ["model.safetensors"],
        "model.objective.scheduler": ["scheduler_config.json"],
        "model.sampling.scheduler": ["scheduler_config.json"],
    }

    given = [f"weights={weights}", f"paths.models={models}", "prompt='two friends at the sea'"]
    out = tmp_path / "sea"
    rows = generated(out, *given, "negative_prompt=a man", "size=[32,48]", "num_samples=2")
    assert [row["key"] for row in rows] == ["two-friends-at-the-sea-1", "two-friends-at-the-sea-2"]
    pictures = [cv2.imread(str(out / row["image"])) for row in rows]
    assert pictures[0].shape == (32, 48, 3)
    assert not np.array_equal(*pictures)
    clip = save_tiny_clip(tmp_path / "clip")
    results = graded(out, "metrics=image", f"metrics.graders.clip.weights={clip}")
    assert np.isfinite(results["clip_text"])

    convert(composed("convert", "kind=lora", f"source={weights}", f"out={tmp_path / 'adapter'}"))
    again = [f"out={tmp_path / 'back.safetensors'}", "into=text_to_image/tiny", f"paths.models={models}"]
    convert(composed("convert", "kind=lora", f"source={tmp_path / 'adapter'}", *again))
    assert load_facts(tmp_path / "back.safetensors")["system"] == "text_to_image"
    folder = models / "stable-diffusion"
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)
    before = pipeline.unet.state_dict()
    pipeline.load_lora_weights(tmp_path / "adapter")
    assert len(pipeline.unet.state_dict()) == len(before) + len(tensors)


def test_a_face_and_a_prompt_become_a_clip(trained, models, shards, photos, tmp_path):
    weights = trained["face_to_video"] / "weights/last.safetensors"
    names = {name for name in load_file(weights) if ".lora_" not in name}
    assert names == {"face.weight", "face.bias"}, "adapters, and what the base has not"

    given = [f"weights={weights}", f"paths.models={models}"]
    out = tmp_path / "sea"
    (row,) = generated(
        out, *given, f"reference={photos}/ann.png", "prompt='a man talks about the sea'", "length=9", "fps=12"
    )
    assert read_video(out / row["video"]).shape == (9, 64, 64, 3)
    assert (row["fps"], row["shown"]) == ("12", ["face", "generated"])
    assert graded(out, "metrics=identity")["identity_dlib_faces"] == 0, "two steps draw no face"

    convert(composed("convert", "kind=published", f"source={weights}", f"out={tmp_path}", given[1]))
    published, mine = load_file(tmp_path / "face.safetensors"), load_file(weights)
    assert {f"face.{name}": tensor.tolist() for name, tensor in published.items()} == {
        name: mine[name].tolist() for name in names
    }

    out = tmp_path / "redrawn"
    rows = generated(out, *given, f"shards={shards}/clips/shards/*", "span=[0.5,1.0]")
    assert [row["frames"] for row in rows] == [[8, 9, 10, 11, 12]] * 2
    assert [row["frames_trained_on"] for row in rows] == [0, 0]
    assert graded(out, "metrics=reenactment", "metrics.checks=[]")["psnr"] > 0


def test_several_people_become_a_picture(trained, models, photos, tmp_path):
    weights = trained["people_to_image"] / "weights/last.safetensors"
    assert not any("recognizer" in name for name in load_file(weights))
    out = tmp_path / "together"
    (row,) = generated(out, f"weights={weights}", f"reference=[{photos}/ann.png,{photos}/bob.png]")
    assert row["key"] == "ann-bob"
    assert row["shown"] == ["person 1", "person 2", "generated"]
    assert cv2.imread(str(out / row["image"])).shape == (64, 64, 3)
    assert graded(out, "metrics=image")["identity_dlib_faces_missing"] == 2, "two steps draw no face"
