"""Whole jobs on a real SLURM: `make test-slurm`. What comes out is compared with runs that no SLURM saw."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from portraitgen.data.shards import ShardWriter
from tests.slurm.cluster import Cluster
from tests.synthetic import synthetic_clip
from tests.talking_clip import write_talking_clip
from tests.test_resume import assert_equal_runs, saved

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

STEPS = 24
RUN = "aniportrait/tiny_stage1"
TWO_TASKS = ("--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-gpu=1")
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-gpu=1")
ONE_TASK = ("--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-gpu=1")
# Pictures at every step, which leave a moment to interrupt a run and must not touch what it learns.
DRAWN = ("callbacks.samples.every_steps=1", "callbacks.samples.num_clips=4")
UNHURRIED, SLOW = (*DRAWN, "sampling.num_steps=4"), (*DRAWN, "sampling.num_steps=40")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    # The nodes have names that no name service knows.
    cluster.environment |= {
        "MASTER_ADDR": "127.0.0.1",
        "PORTRAITGEN_VENV": sys.prefix,
        "OMP_NUM_THREADS": "1",
    }
    cluster.environment |= {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    with ShardWriter(root, "train", max_samples=2) as writer:
        for seed in range(4):
            writer.write(synthetic_clip(f"face{seed}", num_frames=24, size=64, seed=seed))
    return root / "shards" / "train-*.tar"


@pytest.fixture(scope="module")
def whole(cluster, repository, shards, tmp_path_factory) -> Path:
    """The run of two processes that nobody interrupts, without SLURM."""
    runs = tmp_path_factory.mktemp("whole")
    words = [*settings(shards, runs), "strategy=ddp", "trainer.devices=2"]
    cluster.call(sys.executable, "train.py", *words, folder=repository)
    return runs / RUN


def settings(shards: Path, runs: Path) -> list[str]:
    return [
        *(f"experiment={RUN}", f"data.shards={shards}", f"paths.runs={runs}", "trainer.accelerator=cpu"),
        *(f"trainer.max_steps={STEPS}", "data.batch_size=1", "data.val_samples=1", "sampling.num_steps=1"),
        *("callbacks.last_checkpoint.every_steps=100", "+callbacks.preemption.agree_every_steps=2"),
    ]


class Job:
    """A job of train.sbatch that writes its runs and its log into a folder."""

    def __init__(self, cluster: Cluster, repository: Path, shards: Path, folder: Path, *words: str) -> None:
        self.cluster, self.log, self.run = cluster, folder / "job.log", folder / RUN
        options = [word for word in words if word.startswith("--")]
        others = [word for word in words if not word.startswith("--")]
        script = "experiments/slurm/train.sbatch"
        self.number = cluster.call(
            *("sbatch", "--parsable", f"--output={self.log}", *options, script),
            *(*settings(shards, folder), *others),
            folder=repository,
        ).strip()

    def says(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def until(self, said: str) -> None:
        self.cluster.until(lambda: said in self.says(), seconds=180, what=f"{said!r} in {self.log}")

    def end(self) -> dict[str, str]:
        return self.cluster.wait(self.number, seconds=600)


@pytest.fixture
def submit(cluster, repository, shards, tmp_path):
    return lambda *words: Job(cluster, repository, shards, tmp_path, *words)


@pytest.mark.parametrize("places", [TWO_TASKS, TWO_NODES], ids=["two tasks", "two nodes"])
def test_tasks_train_as_the_ranks_of_one_run(submit, whole, places):
    job = submit(*places)
    facts = job.end()
    assert facts["JobState"] == "COMPLETED", job.says()
    assert {path.name for path in job.run.glob("train.rank*.log")} == {"train.rank0.log", "train.rank1.log"}
    assert_equal_runs(whole, job.run)


def test_a_job_at_its_time_limit_comes_back_and_ends_with_the_same_bits(cluster, submit, whole):
    job = submit(*TWO_TASKS, "--time=20", "--signal=SIGUSR1@20", *SLOW)
    job.until(f"step 2/{STEPS}")
    hours, minutes, seconds = map(int, cluster.facts(job.number)["RunTime"].split(":"))
    limit = math.ceil((3600 * hours + 60 * minutes + seconds + 30) / 60)
    cluster.call("scontrol", "update", f"JobId={job.number}", f"TimeLimit={limit}")
    job.until("stopped by SIGUSR1 at step")
    cluster.call("scontrol", "update", f"JobId={job.number}", "TimeLimit=20")
    facts = job.end()
    assert facts["JobState"] == "COMPLETED", job.says()
    assert int(facts["Restarts"]) >= 1
    assert f"job {job.number} is in the queue again" in job.says()
    assert "resuming from" in job.says()
    assert_equal_runs(whole, job.run)


def test_scontrol_requeue_saves_and_ends_with_the_same_bits(cluster, submit, whole):
    job = submit(*TWO_TASKS, *UNHURRIED)
    job.until(f"step 2/{STEPS}")
    cluster.call("scontrol", "requeue", job.number)
    facts = job.end()
    assert facts["JobState"] == "COMPLETED", job.says()
    assert "stopped by SIGTERM at step" in job.says()
    assert f"job {job.number} is in the queue again" in job.says()
    assert "submit it again" not in job.says()
    assert_equal_runs(whole, job.run)


def test_scancel_saves_and_the_job_stays_away(cluster, submit, whole):
    job = submit(*TWO_TASKS, *UNHURRIED)
    job.until(f"step 2/{STEPS}")
    cluster.call("scancel", job.number)
    facts = job.end()
    assert facts["JobState"] == "CANCELLED"
    assert facts["Restarts"] == "0"
    assert "stopped by SIGTERM at step" in job.says()
    assert "queue again" not in job.says()
    assert 2 <= saved(job.run)["global_step"] < STEPS
    again = submit(*TWO_TASKS)
    assert again.end()["JobState"] == "COMPLETED", again.says()
    assert "resuming from" in again.says()
    assert_equal_runs(whole, job.run)


def test_the_job_of_a_node_that_goes_down_ends_on_another_with_the_same_bits(cluster, submit, whole):
    """Its slurmd and all that it runs are killed at once, as when a machine loses its power."""
    job = submit(*TWO_TASKS, *UNHURRIED, "callbacks.last_checkpoint.every_steps=2")
    job.until(f"step 4/{STEPS}")
    node = cluster.facts(job.number)["NodeList"]
    cluster.take_away(node)
    try:
        cluster.until(
            lambda: cluster.facts(job.number)["Restarts"] == "1", seconds=120, what=f"{job.number} put back"
        )
        facts = job.end()
        assert facts["JobState"] == "COMPLETED", job.says()
        assert facts["NodeList"] != node
    finally:
        cluster.bring_back(node)
    assert "resuming from" in job.says()
    assert_equal_runs(whole, job.run)


def test_fewer_tasks_go_on_behind_the_last_sample(submit):
    """Of the epochs of 6 samples none is seen twice or left out: two tasks of one, then one task of two."""
    assert submit(*TWO_TASKS, "trainer.max_steps=4").end()["JobState"] == "COMPLETED"
    words = (*ONE_TASK, "trainer.max_steps=9")
    refused = submit(*words)
    assert refused.end()["JobState"] == "FAILED"
    assert "2 process(es)" in refused.says()
    job = submit(*words, "data.batch_size=2", "allow_config_change=true")
    assert job.end()["JobState"] == "COMPLETED", job.says()
    (loader,) = saved(job.run)["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert loader == {"epoch": 2, "batches": 3, "samples": 2, "position": 18}
    words = (*TWO_TASKS, "trainer.max_steps=11", "data.batch_size=3", "data.samples_per_epoch=12")
    job = submit(*words, "allow_config_change=true")
    assert job.end()["JobState"] == "COMPLETED", job.says()
    (loader,) = saved(job.run)["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert (loader["samples"], loader["position"]) == (6, 18 + 2 * 6)


def test_a_sweep_goes_on_without_the_trial_that_failed(cluster, repository, shards, tmp_path):
    """Each trial is a job; the table tells which failed, and the command fails."""
    words = [*settings(shards, tmp_path), "trainer=slurm", "trainer.accelerator=cpu", "trainer.max_steps=3"]
    launcher = [
        "tasks_per_node=1",
        "gpus_per_node=1",
        "cpus_per_gpu=1",
        "timeout_min=20",
        "signal_delay_s=30",
    ]
    done = subprocess.run(
        [
            *(sys.executable, str(repository / "train.py"), "-m", "hydra/launcher=slurm_a100"),
            *(f"hydra.launcher.{setting}" for setting in launcher),
            *(*words, "optimizer.lr=0.001,1e+30,0.002"),
        ],
        cwd=tmp_path,
        env=os.environ | cluster.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    table = [line for line in done.stderr.splitlines() if line.startswith(f"{RUN}/")]
    states = {re.search(r"optimizer\.lr=([^,\s]+)", line)[1]: line.split()[-1] for line in table}
    assert states == {"0.001": "ended", "1e+30": "failed", "0.002": "ended"}, done.stderr
    for rate in ("0.001", "0.002"):
        (last,) = tmp_path.glob(f"sweeps/**/*optimizer.lr={rate},*/checkpoints/last.ckpt")
        assert saved(last.parents[1])["global_step"] == 3


@pytest.fixture
def checkout(repository, tmp_path) -> Path:
    """A commit of what lies in the working tree, for submit.sh."""
    root = tmp_path / "checkout"
    git = ["git", "-C", str(repository), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(git, text=True).split("\0"):
        if name and (repository / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repository / name, root / name)
    (root / ".git/info").mkdir(parents=True)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "as it lies there"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    return root


def test_the_chain_from_a_video_to_figures(cluster, checkout, tmp_path):
    """prepare → stage 1 → stage 2 → generate, in an array of two → evaluate, each after the one before."""
    clip = write_talking_clip(tmp_path / "talk.mp4")
    tiny = ["trainer.max_steps=2", "data.val_samples=1", "sampling.num_steps=1", "trainer.accelerator=cpu"]
    said = cluster.call(
        *("experiments/slurm/chain.sh", *ONE_TASK, str(clip), str(tmp_path / "talk")),
        *("aniportrait/tiny_stage1,aniportrait/tiny_stage2", *tiny),
        folder=checkout,
        PREPARE="size=64 workers=1 max_frames=40",
        SHARES="2",
        GENERATE="sampling.num_steps=1 span=[0.75,0.85]",
        EVALUATE="metrics=identity metrics.checks=[]",
        PYTHONPATH="",
    )
    jobs = dict(reversed(line.split()) for line in said.splitlines())
    assert [*jobs] == [
        *("prepare", "aniportrait/tiny_stage1", "aniportrait/tiny_stage2", "generate", "evaluate")
    ]
    for name, job in jobs.items():
        facts = cluster.wait(job, seconds=600)
        log = "".join(path.read_text() for path in checkout.glob(f"slurm-{job}*.log"))
        assert facts["JobState"] == "COMPLETED", f"{name}: {log}"
    generated = checkout / "runs/aniportrait/tiny_stage2/generated"
    shares = [len(path.read_text().splitlines()) for path in sorted(generated.glob("share-*/samples.jsonl"))]
    assert len(shares) == 2
    results = json.loads((generated / "report/results.json").read_text())
    assert len(results["protocol"]["videos"]) == sum(shares)
    versions = json.loads((checkout / "runs/aniportrait/tiny_stage1/versions.json").read_text())
    assert versions[0]["dirty"] is False


def test_an_array_prepares_the_shards_that_one_machine_prepares(cluster, repository, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(2):
        write_talking_clip(videos / f"talk{number}.mp4")
    words = [f"source={videos}", "size=64", "videos_per_shard=1", "embed_every=0", "workers=1"]
    for out, engine in (("here", []), ("array", ["engine=slurm", "engine.array=2"])):
        command = [sys.executable, str(repository / "prepare.py"), *words, f"out={tmp_path / out}", *engine]
        cluster.call(*command, folder=tmp_path)
    here, array = (sorted((tmp_path / out / "shards").glob("*.tar")) for out in ("here", "array"))
    assert [path.read_bytes() for path in here] == [path.read_bytes() for path in array]
    assert len(here) == 2


def test_a_name_that_nobody_knows_ends_the_job_in_one_line(submit):
    job = submit(*TWO_TASKS, "--export=ALL,MASTER_ADDR=no-such-node")
    assert job.end()["JobState"] == "FAILED"
    errors = [line for line in job.says().splitlines() if line.startswith("error:")]
    assert len(errors) == 1, job.says()
    assert "MASTER_ADDR no-such-node" in errors[0]
    assert "Traceback" not in job.says()
