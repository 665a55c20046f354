"""The directory of one run: where its files lie, what they say, and whether a run may continue in it.

config.yaml      the resolved configuration
versions.json    packages, commit and command line of every start
train.rank*.log  one a process
checkpoints/     last.ckpt: what a resume reads; previous.ckpt: in reserve, if the last one is damaged
weights/         *.safetensors: what generate, evaluate and later stages read
samples/         pictures drawn while training
graded/          figures of generated clips, step by step, and the clips of the best and last ones
earlier/         what an earlier start left, whose checkpoints somebody moved away

How far a run is, its newest whole checkpoint alone says.
"""

import contextlib
import csv
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from portraitgen.media.bounded import read_json
from portraitgen.media.files import replacing
from portraitgen.runs.config.keys import is_under, leaves
from portraitgen.runs.config.yaml_files import load_yaml
from portraitgen.runs.secrets import without_secrets, words_without_secrets
from portraitgen.training.figure_names import ROUNDS

if TYPE_CHECKING:
    from portraitgen.training.checkpoint import Resume

log = logging.getLogger(__name__)

PACKAGES = (
    "portraitgen",
    "torch",
    "lightning",
    "diffusers",
    "transformers",
    "peft",
    "hydra-core",
    "numpy",
    "av",
)

SHAPES_THE_RESULT = (
    "model",
    "data",
    "stage",
    "losses",
    "optimizer",
    "lr_scheduler",
    "seed",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm",
    "trainer.precision",
    "strategy",
    "callbacks.ema",
    "deterministic",
)
"""Settings that must stay as they are when a run is resumed, unless `allow_config_change` says otherwise."""

CANNOT_CHANGE = (
    "model._target_",
    "model.network",  # the checkpoint holds its weights
    "stage.name",
    "stage.train",  # … and the optimizer's state of what trains
    "optimizer._target_",
)
"""Among them, those that no resumed run can apply."""

FREE_TO_CHANGE = (
    "data.num_workers",  # batches are the same for any number
    "data.remote",  # … and wherever shards lie
    "stage.init_from",  # what trains comes from the checkpoint, the frozen weights are compared
    "model.sampling",
    "model.optimizer",  # the group is compared
    "model.lr_scheduler",
)
"""Among them, those on which a resumed run does not depend."""

_NOTHING_RUNS = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}", "core.pager=cat", "diff.external=")
"""Settings of git under which it starts no program that the settings of a checkout name."""


class RunDirectory:
    """Files of the run in `folder`, which must exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.versions = folder / "versions.json"
        self.checkpoints = folder / "checkpoints"
        self.last_checkpoint = self.checkpoints / "last.ckpt"
        self.weights = folder / "weights"

    def changes(self, config: Mapping[str, Any], *, allowed: bool) -> list[str]:
        """`key: old → new` of what shapes the result and differs between the saved config and this one.

        Only for a run that has a checkpoint: without one everything may differ.

        Args:
            allowed: whether it may differ, where a resumed run can apply it.

        Raises:
            ValueError: it may not, or no resumed run can apply it.
        """
        if not self.config.is_file():
            return []
        found = dict(_changes(_mapping(load_yaml(self.config), self.config), without_secrets(config)))
        refused = {key: line for key, line in found.items() if not allowed or is_under(key, CANNOT_CHANGE)}
        if refused:
            lines = "\n  ".join(refused.values())
            if all(is_under(key, CANNOT_CHANGE) for key in refused):
                advice = "\nA run cannot change these. Start a new run under another name=…"
            else:
                advice = "\nStart a new run under another name=…, or go on with allow_config_change=true"
            raise ValueError(f"the run in {self.folder} was started with other settings:\n  {lines}{advice}")
        return list(found.values())

    def find_resume(self) -> "Resume | None":
        """Where the run goes on, see `training.checkpoint.find_resume`."""
        from portraitgen.training.checkpoint import find_resume

        return find_resume(self.checkpoints)

    def begin_anew(self) -> None:
        """Leave nothing of an earlier start in the way of a run that starts at its first step.

        Weights, which somebody may still want, are moved to `earlier/<n>` with what belongs to them.
        """
        metrics = self.folder / "metrics.csv"
        if not any(self.weights.glob("*.safetensors")):
            metrics.unlink(missing_ok=True)  # of a start that came to no checkpoint
            return
        earlier = self.folder / "earlier"
        number = 1 + max((int(each.name) for each in earlier.glob("[0-9]*")), default=0)
        target = earlier / str(number)
        target.mkdir(parents=True)
        wandb_id = self.folder / "wandb_id.txt"
        beside = (self.folder / "samples", self.folder / ROUNDS)
        for path in (self.weights, *beside, metrics, self.config, self.versions, wandb_id):
            if path.exists():
                path.rename(target / path.name)
        log.warning(
            "%s has weights but no checkpoint: it starts anew, they are now in %s", self.folder, target
        )

    def last_metric(self, name: str) -> float:
        """The last value of a column of metrics.csv.

        Raises:
            ValueError: the run has logged no such value.
        """
        path = self.folder / "metrics.csv"
        values: list[float] = []
        if path.is_file():
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    values = [float(row[name]) for row in csv.DictReader(file) if row.get(name)]
            except (csv.Error, ValueError, TypeError) as error:
                raise ValueError(f"optimized_metric={name}: {path} is damaged ({error})") from error
        if not values:
            raise ValueError(f"optimized_metric={name}: {path} holds no such value")
        return values[-1]

    def record_start(self, config: Mapping[str, Any], *, step: int, changes: Sequence[str]) -> None:
        """Say with which settings the weights come about from `step` on: config.yaml, versions.json.

        Where settings changed, those up to this step stay beside it, as config.until_step_<step>.yaml.
        """
        if changes:
            self.config.replace(self.folder / f"config.until_step_{step:08d}.yaml")
        with replacing(self.config) as temporary:
            hidden = without_secrets(config)
            temporary.write_text(yaml.safe_dump(hidden, sort_keys=False, allow_unicode=True))
        starts = self._starts()
        this = {**describe_start(), "from_step": step, "changes": list(changes)}
        with replacing(self.versions) as temporary:
            temporary.write_text(json.dumps([*starts, this], indent=2) + "\n")

    def _starts(self) -> list[Any]:
        """What versions.json holds; a damaged one is set aside, since nothing depends on it."""
        if not self.versions.is_file():
            return []
        try:
            starts = read_json(self.versions)
            if isinstance(starts, list):
                return starts
        except ValueError:
            pass
        aside = self.versions.with_suffix(".damaged.json")
        self.versions.replace(aside)
        log.warning("%s is damaged: it is now %s, and a new one begins", self.versions, aside.name)
        return []


def describe_start() -> dict[str, Any]:
    """What it takes to run the same again: time, command line, Python, packages, commit."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [os.path.basename(sys.argv[0]), *words_without_secrets(sys.argv[1:])],
        "python": platform.python_version(),
        "packages": package_versions(),
        **describe_commit(),
    }


def package_versions() -> dict[str, str]:
    """Versions of those packages that shape a result."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def describe_commit() -> dict[str, Any]:
    """`commit` of the checkout this package runs from, and `dirty`, whether tracked files differ from it.

    Both are None outside a checkout. Git runs nothing that the checkout's own settings name.
    """
    root = Path(__file__).resolve().parents[3]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_OPTIONAL_LOCKS": "0"}
    # With no global configuration nothing says that a checkout of another owner is safe to look at.
    settings = [*_NOTHING_RUNS, f"safe.directory={root}"]

    def git(*words: str, check: bool = True) -> str:
        changes = [word for setting in settings for word in ("-c", setting)]
        call = ["git", "-C", str(root), *changes, *words]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, check=check)
        return done.stdout.strip()

    try:
        filters = git("config", "--name-only", "--get-regexp", r"^filter\..*\.(clean|process)$", check=False)
        settings += [f"{name}=" for name in filters.splitlines()]
        changed = git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
        return {"commit": git("rev-parse", "HEAD"), "dirty": changed != ""}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _mapping(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no settings; move it away, or choose another name=…")
    return content


def _changes(saved: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Key and `key: old → new` for every setting that differs and shapes the result."""
    # Runs from before there were losses to add say nothing of them: they had none.
    old, new = leaves({"losses": {}, **saved}), leaves({"losses": {}, **config})
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key, "(not set)"), new.get(key, "(not set)")
        if before != after and is_under(key, SHAPES_THE_RESULT) and not is_under(key, FREE_TO_CHANGE):
            yield key, f"{key}: {before} → {after}"
