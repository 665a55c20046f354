"""Every command that README, docs and experiments tell the reader to type runs to its end, at a tiny size.

Typed as it stands, but for its blanks (`…` and the variables of scripts) and for settings behind it that make
it small. What cannot run here is in NOT_RUN, with a reason.
"""

import re
import shutil

import numpy as np
import pytest

from portraitgen.runs.prepare.features import face_mesh
from tests.command_line import run_command
from tests.documented import commands, is_override, words_of
from tests.documents_folder import LAST, SMALL, TINY_RUN, make_folder, settings_word
from tests.turning_head import TurningHead

STAGE2 = f"runs/aniportrait/stage2/{LAST}"
SHARDS = "shards/mine/shards/train-*.tar"
BLANKS = {
    "weights": STAGE2,
    "shards": SHARDS,
    "data.shards": SHARDS,
    "out": "written",
    "generated": "runs/aniportrait/generated",
    "password": "secret",
    "features.vae.model": "models/sd-vae-ft-mse",
    "features.speech.model": "models/wav2vec2-base-960h",
    "inputs.audio2mesh": f"runs/aniportrait/audio2mesh/{LAST}",
    "inputs.audio2pose": f"runs/aniportrait/audio2pose/{LAST}",
}
"""What stands for … in the documents, by key."""

MODELS = {
    "vae": "models/sd-vae-ft-mse",
    "clip": "models/sd-image-variations-image-encoder",
    "mesh": "face_landmarker.task",
    "head_pose": "face_landmarker.task",
}
"""Weights of the features that a training reads, which are computed before it."""

VARIABLES = {
    '"$1"': "videos/talk.mp4",
    "$out": "runs/aniportrait/clip",
    "$name": "landmarks",
    '"$@"': "",
    "train-000003": "train-000000",
}
"""What stands for the variables of the scripts in experiments/, and for a shard that a small set lacks."""

NOT_RUN = {
    r"^demo ": "serves a page until it is ended: tests/browser/test_demo_page.py",
    r"data\.shards=(s3|https|pipe):": "needs a store: tests/data/remote",
    r"engine=ray": "starts a Ray: tests/data/engines/test_ray.py",
    r"engine=slurm": "submits jobs: tests/data/engines/test_slurm.py",
    r"trainer=slurm|slurm_a100": "is for a SLURM job: tests/test_slurm_scripts.py",
    r"1e-5,3e-5 seed=0,1": "a sweep of four trials, where README's of two is run",
    r"^evaluate sweep weights=a": "a sweep of eight trials, where trials=quickstart's two are run",
    r"source=pip:": "takes a whole clip: tests/runs/prepare/test_prepare.py runs it",
    r"^convert kind=lora$": "names a kind and is no whole command: tests/runs/test_convert_lora.py",
    r"features\.prompt\.": "needs T5 and CLIP whole: tests/runs/prepare/test_prompt_feature.py",
    r"^evaluate history": "needs a run that was graded: tests/runs/train/test_clip_grading.py shows one",
    r"^generate ipvg": "needs photos of 200 people: tests/runs/generate/test_ipvg.py draws some",
    r"^evaluate selftest": "runs golden tests of this suite: tests/runs/evaluate/test_selftest.py",
    r"uniportrait|portraits|groups": (
        "needs photos with their labels, and Stable Diffusion, CLIP-H and IR_101 whole: "
        "tests/systems/uniportrait, and test_people.py and test_protocol_requests.py of tests/runs/generate, "
        "run tiny ones"
    ),
    r"flux_identity|flux_fill|insert_anything|people/|ann_in_group": (
        "needs Flux, T5, SigLIP and ArcFace whole: tests/systems/flux_identity and "
        "tests/runs/generate/test_flux_identity.py run tiny ones"
    ),
    r"consisid/(global|identity|wan)|kind=consisid|models/consisid|published/consisid|shards/(people|wide)": (
        "needs CogVideoX-5B, T5 and EVA-CLIP whole: tests/systems/consisid and tests/test_loss_curves.py run "
        "tiny ones"
    ),
    r"loopy|shards/talking|talk/(videos|aoc|own)": (
        "needs wav2vec 2.0 and Stable Diffusion whole, or trains for minutes: tests/systems/loopy, "
        "tests/runs/generate/test_talking_head.py and tests/test_loss_curves.py run tiny ones"
    ),
    r"weights=released:": "needs the extra mediapipe: tests/runs/generate/test_released.py",
    r"models/aniportrait\.safetensors (faces=mediapipe|shards=)": (
        "needs the extra mediapipe, or clips prepared with it: tests/runs/generate/test_mesh_driving.py"
    ),
}
"""Pattern of a command → why it is not run."""

FAILS = r"chanels"
"""Pattern of a command that shows what happens to a mistake."""


def documented() -> dict[str, list[str]]:
    """Each different command of the documents that are to run: its name and words, blanks filled in."""
    found = {}
    for document, name, arguments in commands():
        if not re.match(r"README\.md|docs/|experiments/(?!slurm/)", document):
            continue
        for variable, value in VARIABLES.items():
            arguments = arguments.replace(variable, value)
        words = [filled(word) for word in words_of(arguments)]
        if name == "train" and any(re.match(r"experiment=aniportrait/(stage|audio)", word) for word in words):
            words += [] if "data.shards=" in " ".join(words) else [f"data.shards={SHARDS}"]
        if any(is_override(word) for word in words) or words[:1] == ["selftest"]:
            found[" ".join([name, *words])] = [f"{name}.py", *words]
    return found


def filled(word: str) -> str:
    key, _, value = word.partition("=")
    return f"{key}={BLANKS[key]}" if value == "…" else word


def made_small(words: list[str]) -> list[str]:
    """Settings to add to a command so that it takes a second."""
    script, *given = words
    line = " ".join(given)
    if "--help" in given:
        return []
    if script == "prepare.py":
        if given[0] == "features" or given[0] in ("verify", "inspect"):
            return []
        if given[0].endswith("consisid"):
            return ["workers=0"] if given[0].startswith("import") else []
        return ["size=[64,96]" if "size=[" in line else "size=64", "workers=0"]
    if script == "convert.py":
        kind = line.partition("kind=")[2].split()[0]
        network = {"audio2pose": "audio2pose", "audio2mesh": "audio2mesh", "wav2vec2": "audio2mesh"}
        return [] if kind == "published" else [settings_word(network.get(kind, "stage"))]
    if script == "generate.py":
        if given[0] == "landmarks":
            return ["fps=5"]
        driven = "driving=" in line or "audio=" in line
        return ["sampling.num_steps=1", *(["fps=5", "size=64"] if driven else [])]
    if script == "evaluate.py":
        if given[0] == "sensitivity":
            return ["frames=6", "size=64"]
        if given[0] == "sweep":
            return ["metrics.checks=[]", "sampling.num_steps=1"]
        return [] if given[0] == "compare" else ["metrics.checks=[]"]
    assert script == "train.py"
    experiment = line.partition("experiment=")[2].split()[0]
    name = experiment.split("/")[1]
    small = list(TINY_RUN)
    if experiment.startswith("quickstart") or name.startswith("clip"):
        small.append("lr_scheduler.warmup_steps=0")
    if name.startswith(("audio", "clip_audio")):
        return [
            *small,
            *SMALL[name.removeprefix("clip_")],
            "data.examples.clip_frames=6",
            "data.val_span=null",
        ]
    if "aniportrait/stage" in experiment:
        small += [*SMALL["stage"], "data.examples.pose_size=64"]
    else:
        small += ["model=aniportrait_tiny", "data.examples.pose_size=128"]
    if name == "stage2":  # torch 2.13 crashes in the backward pass of two frames of latents this small
        small += ["data.examples.clip_frames=1", "data.examples.stride=1"]
    elif name.endswith("stage2"):
        small += ["data.examples.clip_frames=2", "sampling.window_overlap=1"]
    return small


@pytest.fixture(scope="module")
def folder(made_once):
    return made_once("documents", make_folder)


@pytest.mark.parametrize("line", documented())
def test_the_command_runs(line, folder, tmp_path, monkeypatch):
    for pattern, reason in NOT_RUN.items():
        if re.search(pattern, line):
            pytest.skip(reason)
    here = tmp_path / "here"
    shutil.copytree(folder, here)
    words = documented()[line]
    for place in made_anew(words):
        shutil.rmtree(here / place, ignore_errors=True)
    boxes = np.tile(np.array([0, 0, 64, 64], np.float32), (24, 1))
    monkeypatch.setattr(face_mesh, "_backend", lambda model: TurningHead(boxes))
    if "data.examples.features=" in line:
        features = re.findall(r"data\.examples\.features=\[([\w,]+)\]", line)[0]
        models = [f"features.{name}.model={MODELS[name]}" for name in features.split(",")]
        words_before = ["features", "out=shards/mine", f"features=[{features}]", *models]
        assert run_command("prepare.py", *words_before, folder=here) == 0
    script, *rest = words
    code = run_command(script, *rest, *made_small(words), folder=here)
    assert code == (1 if re.search(FAILS, line) else 0)


def made_anew(words: list[str]) -> list[str]:
    """Folders that a command makes and that lie there already."""
    line = " ".join(words)
    if words[0] == "train.py":
        return [f"runs/{line.partition('experiment=')[2].split()[0]}"]
    if words[0] == "prepare.py" and words[1].startswith(("source=", "import_consisid")):
        return [line.partition(" out=")[2].split()[0]]
    return []


@pytest.mark.parametrize("pattern", [*NOT_RUN, FAILS])
def test_no_exception_outlives_its_command(pattern):
    assert any(re.search(pattern, line) for line in documented())
