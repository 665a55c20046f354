"""The same shards, byte for byte: whichever engine makes them, and whoever is killed meanwhile (kill -9)."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from portraitgen.media.decode import iter_frames
from portraitgen.media.encode import write_video

NUM_VIDEOS = 4
MOMENTS = [pytest.param(seed, marks=pytest.mark.slow if seed else ()) for seed in range(10)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory, carphone):
    """Short videos of the talking man."""
    folder = tmp_path_factory.mktemp("videos")
    man = [frame.image for frame in iter_frames(carphone) if frame.index < 40]
    for number in range(NUM_VIDEOS):
        write_video(folder / f"{number}.mp4", man[number * 6 : number * 6 + 14], fps=25)
    return folder


def command(repository, videos, out):
    words = [f"source={videos}", f"out={out}", "size=64", "fps=null", "videos_per_shard=1", "workers=2"]
    # Without embeddings no process has to load torch.
    return [sys.executable, str(repository / "prepare.py"), *words, "embed_every=0"]


@pytest.fixture
def start(repository, videos, tmp_path):
    """Starts `prepare.py` in a session of its own."""

    def start(out, *more):
        return subprocess.Popen(
            [*command(repository, videos, out), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            start_new_session=True,
        )

    return start


@pytest.fixture(scope="module")
def undisturbed(repository, videos, tmp_path_factory):
    """Digests of all files of a run that nobody killed, and the seconds from its first to its last shard."""
    out = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(repository, videos, out), check=True, capture_output=True)
    times = [path.stat().st_mtime for path in out.glob("manifests/*.json")]
    return digests(out), max(times) - min(times)


def digests(out):
    """Of all that has to be the same; a manifest also holds how long its shard took."""
    paths = [path for path in out.rglob("*") if path.is_file() and path.parent.name != "manifests"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def finish(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def wait_for_workers(process):
    """The worker processes, once the first of them has begun its work."""
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        workers = [each for each in parent.children() if "--multiprocessing-fork" in each.cmdline()]
        if workers and sum(each.cpu_times().user for each in workers) > 0.5:
            return workers
        time.sleep(0.01)
    raise AssertionError(process.communicate()[0])


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("ray", ["engine=ray", "engine.num_cpus=2"]),
        ("submitit", ["engine=slurm", "engine.cluster=local", "engine.array=2", "workers=0"]),
    ],
)
def test_every_engine_makes_the_same_shards(package, words, start, undisturbed, tmp_path):
    pytest.importorskip(package)
    out = tmp_path / "out"
    finish(start(out, *words))
    made = {name: digest for name, digest in digests(out).items() if not name.startswith("slurm/")}
    assert made == undisturbed[0]


@pytest.mark.parametrize("seed", MOMENTS)
def test_everything_is_killed_and_started_again(seed, start, undisturbed, tmp_path):
    expected, seconds = undisturbed
    chance = random.Random(seed)
    out = tmp_path / "out"
    first = start(out)
    wait_for_workers(first)
    time.sleep(chance.uniform(0, 1.2 * seconds))
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=60)
    kept = [out / f"shards/{path.stem}.tar" for path in sorted(out.glob("manifests/*.json"))]
    if kept:
        lost = kept.pop(chance.randrange(len(kept)))
        if seed % 2:
            lost.unlink()
        else:
            os.truncate(lost, chance.randrange(lost.stat().st_size))
    times = [path.stat().st_mtime_ns for path in kept]
    output = finish(start(out))
    assert digests(out) == expected
    assert f"into {NUM_VIDEOS - len(kept)} shard" in output
    assert [path.stat().st_mtime_ns for path in kept] == times, "a finished shard was made again"


@pytest.mark.parametrize("seed", MOMENTS)
def test_one_worker_is_killed_and_the_run_goes_on(seed, start, undisturbed, tmp_path):
    expected, seconds = undisturbed
    chance = random.Random(100 + seed)
    process = start(tmp_path / "out")
    workers = wait_for_workers(process)
    time.sleep(chance.uniform(0, seconds))
    for worker in chance.sample(workers, 1):
        if worker.is_running():
            worker.kill()
    output = finish(process)
    assert f"{NUM_VIDEOS} videos: {NUM_VIDEOS} clips" in output
    assert digests(tmp_path / "out") == expected
