"""Metrics over sets: two processes with unequal shares give what one gives."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from portraitgen.metrics.frechet import FrechetDistance
from portraitgen.metrics.graders.feature_sets import FeatureSets
from portraitgen.metrics.kernel_distance import KernelDistance

SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[4])
from test_two_processes import figures
rank, store, data = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
inputs = torch.load(data, weights_only=True)
for shares in ((slice(0, 11), slice(11, None)), (slice(0), slice(None))):
    mine = {name: values[shares[rank]] for name, values in inputs.items()}
    print(*map(repr, figures(mine, batch=4)))
torch.distributed.destroy_process_group()
"""


def figures(inputs: dict[str, torch.Tensor], batch: int) -> list[float]:
    frechet = FrechetDistance(torch.nn.Identity(), num_features=8)
    kernel = KernelDistance(torch.nn.Identity(), num_features=8, subsets=10, subset_size=20)
    for metric in (frechet, kernel):
        for real, name in ((True, "real"), (False, "generated")):
            for chunk in inputs[name].split(batch):
                if len(chunk):
                    metric.update(chunk, real=real)
    sets = FeatureSets(8, kernel_subset=20)
    for real, generated in zip(inputs["real"].split(batch), inputs["generated"].split(batch), strict=False):
        sets.add("generated", generated, real, missing=1)
    gathered = sets.compute("generated").values()
    return [
        *(float(x) for x in (frechet.compute(), *kernel.compute().values())),
        *(figure.num_samples for figure in gathered),
    ]


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "real": torch.randn(60, 8, generator=generator) * 2 + 1,
        "generated": torch.randn(45, 8, generator=generator),
    }


def test_unequal_shares_and_an_empty_one_on_two_processes(inputs, tmp_path):
    torch.save(inputs, tmp_path / "inputs.pt")
    arguments = [str(tmp_path / "store"), str(tmp_path / "inputs.pt"), os.path.dirname(__file__)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    printed = [worker.communicate(timeout=240)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert printed[0] == printed[1]
    expected = figures(inputs, batch=60)
    found = [[float(value) for value in line.split()] for line in printed[0].splitlines()]
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-10, err_msg="unequal shares, or none")
