"""The trials of a sweep: a folder for each, and a table of what came of them at its end."""

import csv
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from portraitgen.runs.config.words import override_words

SWEPT = "PORTRAITGEN_SWEPT"
"""Environment variable with the keys that a sweep's command line gives several values; jobs inherit it."""

SHARED = ("experiment", "hparams_search", "data.shards", "paths.runs", "name")
"""Keys that name no trial while all trials have one value of them."""

_OF_EXPERIMENT = ("model", "data", "stage", "sampling", "losses")
"""Groups that an experiment chooses."""

_FIGURES = ("train/loss", "val/loss")


def sweep_words(words: Sequence[str]) -> list[str]:
    """The words of a command line, and the jobs of a sweep told which keys it varies.

    Hydra composes a configuration for the sweep itself, in which a swept group is not chosen. Where that is
    the experiment, settings of what it would choose have no place there: they go to the trials alone.
    """
    parsed = {word: _parsed(word) for word in override_words(words)}
    swept = {word: each.key_or_group for word, each in parsed.items() if each and each.is_sweep_override()}
    os.environ[SWEPT] = ",".join(swept.values())
    if "experiment" not in swept.values():
        return list(words)
    return [_for_trials_alone(word) if word in parsed and word not in swept else word for word in words]


def _for_trials_alone(word: str) -> str:
    """`data.shards=a` as a sweep over one value."""
    key, _, value = word.partition("=")
    if "." not in key or key.lstrip("+").partition(".")[0] not in _OF_EXPERIMENT or not value:
        return word
    # choice() takes none: set in the sweep's own configuration, too, where nobody reads it
    if value == "null":
        return f"++{key.lstrip('+')}=null"
    return f"{key}=choice({value})"


def _parsed(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None  # Hydra says so itself


def trial_overrides(overrides: Sequence[str]) -> str:
    """The overrides of a trial that tell it from others, by key: what its folder is called."""
    swept = os.environ.get(SWEPT, "").split(",")
    named = [
        each
        for each in overrides
        if (key := each.lstrip("+~").partition("=")[0]) in swept or key not in SHARED
    ]
    return ",".join(sorted(named))


class SweepTable(Callback):
    """Notes where and when a sweep begins, and prints the table of its trials when the process is done."""

    _begun: tuple[Path, float] | None = None
    _folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        SweepTable._begun = Path(config.paths.runs, "sweeps"), time.time()
        folder = OmegaConf.select(config, "hydra.sweep.dir")
        SweepTable._folder = None if folder is None else Path(folder)

    @classmethod
    def lines(cls) -> list[str]:
        """The table of the trials that wrote into their log since the sweep began; nothing without one."""
        if cls._begun is None:
            return []
        root, since = cls._begun
        logs = [log for log in sorted(root.rglob("train.rank0.log")) if log.stat().st_mtime >= since - 1]
        rows = [_row(root, log) for log in logs]
        shared = _shorten(rows)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        table = [columns, *([row.get(name, "") for name in columns] for row in rows)]
        widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table] if rows else []
        return [
            *([f"all trials: {', '.join(shared)}"] if shared else []),
            *lines,
            *cls._page(logs, rows),
        ]

    @classmethod
    def _page(cls, logs: Sequence[Path], rows: Sequence[Mapping[str, str]]) -> list[str]:
        """Where the page of the trials lies, or why there is none; nothing where they look at no figure."""
        if cls._folder is None or not rows:
            return []
        from portraitgen.runs.train.sweep_page import EndedTrial, write_sweep_page

        found = [
            EndedTrial(row["trial"], log.parent, row["state"], _last_values(log.parent / "metrics.csv"))
            for log, row in zip(logs, rows, strict=True)
        ]
        try:
            page = write_sweep_page(found, cls._folder)
        except ValueError as error:  # files of trials that were damaged meanwhile
            return [f"no page of the trials: {error}"]
        return [] if page is None else [str(page)]


def _shorten(rows: Sequence[dict[str, str]]) -> list[str]:
    """Leave of the names of several trials what tells them apart; gives the rest, which all have."""
    names = [row["trial"].rpartition("/") for row in rows]
    parts = [name.split(",") for *_, name in names]
    shared = [part for part in parts[0] if all(part in each for each in parts)] if len(rows) > 1 else []
    for row, (folder, *_), mine in zip(rows, names, parts, strict=True):
        own = ",".join(part for part in mine if part not in shared)
        row["trial"] = "/".join(filter(None, (folder, own)))
    return shared


def _row(root: Path, log: Path) -> dict[str, str]:
    """What a trial came to, from its files: it may have run on another machine."""
    folder = log.parent
    # Of ours: behind them may stand more lines of the error, and what the launcher of jobs has to say.
    lines = [line for line in log.read_text(errors="replace").splitlines() if "[portraitgen." in line]
    failed = bool(lines) and "[ERROR]" in lines[-1]
    last = _last_values(folder / "metrics.csv")
    figures = {name: f"{float(last[name]):.5g}" for name in _FIGURES if name in last}
    return {
        "trial": str(folder.relative_to(root)),
        "step": last.get("step", "0"),
        **figures,
        "state": "failed" if failed else "ended",
    }


def _last_values(path: Path) -> Mapping[str, str]:
    """The last value of each column."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {name: value for row in csv.DictReader(file) for name, value in row.items() if value}
