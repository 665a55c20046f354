"""What planning costs when there are very many sources, and what each finished shard adds.

    python -m benchmarks.prepare_scale [number of sources]

Makes a folder of small files that are called videos (100,000 by default), each with a caption beside every
tenth, and plans them as `prepare.py` does before the first is opened: find, label, deal out, write the plan
down; then again, as a second start does. CPU seconds of this process (user and system).

    first plan     nothing was prepared before
    second plan    all of it was: stamps are compared, nothing is hashed or decoded
    one more       a source came that sorts first
    shard          closing a shard where 10 and where 2,000 others are finished
"""

import resource
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from portraitgen.data.manifest import manifest_path, write_json
from portraitgen.data.prepare.labels import label_sources
from portraitgen.data.prepare.plan import ShardJob, plan_shards, write_plan
from portraitgen.data.prepare.sources import find_sources
from portraitgen.data.shards import ShardWriter
from tests.synthetic import synthetic_clip

CONFIG = {"size": 512}
GOAL_S, SHARDS = 60.0, (10, 2_000)


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = cpu_s()
    result = work()
    return cpu_s() - begun, result


def plan(folder: Path, out: Path) -> list[ShardJob]:
    sources, _ = label_sources(find_sources(str(folder)), labels=None, folder_identities=True)
    jobs = plan_shards(sources, out, "train", videos_per_shard=4, photos_per_shard=1000, config=CONFIG)
    write_plan(jobs, out, "train")
    return jobs


def finish(jobs: list[ShardJob]) -> None:
    """Manifests as of shards in which nobody was found."""
    for job in jobs:
        facts = {**CONFIG, "fingerprint": job.fingerprint, "sources": {}}
        content = {"samples": 0, "frames": 0, "bytes": 0, "errors": [], "config": facts}
        manifest_path(job.path).parent.mkdir(parents=True, exist_ok=True)
        write_json(manifest_path(job.path), content)


def closing_s(others: int) -> float:
    """CPU seconds to write a shard of one small clip where so many others are finished."""
    sample = synthetic_clip("last", num_frames=12, size=64)

    def write(number: int) -> None:
        with ShardWriter(out, first_shard=number, summarize=False) as writer:
            writer.write(sample)

    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        (out / "manifests").mkdir()
        for number in range(others):
            content = {"samples": 0, "frames": 0, "bytes": 0}
            write_json(out / "manifests" / f"train-{number:06}.json", content)
        return float(np.median([timed(partial(write, 10_000 + number))[0] for number in range(5)]))


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "films", Path(name) / "out"
        for number in range(count):
            path = folder / f"{number % 100:02}" / f"film{number:06}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
            if number % 10 == 0:
                path.with_suffix(".txt").write_text("a person speaks")
        first, jobs = timed(lambda: plan(folder, out))
        finish(jobs)
        second, again = timed(lambda: plan(folder, out))
        assert all(job.is_finished() for job in again)
        (folder / "00" / "a.mp4").write_bytes(b"x")
        one_more, more = timed(lambda: plan(folder, out))
        assert sum(not job.is_finished() for job in more) == 1
        for what, spent in (("first plan", first), ("second plan", second), ("one more", one_more)):
            share = spent * 100_000 / count
            missed += share > GOAL_S
            verdict = "met" if share <= GOAL_S else "MISSED"
            print(f"{what:12} {spent:7.1f} s of CPU for {count} sources")
            print(f"{'':12} {share:7.1f} s per 100,000, goal <= {GOAL_S:g}: {verdict}")
    spent = [closing_s(others) for others in SHARDS]
    for others, seconds in zip(SHARDS, spent, strict=True):
        print(f"{'shard':12} {1000 * seconds:7.1f} ms of CPU to close one beside {others} others")
    missed += spent[1] > 2 * spent[0]
    print(f"{SHARDS[1]} / {SHARDS[0]} others {spent[1] / spent[0]:.2f}, goal <= 2")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
