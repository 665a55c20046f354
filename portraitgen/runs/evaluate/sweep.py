"""`evaluate.py sweep`: generate and grade for every combination of settings, and compare the results.

The trials are those of Hydra's multirun, so that its sweepers and launchers serve. A trial has its own
folder; a finished one is known by its fingerprint and not made again. At the end the finished ones are
compared, and those that failed are named.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import MISSING, DictConfig, OmegaConf

from portraitgen.data.archive import Shard
from portraitgen.data.catalog import find_all_shards
from portraitgen.data.manifest import shard_digest
from portraitgen.media.bounded import read_json
from portraitgen.media.files import replace_file, writable_folder
from portraitgen.media.public_weights import file_digest
from portraitgen.metrics.comparison import label_runs
from portraitgen.metrics.saved import RESULTS, load_results
from portraitgen.runs.config.check import check_config
from portraitgen.runs.config.schema import EvaluateConfig, GenerateConfig
from portraitgen.runs.evaluate.compare import report_comparison
from portraitgen.runs.evaluate.evaluate import grade_and_report
from portraitgen.runs.evaluate.sources.samples import SAMPLES
from portraitgen.runs.generate.generate import generate

log = logging.getLogger(__name__)

TRIAL = "trial.json"
"""Written last of all in the folder of a trial: it is finished."""

FAILURE = "failure.txt"
"""Why the trial in this folder failed in the last sweep."""

PLACES = ("out", "title", "paths", "device", "show_by", "show_videos", "papers", "wandb")
"""Settings that change no figure."""


@dataclass(kw_only=True)
class SweepConfig(GenerateConfig):
    """What `evaluate.py sweep` reads: the settings of generate.py, and how its clips are graded."""

    metrics: Any = MISSING
    """As for evaluate.py; checks are reported and fail no trial."""
    strict: bool = False
    """Missing weights of a grader are an error."""
    title: str = MISSING
    """Heading of the comparison."""
    show_by: str | None = None
    """Figure by which videos are chosen to be shown."""
    show_videos: int = MISSING
    """At most so many videos are shown."""
    papers: list[str] = field(default_factory=list)
    """Tables of papers to print beside the figures."""
    wandb: str | None = None
    """Project on W&B that gets the comparison too; null: none."""


ConfigStore.instance().store(
    name="evaluate_sweep_schema",
    node=make_dataclass(
        "SweepConfig",
        # Defaults here would replace what conf/generate.yaml and trials say.
        [(inherited.name, inherited.type, field(default=MISSING)) for inherited in fields(GenerateConfig)],
        bases=(SweepConfig,),
    ),
)


def sweep_trial(config: DictConfig) -> None:
    """One trial, in the folder that Hydra gave it; why it fails, if it does, is kept there."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        run_trial(config, folder)
    except Exception as error:
        replace_file(folder / FAILURE, f"{str(error) or type(error).__name__}\n".encode())
        raise


def run_trial(config: DictConfig, folder: Path) -> None:
    """Generate into `folder`/generated and grade into `folder`, unless that has been done.

    Raises:
        ValueError: as generate.py and evaluate.py.
    """
    check_config(config)
    if config.weights is None or config.shards is None:
        raise ValueError(
            "a sweep needs weights=… and shards=…: prepared clips, driven by their own landmarks, have true"
            " frames to compare with"
        )
    wanted = trial_fingerprint(config)
    if _finished(folder) == wanted:
        log.info("%s is finished", folder)
        return
    (folder / TRIAL).unlink(missing_ok=True)
    writable_folder(folder)
    settings = _settings(config)
    clips = folder / "generated"
    (clips / SAMPLES).unlink(missing_ok=True)  # of the trial under other settings
    generate(_for_command(GenerateConfig, settings, out=str(clips)))
    # `fps` and `length` are of another kind for each of the two commands.
    graded = {"out": str(folder), "generated": str(clips), "fps": None, "length": "exact", "wandb": None}
    grade_and_report(_for_command(EvaluateConfig, settings, **graded))
    facts = {"fingerprint": wanted, "settings": settings}
    replace_file(folder / TRIAL, (json.dumps(facts, indent=2) + "\n").encode())


def trial_fingerprint(config: DictConfig) -> str:
    """SHA-256, shortened, of all that decides what a trial gives: settings, and files by their content.

    The graders' weights are among them: where some that were skipped have been fetched, a trial is made anew.
    """
    decides = {name: value for name, value in _settings(config).items() if name not in PLACES}
    decides["weights"] = file_digest(Path(config.weights))
    shards = find_all_shards(config.shards if isinstance(config.shards, str) else list(config.shards))
    decides["shards"] = [shard_digest(shard) or _digest(shard) for shard in shards]
    decides["files"] = dict(_files_named_in([decides[name] for name in ("metrics", "faces", "inputs")]))
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _digest(shard: Shard) -> str:
    """Of a shard without a manifest."""
    if not isinstance(shard, Path):
        raise ValueError(
            f"{shard} has no manifest, which would tell whether it is the shard of earlier trials"
        )
    return file_digest(shard)


def _files_named_in(settings: Any) -> Iterator[tuple[str, str]]:
    """Settings that name a file or a folder that is there, and the digest of the file."""
    if isinstance(settings, str):
        path = Path(settings).expanduser()
        if path.is_file():
            yield settings, file_digest(path)
        elif path.is_dir():
            yield settings, "folder"
    elif isinstance(settings, Mapping | list):
        for value in settings.values() if isinstance(settings, Mapping) else settings:
            yield from _files_named_in(value)


def _finished(folder: Path) -> str | None:
    """The fingerprint of the trial that was finished in `folder`; None when there is none."""
    if not (folder / TRIAL).is_file() or not (folder / RESULTS).is_file():
        return None
    try:
        found = read_json(folder / TRIAL)["fingerprint"]
    except (ValueError, LookupError, TypeError):
        return None  # damaged: it is done again
    return found if isinstance(found, str) else None


def _settings(config: DictConfig) -> dict[str, Any]:
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}


def _for_command(schema: type, settings: Mapping[str, Any], **others: Any) -> DictConfig:
    """The settings that a command reads, some of them replaced."""
    names = {each.name for each in fields(schema)}
    known = {name: value for name, value in {**settings, **others}.items() if name in names}
    merged = OmegaConf.merge(OmegaConf.structured(schema), known)
    assert isinstance(merged, DictConfig)
    return merged


class CompareTrials(Callback):
    """Compares the trials of a sweep when the last one has ended, also where some of them failed."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget the failures of an earlier start: those trials are tried again."""
        if not OmegaConf.is_missing(config, "out"):
            for path in Path(config.out).glob(f"**/{FAILURE}"):
                path.unlink()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Let the sweep come to its end; wherever the trial ran, its folder says that it failed."""
        if (Path(config.hydra.runtime.output_dir) / FAILURE).is_file():
            # Hydra's sweeper would raise the error of the first failed trial, and nothing would be compared.
            job_return.status = JobStatus.COMPLETED

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Gather the finished trials in the folder of the sweep; exit code 1 if any failed."""
        failed = failed_trials(Path(config.out))
        try:
            compare_trials(config)
        except ValueError as error:
            # Hydra would turn it into a warning.
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        finally:
            for name, why in failed.items():
                print(f"error: {name} failed and is not compared: {why}", file=sys.stderr)
        if failed:
            sys.exit(1)


def failed_trials(out: Path) -> dict[str, str]:
    """Folder of each failed trial below `out`, by its name there -> why."""
    paths = sorted(out.glob(f"**/{FAILURE}"))
    return {str(path.parent.relative_to(out)): path.read_text().strip() for path in paths}


def compare_trials(config: DictConfig) -> None:
    """Put all finished trials below `config.out` side by side; the report lies in that folder.

    Raises:
        ValueError: fewer than two are finished, or they do not compare.
    """
    trials = sorted(path.parent for path in Path(config.out).glob(f"**/{TRIAL}"))
    finished = [folder for folder in trials if not (folder / FAILURE).exists()]
    runs = label_runs([load_results(folder) for folder in finished])
    report_comparison(runs, config, allow_other_protocols=False)
