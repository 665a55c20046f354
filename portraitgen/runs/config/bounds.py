"""Numbers that cannot be, or that would keep a machine busy for days, named before anything is loaded."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from portraitgen.runs.config.targets import did_you_mean

MAX_SEED = 2**32 - 1
MAX_WORKERS = 256
MAX_SIDE = 8192
MAX_FPS = 240
MAX_FRAMES = 1_000_000

_DEFAULT_STEPS = 1000


def between(key: str, value: Any, low: float, high: float) -> Iterator[str]:
    """A problem where a number is given and is not within [low, high]."""
    if isinstance(value, int | float) and not isinstance(value, bool) and not low <= value <= high:
        yield f"{key}: {value}, but it must be between {low:g} and {high:g}"


def sampling_problems(sampling: Mapping[str, Any], place: str) -> Iterator[str]:
    """What of the settings of a sampling pipeline cannot be; of those that it has."""
    scheduler = sampling.get("scheduler")
    scheduler = scheduler if isinstance(scheduler, Mapping) else {}
    most = scheduler.get("num_train_timesteps", _DEFAULT_STEPS)
    yield from between(f"{place}.num_steps", sampling.get("num_steps"), 1, most)
    frames, overlap = sampling.get("window_frames"), sampling.get("window_overlap")
    if isinstance(overlap, int) and overlap < 0:
        yield f"{place}.window_overlap: {overlap}, but it must be 0 or more"
    # Networks for pictures have windows of one frame, which overlap in none.
    elif isinstance(frames, int) and isinstance(overlap, int) and overlap >= frames > 1:
        yield (
            f"{place}.window_overlap: {overlap}, but windows have {frames} frames ({place}.window_frames):"
            f" give less than that; a quarter, {frames // 4}, is usual"
        )


def training_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What of the numbers of train.py cannot be; `config` is resolved."""
    yield from between("seed", config["seed"], 0, MAX_SEED)
    yield from between("plan_utilisation", config.get("plan_utilisation"), 0.01, 1)
    yield from between("data.num_workers", config["data"].get("num_workers"), 0, MAX_WORKERS)
    rate = config["optimizer"].get("lr")
    if isinstance(rate, int | float) and rate < 0:
        yield f"optimizer.lr: {rate}, but it must be 0 or more"
    yield from sampling_problems(config["sampling"], "sampling")
    steps = ((config["callbacks"] or {}).get("grading") or {}).get("num_steps")
    if steps is not None:
        drawn = {"scheduler": config["sampling"].get("scheduler"), "num_steps": steps}
        yield from sampling_problems(drawn, "callbacks.grading")


def generation_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """The same of generate.py, but for its sampling, which the weights file has a part in."""
    yield from between("seed", config["seed"], 0, MAX_SEED)
    yield from between("num_samples", config["num_samples"], 1, MAX_FRAMES)
    yield from between("fps", config["fps"], 1e-3, MAX_FPS)
    yield from between("length", config["length"], 1, MAX_FRAMES)
    size = config["size"]
    for side in size if isinstance(size, list) else [size]:
        yield from between("size", side, 8, MAX_SIDE)


def sought_problems(sought: Any, config: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with `optimized_metric`: a name, a list of one or two, or None."""
    several = isinstance(sought, Sequence) and not isinstance(sought, str)
    names = [*sought] if several else [] if sought is None else [sought]
    if not all(isinstance(name, str) for name in names) or len(names) > 2 or len({*names}) < len(names):
        yield f"optimized_metric: {names}; name a figure, or two of which both are to be good"
        return
    for name in names:
        yield from logged_problems(name, config)


def logged_problems(name: str, config: Mapping[str, Any]) -> Iterator[str]:
    """Whether `optimized_metric` names a figure that no run logs, as far as the settings tell.

    What is no slip of the pen may be a figure of a loss or a callback: `OptimizedMetric` sees when it runs.
    """
    data, losses = config["data"], [*(config["losses"] or {})]
    terms = ["loss", *(f"loss_{each}" for each in ("diffusion", *losses) if losses)]
    known = [f"{part}/{term}" for part in ("train", "val") for term in terms] + [
        "train/lr",
        "train/grad_norm",
    ]
    part, _, figure = name.partition("/")
    slip = did_you_mean(figure, [each.partition("/")[2] for each in known])
    if part not in ("train", "val", "perf", "grade"):
        yield f"optimized_metric: {name}; figures begin with train/, val/, perf/ or grade/, such as val/loss"
    elif part == "grade" and not (config["callbacks"] or {}).get("grading"):
        yield f"optimized_metric: {name} is graded while training: add callbacks=grading"
    elif part != "grade" and name not in known and slip:
        yield f"optimized_metric: {name}; no run logs this{did_you_mean(name, known)}"
    elif not any("CsvLog" in str((each or {}).get("_target_")) for each in (config["logger"] or {}).values()):
        yield f"optimized_metric: {name} is read from metrics.csv, which logger=csv writes; add it"
    elif part == "val" and not data.get("val_span") and not data.get("val_shards"):
        yield f"optimized_metric: {name}, but there is no validation: set data.val_span or data.val_shards"
