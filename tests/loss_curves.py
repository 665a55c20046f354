"""Loss curves of the tiny experiments: how they are measured, and where they are stored.

    python -m tests.loss_curves aniportrait/tiny_stage1 …   # measure, and store as tests/losses/<name>.json
    python -m tests.loss_curves                             # every tiny experiment that has none

A stored curve is what `train.py` logged of `train/loss` at full precision, on the talking man of
`talking_clip` as `prepare.py` prepares him, with what its bits depend on. Experiments on photos train on
drawn ones, with as many people as they have places for, those on pairs on two drawn photos of each person.
"""

import csv
import json
import platform
import re
import sys
import tempfile
from pathlib import Path

import torch

from tests.command_line import ROOT, run_command
from tests.systems.flux_identity.tiny import write_pairs
from tests.systems.uniportrait.tiny import write_photos
from tests.talking_clip import write_talking_clip

STORED = ROOT / "tests/losses"


def tiny_experiments() -> list[str]:
    """Names of all conf/experiment/**/tiny*.yaml, such as aniportrait/tiny_stage1."""
    folder = ROOT / "conf/experiment"
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("tiny*.yaml"))


def prepare_talking_man(folder: Path) -> None:
    """Put the talking clip, talk.mp4, and data/, what prepare.py makes of it, into `folder`."""
    write_talking_clip(folder / "talk.mp4")
    words = ["source=talk.mp4", "out=data", "size=64", "workers=0", "embed_every=0"]
    if run_command("prepare.py", *words, folder=folder):
        raise RuntimeError("the talking clip could not be prepared, see above")


def shards_for(experiment: str, *, clips: str, folder: Path) -> str:
    """The pattern of the shards that an experiment trains on: those of `clips`, or of photos in `folder`."""
    text = (ROOT / "conf/experiment" / f"{experiment}.yaml").read_text()
    if "override /data: pairs" in text:
        root = folder / "pairs"
        return f"{root}/shards/*.tar" if root.exists() else write_pairs(root)
    people = re.search(r"people: (\d)", text)
    if "override /data: photos" not in text or people is None:
        return clips
    root = folder / f"photos-{people[1]}"
    return f"{root}/shards/*.tar" if root.exists() else write_photos(root, people=int(people[1]))


def starting_point(experiment: str) -> str | None:
    """The experiment whose weights `experiment` starts from, if it is a tiny one."""
    text = (ROOT / "conf/experiment" / f"{experiment}.yaml").read_text()
    others = (other for other in tiny_experiments() if other != experiment)
    return next((other for other in others if f"{other}/weights/last.safetensors" in text), None)


def measure_curve(experiment: str, *, shards: str, runs: Path) -> list[float]:
    """Train `experiment`, and before it what it starts from, in `runs`; the loss of every step."""
    first = starting_point(experiment)
    if first and not (runs / first / "weights/last.safetensors").exists():
        measure_curve(first, shards=shards, runs=runs)
    # Neither pictures nor validation touch the training: tests/test_resume.py.
    words = [
        f"experiment={experiment}",
        f"data.shards={shards_for(experiment, clips=shards, folder=runs)}",
        f"paths.runs={runs}",
        "callbacks.samples=null",
    ]
    if run_command("train.py", *words, folder=runs):
        raise RuntimeError(f"experiment={experiment} does not train, see above")
    with (runs / experiment / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


def machine() -> dict[str, str]:
    """What the bits of a curve depend on, beside the code."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    vendors = [line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")]
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "vendor": vendors[0] if vendors else platform.processor(),
    }


def stored(experiment: str) -> Path:
    return STORED / f"{experiment}.json"


def main() -> None:
    names = sys.argv[1:] or [name for name in tiny_experiments() if not stored(name).exists()]
    with tempfile.TemporaryDirectory() as folder:
        prepare_talking_man(Path(folder))
        shards = f"{folder}/data/shards/train-*.tar"
        for name in names:
            losses = measure_curve(name, shards=shards, runs=Path(folder))
            stored(name).parent.mkdir(parents=True, exist_ok=True)
            stored(name).write_text(json.dumps({"machine": machine(), "loss": losses}, indent=1) + "\n")
            print(stored(name).relative_to(ROOT))


if __name__ == "__main__":
    main()
