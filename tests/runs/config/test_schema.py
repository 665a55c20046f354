"""Names and ranks as configurations use them."""

import pickle

import pytest
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.singleton import Singleton

from portraitgen.runs.config.schema import folder_name, process_rank, register_configs
from portraitgen.runs.config.yaml_files import CheckedFileSource


def test_folder_names_lead_nowhere_else():
    assert folder_name("optimizer.lr=1e-5,seed=0") == "optimizer.lr=1e-5,seed=0"
    assert "/" not in folder_name("stage.init_from=../../etc/passwd")
    assert folder_name("a=[1,2] 'x'") == "a=-1,2-x-"


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"SLURM_PROCID": "9"}, 9),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, 1),  # Lightning's processes inside an interactive job
        ({"RANK": "5", "LOCAL_RANK": "1"}, 5),  # torchrun
    ],
)
def test_the_rank_is_the_launchers(monkeypatch, environment, rank):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert process_rank() == rank


def test_hydra_as_it_is_here_can_be_set_up_in_the_job_of_a_trial():
    """Every trial of a sweep of submitit jobs failed: "file is already registered with a different class"."""
    cloudpickle = pytest.importorskip("cloudpickle", reason="needs the extra slurm")
    register_configs()
    here = dict(Singleton._instances)
    try:
        there = pickle.loads(cloudpickle.dumps(Singleton.get_state()))  # as submitit writes and reads a job
        Singleton.set_state(there)
        assert SourcesRegistry.instance().resolve("file") is CheckedFileSource
    finally:
        Singleton._instances = here
