"""A system that another installed package brings, through the real commands: pictures, and many of them.

Nothing in portraitgen knows it: it is known by the entry point of its package alone.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file

from portraitgen.data.shards import ShardWriter
from portraitgen.media.audio import read_audio
from portraitgen.media.decode import read_video
from portraitgen.runs.config.check import find_problems
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.config.systems import all_systems
from portraitgen.runs.config.targets import installed_systems, resolve_target
from portraitgen.runs.convert import convert
from portraitgen.runs.evaluate.evaluate import evaluate
from portraitgen.runs.generate.describe import describe_inputs
from portraitgen.runs.generate.draw import draw_frames
from portraitgen.runs.generate.generate import generate
from portraitgen.runs.system import load_system
from portraitgen.training import weights as weights_files
from portraitgen.training.request import Request
from portraitgen.training.weights import save_weights
from tests.metrics.tiny_clip import save_tiny_clip
from tests.synthetic import synthetic_clip


@pytest.fixture(scope="module")
def installed(repository, tmp_path_factory):
    """A folder in which the package lies as pip leaves one."""
    root = tmp_path_factory.mktemp("site-packages")
    shutil.copytree(repository / "tests/plugins/toy_portraits", root / "toy_portraits")
    facts = root / "toy_portraits-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-portraits\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[portraitgen.systems]\ntoy = toy_portraits\n")
    return root


@pytest.fixture(scope="module", autouse=True)
def _known(installed):
    """The package is on the path of this process, for the tests of this file only."""
    sys.path.insert(0, str(installed))
    importlib.invalidate_caches()
    installed_systems.cache_clear()
    yield
    sys.path.remove(str(installed))
    installed_systems.cache_clear()


def composed(name, *words):
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(words))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights as train.py would write them, by the option that the package adds to the group `model`."""
    config = composed(
        "train", "experiment=aniportrait/tiny_stage1", "model=toy_portraits", "data.shards=none"
    )
    assert find_problems(config.model) == []
    settings = OmegaConf.to_container(config.model, resolve=True)
    path = tmp_path_factory.mktemp("weights") / "toy.safetensors"
    network = instantiate(settings["network"])
    save_weights(path, network.state_dict(), config=settings, step=7, system="toy")
    return path


@pytest.fixture(scope="module")
def photos(carphone, tmp_path_factory):
    """ann.png and bob.png: the same real man, 144 x 144 and 120 x 144."""
    folder = tmp_path_factory.mktemp("photos")
    frames = read_video(carphone)
    cv2.imwrite(str(folder / "ann.png"), frames[0][:, 16:160, ::-1])
    cv2.imwrite(str(folder / "bob.png"), frames[60][:, 30:150, ::-1])
    return folder


@pytest.fixture
def run(weights, tmp_path):
    def run(*words, out="out"):
        generate(composed("generate", f"weights={weights}", f"out={tmp_path / out}", *words))
        lines = (tmp_path / out / "samples.jsonl").read_text().splitlines()
        return tmp_path / out, {row["key"]: row for row in map(json.loads, lines)}

    return run


def picture(out, row):
    return cv2.imread(str(out / row["image"]))


def test_two_people_and_a_text_make_pictures_each_of_its_own_seed(run, photos):
    words = [f"reference=[{photos}/ann.png,{photos}/bob.png]", "prompt='two men, at sea'", "seed=3"]
    out, rows = run(*words, "num_samples=3")
    assert list(rows) == [f"ann-bob-two-men-at-sea-{number}" for number in (1, 2, 3)]
    assert [row["seed"] for row in rows.values()] == [3, 4, 5]
    first = rows["ann-bob-two-men-at-sea-1"]
    assert first["prompt"] == "two men, at sea"
    assert first["references"] == [[str(photos / "ann.png")], [str(photos / "bob.png")]]
    assert (first["system"], first["step"], first["fps"]) == ("toy", 7, None)
    assert first["shown"] == ["person 1", "person 2", "generated"]
    pictures = [picture(out, row) for row in rows.values()]
    assert pictures[0].shape == (144, 288, 3)
    assert not np.array_equal(pictures[0], pictures[1])
    assert cv2.imread(str(out / first["sheet"])) is not None

    out, rows = run(*words[:2], "seed=4", out="again")
    (row,) = rows.values()
    assert row["key"] == "ann-bob-two-men-at-sea"
    assert np.array_equal(picture(out, row), pictures[1]), "a seed means one picture, alone or among others"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_of_requests_gives_the_same_as_one_by_one(run, photos, kind):
    if kind == "csv":
        (photos / "many.csv").write_text(
            "key,reference,prompt,seed,inputs.brightness\n"
            'sea,ann.png,"at sea, alone",5,\n'
            ',"[[""ann.png"",""bob.png""]]",dark,,0.25\n'
        )
    else:
        rows = [
            {"key": "sea", "reference": "ann.png", "prompt": "at sea, alone", "seed": 5},
            {"reference": [["ann.png", "bob.png"]], "prompt": "dark", "inputs": {"brightness": 0.25}},
        ]
        (photos / "many.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    out, rows = run(f"requests={photos}/many.{kind}", "negative_prompt=rain")
    assert list(rows) == ["sea", "2-ann-dark"]
    assert [row["negative_prompt"] for row in rows.values()] == ["rain", "rain"], "from the command line"
    assert rows["2-ann-dark"]["inputs"] == {"inputs.brightness": 0.25}
    assert rows["2-ann-dark"]["references"] == [[str(photos / "ann.png"), str(photos / "bob.png")]]
    assert picture(out, rows["2-ann-dark"]).mean() != picture(out, rows["sea"]).mean()
    alone, one = run(f"reference={photos}/ann.png", "prompt='at sea, alone'", "seed=5", out="one")
    (row,) = one.values()
    assert np.array_equal(picture(alone, row), picture(out, rows["sea"]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "reference,prompt\nann.png,a\nnone.png,b\n",
            r"many\.csv, row 2: reference=.*none\.png: no such",
        ),
        ("reference,promt\nann.png,a\n", r"row 1: promt is not taken; did you mean 'prompt'\?"),
        ("key,reference,prompt\na,ann.png,a\na,ann.png,b\n", "key 'a' stands in two rows"),
        ("key,reference,prompt\n../a,ann.png,a\n", "it names files"),
        ("reference,prompt,num_samples\nann.png,a,0\n", "num_samples=0: give a whole number"),
        ("reference,prompt\n[ann.png,a\n", "not JSON"),
        ("reference,prompt\nann.png\n", "another number of cells"),
        ("reference,prompt\n", "the list is empty"),
    ],
)
def test_a_file_of_requests_that_cannot_be_used(run, photos, rows, message):
    (photos / "many.csv").write_text(rows)
    with pytest.raises(ValueError, match=message):
        run(f"requests={photos}/many.csv")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["driving=talk.mp4"],
            "driving: toy does not take it; it takes reference, shards, prompt",
        ),
        (["fps=25"], "fps: toy does not take it"),
        (["inputs.frame=face"], r"inputs\.frame: toy does not take it"),
        (["inputs.brightness=2.0"], r"inputs\.brightness=2.0: it must be at least 0 and at most 1"),
        (["reference=[{a},{a},{a}]"], "reference: 3 given, at most 2 people"),
        (["reference=[[{a},{a},{a}]]"], "reference: 3 given, at most 2 photos of a person"),
        (["prompt=null"], "prompt: not given. Give one of:\n  reference=… prompt=…"),
        (["num_samples=0"], "num_samples: 0, but it must be between 1"),
        (["limit=2"], r"limit=2: it is for prepared clips"),
        (["span=[0.5,1.0]"], r"span=\[0.5, 1.0\]: it is for prepared clips"),
    ],
)
def test_what_is_not_taken_is_refused_by_name_before_weights_are_read(
    run, photos, words, message, monkeypatch
):
    def refuse(*args, **kwargs):
        raise AssertionError("weights were read")

    monkeypatch.setattr("portraitgen.runs.system.load_weights", refuse)
    monkeypatch.setattr(weights_files, "load_weights", refuse)
    given = {"reference": f"{photos}/ann.png", "prompt": "sea"}
    given |= dict(word.format(a=f"{photos}/ann.png").split("=", 1) for word in words)
    with pytest.raises(ValueError, match=message):
        run(*(f"{key}={value}" for key, value in given.items()))


def test_pictures_without_a_truth_are_graded_by_photo_and_prompt(run, photos, tmp_path, caplog):
    out, rows = run(f"reference={photos}/ann.png", "prompt=sea", "num_samples=2")
    clip = save_tiny_clip(tmp_path / "clip")
    words = [f"generated={out}", "metrics=image", f"metrics.graders.clip.weights={clip}"]
    evaluate(composed("evaluate", *words, "metrics.graders.identity.people=largest"))
    results = json.loads((out / "report/results.json").read_text())
    assert results["identity_dlib"] > 0.9, "it draws the photo itself"
    assert np.isfinite(results["clip_text"])
    assert results["clip_image"] > 0.5
    assert "fid" not in results
    assert results["protocol"]["settings"]["seed"] == "0, 1"
    assert {facts["fps"] for facts in results["protocol"]["videos"].values()} == {0.0}
    assert "person 1, generated" in (out / "report/report.html").read_text()
    for sheet in (row["sheet"] for row in rows.values()):
        assert (out / sheet).is_file()


def test_prepared_clips_and_photos_are_generated_by_any_system(run, tmp_path):
    """What the shards hold is the batch and the truth; the system says what it does with it."""
    with ShardWriter(tmp_path / "data", "train") as writer:
        clip = synthetic_clip("clip", num_frames=5, size=64, sound=True)
        writer.write(replace(clip, caption="a face"))
        photo = synthetic_clip("photo", num_frames=1, size=64, seed=1)
        jpeg = cv2.imencode(".jpg", np.full((64, 64, 3), 90, np.uint8))[1].tobytes()
        writer.write(replace(photo, video=None, image=jpeg, fps=Fraction(0)))
    out, rows = run(f"shards={tmp_path}/data/shards/train-*.tar", "num_samples=2", "inputs.brightness=0.9")
    clip, photo = (f"{name}-000000000" for name in ("clip", "photo"))
    assert list(rows) == [f"{clip}-1", f"{clip}-2", f"{photo}-1", f"{photo}-2"]
    assert read_video(out / rows[f"{clip}-1"]["video"]).shape == (5, 64, 64, 3)
    assert read_audio(out / rows[f"{clip}-1"]["video"]) is not None
    assert (rows[f"{clip}-2"]["prompt"], rows[f"{clip}-2"]["clip"]) == ("a face", clip)
    assert picture(out, rows[f"{photo}-1"]).shape == (64, 64, 3)
    assert rows[f"{clip}-1"]["shown"] == ["person 1", "generated", "truth"]
    words = ["metrics.graders.landmarks=null", "metrics.checks=[]"]
    evaluate(composed("evaluate", f"generated={out}", *words))
    results = json.loads((out / "report/results.json").read_text())
    assert results["psnr"] > 15
    assert {facts["num_frames"] for facts in results["protocol"]["videos"].values()} == {5, 1}


def test_a_row_that_leads_out_of_its_folder_is_refused(run, photos):
    out, rows = run(f"reference={photos}/ann.png", "prompt=sea")
    (row,) = rows.values()
    (out / "samples.jsonl").write_text(json.dumps({**row, "image": str(photos / "ann.png")}))
    with pytest.raises(ValueError, match="does not lie in"):
        evaluate(composed("evaluate", f"generated={out}", "metrics=identity"))


def test_its_weights_are_published_in_its_own_layout(weights, tmp_path):
    convert(composed("convert", "kind=published", f"source={weights}", f"out={tmp_path}"))
    assert load_file(tmp_path / "toy.safetensors")["published.scale"].shape == (3,)
    words = ["system=aniportrait", "kind=published", f"source={weights}", f"out={tmp_path}"]
    with pytest.raises(ValueError, match="holds weights of toy"):
        convert(composed("convert", *words))


def test_only_installed_packages_count(installed):
    assert all_systems() == {
        "toy": "toy_portraits",
        **{
            name: f"portraitgen.systems.{name}"
            for name in ("aniportrait", "consisid", "flux_identity", "loopy", "uniportrait")
        },
    }
    assert resolve_target("toy_portraits.network.ToyNetwork").__name__ == "ToyNetwork"
    node = {"_target_": "toy_portraits.network.ToyNetwork", "width": 0}
    problems = find_problems(OmegaConf.create({"network": node}))
    assert problems == ["network.width: 0, but it must be 1 or more"], "its networks are built on meta, too"
    sys.path.remove(str(installed))
    installed_systems.cache_clear()
    try:
        with pytest.raises(ValueError, match="is not in an allowed package"):
            resolve_target("toy_portraits.network.ToyNetwork")
    finally:
        sys.path.insert(0, str(installed))
        installed_systems.cache_clear()


def test_the_command_lists_what_it_takes(weights, installed, repository):
    assert "inputs.brightness" in describe_inputs([f"weights={weights}"])
    assert "inputs.audio2mesh" not in describe_inputs([f"weights={weights}"])
    (weights.parent / "broken.safetensors").write_text("<html>404</html>")
    assert "not a whole safetensors file" in describe_inputs([f"weights={weights.parent}/broken.safetensors"])
    path = os.pathsep.join([str(installed), str(repository)])
    done = subprocess.run(
        [sys.executable, "generate.py", "--help"],
        cwd=repository,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "toy takes one of:\n  reference=… prompt=…" in done.stdout
    assert "of the people (number: 0 … 1, default 1.0)" in done.stdout
    assert "aniportrait takes one of:\n  shards=…" in done.stdout
    assert "python generate.py landmarks driving=talk.mp4" in done.stdout


def test_single_frames_are_asked_only_of_systems_that_can_draw_them(weights):
    system, _ = load_system(weights, changes={}, models="models", device=torch.device("cpu"))
    request = Request(
        key="a", batch={"people_photos": torch.zeros(1, 1, 3, 8, 8)}, length=7, fps=Fraction(25)
    )
    with pytest.raises(ValueError, match="this system cannot draw single frames"):
        next(draw_frames(system, request, [0, 3, 6], None, seed=0, on_step=print))
