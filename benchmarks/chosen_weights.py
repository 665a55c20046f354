"""Are the weights that a figure chooses while a run trains better than its last, by other figures?

    python -m benchmarks.chosen_weights quickstart [--seeds 0 1 2] [--steps 900] [--out runs/chosen_weights]
    python -m benchmarks.chosen_weights quickstart_stage2
    python -m benchmarks.chosen_weights few_frames
    python -m benchmarks.chosen_weights clip --video talk.mp4

Trains from each seed with `callbacks.grading`, which looks at frames that training never saw, and keeps the
best weights by landmark error and by identity. They and the last ones then draw later frames, which neither
training nor choosing saw, from other noise, the same for all; `metrics=self_reenactment` grades them.

    quickstart         stage 1 of the quick start: frames 0 to 89 train, 90 to 99 choose, 105 to 119 compare
    quickstart_stage2  its stage 2, from the last weights of that stage 1
    few_frames         stage 1 where it has to overfit: frames 0 to 11 train, at a rate that never falls
    clip               stage 1 of experiments/aniportrait/clip.sh: three quarters of another video train, the
                       ten frames behind them choose, its last eighth compares

A difference is that of the chosen weights from the last of the same seed. Beside it stands its 95 % interval
over runs of the frames, which says nothing about other seeds; below, the mean over the seeds with its 95 %
interval (Student's t). What is finished in --out is not repeated, and a training that was stopped goes on.
Prints a table after each seed, for the READMEs of experiments/quickstart and experiments/aniportrait.
"""

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.identity_training import TALKING_MAN, half_interval
from portraitgen.metrics.comparison import Comparison, compare
from portraitgen.metrics.saved import RESULTS, SavedResults, load_results
from portraitgen.metrics.scores import MetricInfo
from portraitgen.training.best_weights import LIST
from portraitgen.training.figure_names import ROUNDS
from tests.command_line import run_command

LAST = "last"
CHOOSING = ("landmark_error", "identity_dlib_truth")
FIGURES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "detection_rate": "faces found",
    "landmark_error": "landmark error",
    "identity_dlib_truth": "identity, truth",
    "mouth_error": "mouth opening error",
}
DRAWING_SEED = 1
"""Grading draws with 0: the choice shall not be one of noise."""
CHOOSING_FRAMES = 10
COMPARED_SPAN = "[0.875,1.0]"
"""The share of the clip that compares: behind the frames that train and choose."""
NUM_ROUNDS = 6


@dataclass(frozen=True)
class Setting:
    """What is trained.

    Attributes:
        steps: of the training, unless it is asked for fewer.
        prepared: words for `prepare.py`.
        words: words for `train.py`.
        faces: words about the faces that grading and `evaluate.py` look for.
    """

    experiment: str
    steps: int
    prepared: Sequence[str]
    words: Sequence[str] = ()
    faces: Sequence[str] = ()


SMALL_FACES = ("faces.min_score=-0.5",)
"""As in conf/experiment/quickstart/evaluate.yaml."""
QUICK_START = ("size=64", "fps=null")
SETTINGS = {
    "quickstart": Setting("quickstart/stage1", 900, QUICK_START, faces=SMALL_FACES),
    "quickstart_stage2": Setting("quickstart/stage2", 100, QUICK_START, faces=SMALL_FACES),
    "few_frames": Setting(
        "quickstart/stage1",
        900,
        QUICK_START,
        ["data.train_span=[0.0,0.1]", "lr_scheduler=constant"],
        faces=SMALL_FACES,
    ),
    "clip": Setting(
        "aniportrait/clip_stage1",
        1200,
        ["size=96"],
        ["data.train_span=[0.0,0.75]", "data.val_span=[0.75,1.0]"],
    ),
}


class Choice(NamedTuple):
    """The step that a figure chose, and on how many frames with a face."""

    step: int
    num_frames: int


class Compared(NamedTuple):
    """What each figure chose in one training, and its weights held against the last."""

    chosen: Mapping[str, Choice]
    comparison: Comparison


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--video", help="of the setting clip: a talking person, 8 seconds or so")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="fewer than the setting has, on a slow machine")
    parser.add_argument("--out", type=Path, default=Path("runs/chosen_weights"))
    given = parser.parse_args()
    if (given.video is not None) != (given.setting == "clip"):
        parser.error("--video is what the setting clip learns, and no other one does")
    setting, out = SETTINGS[given.setting], given.out.resolve() / given.setting
    steps = given.steps or setting.steps
    shards = prepare(given.video or TALKING_MAN, setting, out / "data")
    by_seed = {}
    for seed in given.seeds:
        runs = out / f"steps{steps}_seed{seed}"
        words = list(setting.words)
        if given.setting == "quickstart_stage2":
            first = SETTINGS["quickstart"].steps
            weights = (
                runs.parents[1]
                / f"quickstart/steps{first}_seed{seed}/quickstart/stage1/weights/last.safetensors"
            )
            words.append(f"stage.init_from={weights}")
            words.append("stage.init_command='python -m benchmarks.chosen_weights quickstart'")
        train(setting, words, shards, runs, seed=seed, steps=steps)
        by_seed[seed] = compare_chosen(setting, shards, runs, steps)
        print_table(by_seed, steps)


def command(script: str, *words: str) -> None:
    if run_command(script, *words, folder=Path.cwd()):
        raise SystemExit(f"{script} {' '.join(words)} failed, see above")


def prepare(video: str, setting: Setting, folder: Path) -> str:
    """The shards of the clip, as a pattern."""
    source = video if video.startswith("pip:") else str(Path(video).resolve())
    if not (folder / "dataset.json").exists():
        command("prepare.py", f"source={source}", f"out={folder}", *setting.prepared)
    return f"{folder}/shards/train-*.tar"


def train(setting: Setting, words: Sequence[str], shards: str, runs: Path, *, seed: int, steps: int) -> None:
    grading = {
        "every_steps": steps // NUM_ROUNDS,
        "num_clips": 1,
        "frames": CHOOSING_FRAMES,
        "num_steps": "null",
        "best": f"[{','.join(CHOOSING)}]",
    }
    command(
        "train.py",
        f"experiment={setting.experiment}",
        "callbacks=grading",
        f"data.shards='{shards}'",
        f"paths.runs={runs}",
        f"seed={seed}",
        f"trainer.max_steps={steps}",
        "callbacks.samples=null",
        *(f"callbacks.grading.{name}={value}" for name, value in grading.items()),
        *(f"callbacks.grading.{word}" for word in setting.faces),
        *words,
    )


def compare_chosen(setting: Setting, shards: str, runs: Path, steps: int) -> Compared:
    """Draw with the last weights and with those that each figure chose, and grade both."""
    run = runs / setting.experiment
    chosen = choices(run)
    chosen_steps = {figure: choice.step for figure, choice in chosen.items()}
    drawn: dict[int, SavedResults] = {}
    for name, step in {LAST: steps, **chosen_steps}.items():
        if step not in drawn:  # two figures may have chosen the same weights, or the last ones
            file = LAST if name == LAST else f"best_{name}"
            weights = run / f"weights/{file}.safetensors"
            drawn[step] = draw_and_grade(weights, setting, shards, runs / "compared" / file)
    held = {figure: drawn[step] for figure, step in chosen_steps.items()}
    return Compared(chosen, compare({LAST: drawn[steps], **held}))


def draw_and_grade(weights: Path, setting: Setting, shards: str, out: Path) -> SavedResults:
    """Figures of the frames that compare, as `weights` draw them; they are kept in `out`."""
    found = out / "report" / RESULTS
    if found.exists():
        return load_results(found)
    command(
        "generate.py",
        f"weights={weights}",
        f"shards='{shards}'",
        f"span={COMPARED_SPAN}",
        f"seed={DRAWING_SEED}",
        f"out={out}",
    )
    # A failed check, that of the copied reference, is a result as well.
    run_command(
        "evaluate.py",
        f"generated={out}",
        "metrics=self_reenactment",
        f"title={weights.stem}",
        *setting.faces,
        folder=Path.cwd(),
    )
    return load_results(found)


def print_table(by_seed: Mapping[int, Compared], steps: int) -> None:
    """Each seed's last figures, then how much more or less the chosen weights have."""
    first = next(iter(by_seed.values())).comparison
    metrics = {name: first.metrics[name] for name in FIGURES}
    print(f"\n{len(first.estimates[LAST]['psnr'].values)} frames, differences from `{LAST}`")
    head = ["seed", "weights", "step", *(f"{FIGURES[name]} {arrow(each)}" for name, each in metrics.items())]
    print(f"| {' | '.join(head)} |\n|---|---|---:|{'---:|' * len(metrics)}")
    for seed, (chosen, comparison) in by_seed.items():
        cells = [each.show(comparison.estimates[LAST][name].mean) for name, each in metrics.items()]
        print(f"| {seed} | `{LAST}` | {steps} | {' | '.join(cells)} |")
        for figure in CHOOSING:
            step, num_frames = chosen[figure]
            differences = comparison.differences[figure]
            cells = [
                difference(each, differences[name].mean, differences[name].interval)
                for name, each in metrics.items()
            ]
            if step == steps:
                cells = ["the last ones", *[""] * (len(metrics) - 1)]
            print(f"| {seed} | `best_{figure}` | {step}, by {num_frames} faces | {' | '.join(cells)} |")
    for figure in CHOOSING:
        cells = []
        for name, each in metrics.items():
            values = [compared.comparison.differences[figure][name].mean for compared in by_seed.values()]
            cells.append(over_seeds(each, [value for value in values if math.isfinite(value)], len(values)))
        print(f"| all | `best_{figure}` | | {' | '.join(cells)} |", flush=True)


def over_seeds(metric: MetricInfo, values: list[float], num_seeds: int) -> str:
    """The mean of the differences of those seeds in which both weights have the figure."""
    if not values:
        return "–"
    mean, half = statistics.fmean(values), half_interval(values)
    said = difference(metric, mean, (mean - half, mean + half))
    return said if len(values) == num_seeds else f"{said} ({len(values)} of {num_seeds})"


def choices(run: Path) -> dict[str, Choice]:
    """What each figure chose while the run trained."""
    path = run / ROUNDS / LIST
    listed = json.loads(path.read_text()) if path.exists() else {}
    if missing := [figure for figure in CHOOSING if figure not in listed]:
        raise SystemExit(
            f"{run}: no round has {', '.join(missing)}: no face was found; train for more --steps"
        )
    return {
        figure: Choice(listed[figure]["step"], CHOOSING_FRAMES - listed[figure]["missing"])
        for figure in CHOOSING
    }


def arrow(metric: MetricInfo) -> str:
    return "↑" if metric.higher_is_better else "↓"


def difference(metric: MetricInfo, mean: float, bounds: tuple[float, float]) -> str:
    """A difference with its interval, in the digits of the figure and one more."""
    if not math.isfinite(mean):
        return "–"
    digits = metric.digits + 1
    said = f"{mean:+.{digits}f}"
    if all(map(math.isfinite, bounds)):
        said += f" [{bounds[0]:+.{digits}f}, {bounds[1]:+.{digits}f}]"
    return said


if __name__ == "__main__":
    main()
