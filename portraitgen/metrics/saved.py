"""Results as files: results.json with frames.csv holds all of them, so that they can be compared later."""

import csv
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from portraitgen.media.bounded import read_json
from portraitgen.metrics.csv_text import from_text
from portraitgen.metrics.grader import SetFigure
from portraitgen.metrics.protocol import COMPARED, fingerprint, one_or_all
from portraitgen.metrics.results import Results
from portraitgen.metrics.scores import GENERATED, METHODS, MetricInfo, Row

_MAPPINGS = ("settings", "metrics", "source", "graders", "versions")
_STATED = ("fingerprint", "commit")
RESULTS = "results.json"
FRAMES = "frames.csv"


def results_json(results: Results) -> dict[str, Any]:
    """Results as JSON takes them: `psnr` of the generated clips, `psnr.copy_reference` and so on.

    A missing figure is null and stands under `missing` with its reason. The figures of frames are in
    frames.csv.
    """
    figures = {
        _key(metric, method): figure
        for method, of_method in results.estimates.items()
        for metric, figure in of_method.items()
    }
    return {
        **{key: finite(figure.mean) for key, figure in figures.items()},
        "intervals": {key: [finite(bound) for bound in figure.interval] for key, figure in figures.items()},
        "missing": {
            key: {
                figure.units: figure.num_missing,
                "of": figure.num_present + figure.num_missing,
                "reasons": list(figure.reasons),
            }
            for key, figure in figures.items()
            if figure.num_missing or figure.reasons
        },
        "skipped": dict(results.skipped),
        "passed": results.passed,
        "checks": [
            {
                "metric": verdict.check.metric,
                "against": verdict.check.against,
                "passed": verdict.passed,
                "required": verdict.check.required,
                "gain": finite(verdict.gain),
                "text": verdict.text,
            }
            for verdict in results.verdicts
        ],
        "protocol": protocol_json(results),
        "rows": [
            {
                "video": row.video,
                "method": row.method,
                "num_frames": len(row.frames),
                **{name: finite(row.mean(name)) for name in results.metrics if name in row.scores},
                **({"failure": row.failure} if row.failure is not None else {}),
                **({"reasons": dict(row.reasons)} if row.reasons else {}),
            }
            for row in results.rows
        ],
        "sets": {
            name: {
                "num_samples": figure.num_present,
                "num_missing": figure.num_missing,
                **({} if figure.bias is None else {"bias": finite(figure.bias)}),
            }
            for name, figure in results.estimates[GENERATED].items()
            if results.metrics[name].level == "set"
        },
    }


def protocol_json(results: Results) -> dict[str, Any]:
    """What somebody else needs to take the same figures again, and to know which may be compared."""
    protocol = results.protocol
    videos = protocol.videos
    stated = {
        "num_videos": len(results.videos),
        "num_frames": results.num_frames,
        "fps": one_or_all([facts.fps for facts in videos if facts.fps is not None] or [None]),
        "resolution": one_or_all(
            [[facts.width, facts.height] for facts in videos if facts.width is not None] or [None]
        ),
        "frame_sampler": protocol.frame_sampler,
        "resize": protocol.resize,
        "crop": protocol.crop,
        "face_backend": protocol.face_backend,
        "min_face_score": protocol.min_face_score,
        "missing_faces": results.missing_faces,
        "intervals": results.interval_statement,
        "metrics": {name: asdict(metric) for name, metric in results.metrics.items()},
        "graders": {name: dict(facts) for name, facts in protocol.graders.items()},
        "videos": {
            facts.video: {name: value for name, value in asdict(facts).items() if name != "video"}
            for facts in videos
        },
        "settings": dict(protocol.settings),
        "source": dict(protocol.source),
        "commit": protocol.commit,
        "versions": dict(protocol.versions),
        "command": protocol.command,
    }
    return {"fingerprint": fingerprint(stated), **stated}


@dataclass(frozen=True, slots=True, eq=False)
class SavedResults:
    """Results read back from their files.

    Attributes:
        path: of results.json.
        rows: of all videos and methods.
        metrics: what each figure is.
        sets: figures of the generated clips as a set.
        protocol: as `protocol_json` wrote it.
        skipped: name of a grader -> why it was skipped.
        figures: method -> metric -> mean, lower and upper bound; NaN where they are missing.
        behind: metric -> control that the generated clips are behind -> what says so.
    """

    path: Path
    rows: tuple[Row, ...]
    metrics: Mapping[str, MetricInfo]
    sets: Mapping[str, SetFigure]
    protocol: Mapping[str, Any]
    skipped: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Mapping[str, tuple[float, float, float]]] = field(default_factory=dict)
    behind: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def load_results(path: Path) -> SavedResults:
    """Read results.json (or the folder that holds it) and the frames.csv beside it.

    Raises:
        ValueError: one of them is missing, or is not what evaluate.py writes.
    """
    path = path / RESULTS if path.is_dir() else path
    frames = path.with_name(FRAMES)
    for file in (path, frames):
        if not file.is_file():
            raise ValueError(f"{file}: no such file; evaluate.py writes {RESULTS} and {FRAMES} side by side")
    try:
        content = read_json(path)
        protocol = content["protocol"]
        metrics = {name: MetricInfo(**info) for name, info in protocol["metrics"].items()}
        values = _frame_values(frames, metrics)
        rows = tuple(_row(each, metrics, values) for each in content["rows"])
        sets = {
            name: SetFigure(
                math.nan if content[name] is None else content[name],
                **counts,
                reason="; ".join(content["missing"].get(name, {}).get("reasons", [])) or None,
            )
            for name, counts in content["sets"].items()
        }
        _require_known(content, protocol)
        figures = {
            method: {
                name: _figure(content[key], content["intervals"][key])
                for name in metrics
                if (key := _key(name, method)) in content
            }
            for method in METHODS
        }
        behind = _behind(content["checks"], metrics)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, csv.Error) as error:
        raise ValueError(
            f"{path} with {FRAMES} is not what this evaluate.py writes ({type(error).__name__}: {error}); "
            "evaluate again"
        ) from error
    return SavedResults(path, rows, metrics, sets, protocol, content["skipped"], figures, behind)


def _figure(mean: Any, interval: Any) -> tuple[float, float, float]:
    low, high = interval
    values = [math.nan if each is None else float(each) for each in (mean, low, high)]
    return values[0], values[1], values[2]


def _behind(checks: Any, metrics: Mapping[str, MetricInfo]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for check in checks:
        if float(check.get("gain") or 0) < 0:  # results of before it was stated have none
            name, control = check["metric"], check["against"]
            if name not in metrics or control not in METHODS:
                raise ValueError(f"checks name {name} against {control}, which is not in the table")
            found.setdefault(name, {})[control] = str(check["text"])
    return found


def _require_known(content: Mapping[str, Any], protocol: Mapping[str, Any]) -> None:
    """ValueError unless what reports read of a protocol is there, each of its kind."""
    for name in (*COMPARED, *_STATED, *_MAPPINGS):
        if name not in protocol:
            raise ValueError(f"protocol.{name} is missing")
    for name in _MAPPINGS:
        if not isinstance(protocol[name], Mapping):
            raise ValueError(f"protocol.{name} is no mapping")
    if not isinstance(protocol["commit"], str | None):
        raise ValueError("protocol.commit is no text")
    for name, info in protocol["metrics"].items():
        aim, texts = info["higher_is_better"], (info["label"], info["unit"], info["definition"])
        if not isinstance(aim, bool | None) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"protocol.metrics.{name} does not say what the figure is")
    if not all(isinstance(facts, Mapping) for facts in protocol.get("graders", {}).values()):
        raise ValueError("protocol.graders must be figure → facts")
    if not isinstance(protocol.get("missing_faces"), Mapping | None):
        raise ValueError("protocol.missing_faces is no mapping")
    for name in ("fingerprint", "intervals"):
        if not isinstance(protocol.get(name, ""), str):
            raise ValueError(f"protocol.{name} is no text")
    if not isinstance(protocol["settings"], Mapping) or not isinstance(content["skipped"], Mapping):
        raise ValueError("protocol.settings or skipped is no mapping")


def _frame_values(path: Path, metrics: Mapping[str, MetricInfo]) -> dict[tuple[str, str], dict[str, Any]]:
    """(video, method) -> `frame` and each figure of frames, as lists of text."""
    names = ["frame", *(name for name, metric in metrics.items() if metric.level == "frame")]
    values: dict[tuple[str, str], dict[str, Any]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            key = (from_text(line["video"]), line["method"])
            row = values.setdefault(key, {name: [] for name in names})
            for name in names:
                row[name].append(line[name])
    return values


def _row(
    row: Mapping[str, Any],
    metrics: Mapping[str, MetricInfo],
    values: Mapping[tuple[str, str], Mapping[str, list[str]]],
) -> Row:
    video, method = row["video"], row["method"]
    if "failure" in row:
        return Row(video, method, np.empty(0, np.int64), {}, failure=row["failure"])
    of_frames = values[video, method]
    scores = {}
    for name in metrics:
        if name in row and metrics[name].level == "frame":
            scores[name] = np.array([float(value) if value else math.nan for value in of_frames[name]])
        elif name in row:
            scores[name] = np.array(math.nan if row[name] is None else row[name], dtype=np.float64)
    frames = np.array([int(frame) for frame in of_frames["frame"]], dtype=np.int64)
    return Row(video, method, frames, scores, row.get("reasons", {}))


def finite(value: float) -> float | None:
    """The value, or None for JSON's null where it is missing."""
    return value if math.isfinite(value) else None


def _key(metric: str, method: str) -> str:
    # A figure's name has no point: `identity_dlib_truth` is a figure, `identity_dlib.truth` one of the truth.
    return metric if method == GENERATED else f"{metric}.{method}"
