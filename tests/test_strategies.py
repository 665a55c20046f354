"""Every system under every strategy: two processes (gloo) train to the losses of one, and export its weights.

One process takes the same global batch with the same random numbers (`tests.strategy_run`). Losses
and norms of gradients agree to 1e-5 of their size (losses of validation are of averaged weights), exported
weights, which are averaged, to 1e-5, pictures that they draw to 2 of 255: sums over processes round otherwise
than sums over batches.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from portraitgen.data.shards import ShardWriter
from tests.strategy_run import run
from tests.synthetic import synthetic_clip
from tests.systems.flux_identity.tiny import write_pairs
from tests.systems.uniportrait.tiny import write_photos

# Of each test; those of a busy machine have taken five minutes.
pytestmark = pytest.mark.timeout(1800)

STEPS = 3
VALIDATE_EVERY = 2  # steps
ANEW = "aniportrait/tiny_stage1"
"""Its processes are started anew; those of the others are forked from one that has imported everything."""
COMMON = [
    *("data.batch_size=1", "data.samples_per_epoch=4", "data.num_workers=0", "data.val_samples=2"),
    *("trainer.log_every_n_steps=1", f"trainer.val_check_interval={VALIDATE_EVERY}"),
    *("sampling.num_steps=1", f"callbacks.samples.every_steps={VALIDATE_EVERY}"),
    *("callbacks.ema.decay=0.9", "++stage.init_from=null"),
    # Gradients that are rounding errors alone would be scaled up to whole steps.
    "optimizer.eps=1.0e-4",
]
SYSTEMS = {
    "aniportrait/tiny_stage1": [],
    "aniportrait/tiny_stage2": [],
    "consisid/tiny_identity": [],
    "consisid/tiny_wan": [],
    "flux_identity/tiny_klein": [
        "losses=none",
        "~losses.identity",
        "optimizer=adamw",
        "optimizer.lr=1.0e-3",
        "~optimizer.d0",
    ],
    "loopy/tiny_stage2": [],
    # Hard routing flips between near ties by a rounding error.
    "uniportrait/tiny_stage2": [
        "model.network.router.hard=false",
        "stage.expect_missing=[]",
        "stage.init_copies={}",
    ],
}
CASES = [
    *(
        (strategy, each)
        for strategy in ("ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3")
        for each in SYSTEMS
    ),
    *(("deepspeed_zero1", each) for each in ("aniportrait/tiny_stage1", "consisid/tiny_identity")),
]


@pytest.fixture(scope="session")
def data(tmp_path_factory, talking_man):
    """System → pattern of shards."""
    root = tmp_path_factory.mktemp("data")
    with ShardWriter(root / "clips", "train", max_samples=2) as writer:
        for seed in range(4):
            writer.write(synthetic_clip(f"face{seed}", num_frames=24, size=64, seed=seed))
    clips = str(root / "clips/shards/train-*.tar")
    return {
        "aniportrait": clips,
        "consisid": clips,
        "flux_identity": write_pairs(root / "pairs"),
        "loopy": str(talking_man / "data/shards/train-*.tar"),
        "uniportrait": write_photos(root / "photos", people=2),
    }


@pytest.fixture
def alone(data, made_once):
    """Experiment → its run in one process, which is made when it is first asked for."""

    def run_alone(experiment: str) -> Path:
        both = ["trainer.accumulate_grad_batches=2", f"trainer.val_check_interval={2 * VALIDATE_EVERY}"]

        def make(folder: Path) -> None:
            run(words(experiment, data, folder, *both), folder / "said", processes=1, as_ranks=2)

        return made_once(f"alone-{experiment.replace('/', '-')}", make) / experiment

    return run_alone


def words(experiment: str, data: dict[str, str], runs: Path, *more: str, steps: int = STEPS) -> list[str]:
    shards = data[experiment.partition("/")[0]]
    where = [f"experiment={experiment}", f"data.shards={shards}", f"paths.runs={runs}"]
    return [*where, *SYSTEMS[experiment], *COMMON, f"trainer.max_steps={steps}", *more]


def logged(run: Path, name: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "experiment"), CASES)
def test_two_processes_train_as_one(strategy, experiment, alone, data, tmp_path):
    """Two stop after the first step, and two go on."""
    if strategy.startswith("deepspeed"):
        pytest.importorskip("deepspeed")
    one, two = alone(experiment), tmp_path / experiment
    for steps in (1, STEPS):
        given = words(experiment, data, tmp_path, f"strategy={strategy}", steps=steps)
        run(given, tmp_path / "said", processes=2, method="spawn" if experiment == ANEW else "forkserver")
    starts = json.loads((two / "versions.json").read_text())
    assert [start["from_step"] for start in starts] == [0, 1]
    for name, count in (
        ("train/loss", STEPS),
        ("train/grad_norm", STEPS),
        ("val/loss", STEPS // VALIDATE_EVERY),
    ):
        assert len(logged(one, name)) == count
        assert logged(two, name) == pytest.approx(logged(one, name), rel=1e-5), name
    exported = [load_file(folder / "weights/last.safetensors") for folder in (one, two)]
    assert exported[0].keys() == exported[1].keys()
    torch.testing.assert_close(*exported, atol=1e-5, rtol=1e-5)
    drawn = [np.asarray(Image.open(folder / f"samples/step_{STEPS:08d}.png")) for folder in (one, two)]
    np.testing.assert_allclose(*(picture.astype(float) for picture in drawn), atol=2)
    said = (tmp_path / "said/rank0.txt").read_text()
    assert "lightning" not in said, "a warning that nobody can act on"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["deepspeed_zero2", "deepspeed_zero3"])
def test_zero_with_offload_in_mixed_precision(strategy, data, tmp_path):
    """The optimizer's state in the machine's memory; bfloat16 by autocast, as DDP has it, to 1 % of it."""
    pytest.importorskip("deepspeed")
    experiment = "aniportrait/tiny_stage1"
    mixed = ["trainer.precision=bf16-mixed"]
    offload = [f"strategy={strategy}", "strategy.offload_optimizer=true", *mixed]
    for name, given in (("ddp", ["strategy=ddp", *mixed]), ("zero", offload)):
        folder = tmp_path / name
        run(words(experiment, data, folder, *given), folder / "said", processes=2)
    losses = [logged(tmp_path / name / experiment, "train/loss") for name in ("ddp", "zero")]
    assert len(losses[0]) == STEPS
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
