"""Names and ranks as configurations use them."""

import pytest

from portraitgen.runs.config.schema import folder_name, process_rank


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
