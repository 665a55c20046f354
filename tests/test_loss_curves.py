"""Every tiny experiment trains as it did: a stored loss curve of each, through train.py on a real face.

Bit for bit where torch, its CPU capability and the maker of the processor are those with which the curve was
stored; elsewhere kernels add up in another order, and TOLERANCE holds, 20 times what is off without AVX
(ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41). A change that means to change a
curve stores it anew, `python -m tests.loss_curves <experiment>`, and says why in its commit.
"""

import json
import math

import pytest

from tests.loss_curves import STORED, machine, measure_curve, stored, tiny_experiments

TOLERANCE = 1e-4
"""Relative."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("curves")


@pytest.mark.parametrize("experiment", tiny_experiments())
def test_the_losses_are_those_that_are_stored(experiment, talking_man, runs):
    command = f"python -m tests.loss_curves {experiment}"
    assert stored(experiment).exists(), f"no loss curve of {experiment} is stored yet: {command}"
    expected = json.loads(stored(experiment).read_text())
    shards = str(talking_man / "data/shards/train-*.tar")
    losses = measure_curve(experiment, shards=shards, runs=runs)
    assert all(math.isfinite(loss) for loss in losses)
    if expected["machine"] == machine():
        assert losses == expected["loss"], f"if that is meant: {command}"
    else:
        assert losses == pytest.approx(expected["loss"], rel=TOLERANCE), f"if that is meant: {command}"


def test_no_curve_is_of_an_experiment_that_is_gone():
    names = {str(path.relative_to(STORED).with_suffix("")) for path in STORED.rglob("*.json")}
    assert names <= set(tiny_experiments())
