"""Whole jobs on a real SLURM: `make test-slurm`. What comes out is compared with runs that no SLURM saw."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from portraitgen.data.shards import ShardWriter
from tests.slurm.cluster import Cluster
from tests.synthetic import synthetic_clip
from tests.test_resume import assert_equal_runs, saved

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

STEPS = 24
RUN = "aniportrait/tiny_stage1"
TWO_TASKS = ("--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-gpu=1")
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-gpu=1")
ONE_TASK = ("--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-gpu=1")
# Pictures at every step, which leave a moment to interrupt a run and must not touch what it learns.
DRAWN = ("callbacks.samples.every_steps=1", "callbacks.samples.num_clips=4")
UNHURRIED, SLOW = (*DRAWN, "sampling.num_steps=8"), (*DRAWN, "sampling.num_steps=40")


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


def test_a_name_that_nobody_knows_ends_the_job_in_one_line(submit):
    job = submit(*TWO_TASKS, "--export=ALL,MASTER_ADDR=no-such-node")
    assert job.end()["JobState"] == "FAILED"
    errors = [line for line in job.says().splitlines() if line.startswith("error:")]
    assert len(errors) == 1, job.says()
    assert "MASTER_ADDR no-such-node" in errors[0]
    assert "Traceback" not in job.says()
