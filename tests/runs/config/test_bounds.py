"""Numbers that cannot be are named before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from portraitgen.data.catalog import find_shards
from portraitgen.data.sample import DataError
from portraitgen.runs.config.bounds import generation_problems, sampling_problems
from portraitgen.runs.config.check import find_problems
from portraitgen.runs.config.rules import setting_problems
from portraitgen.runs.config.schema import CONF, register_configs


def composed(name: str, *overrides: str) -> Any:
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, [*overrides])


def training(*overrides: str) -> list[str]:
    config = composed("train", "experiment=aniportrait/tiny_stage2", "data.shards=a.tar", *overrides)
    return [*find_problems(config), *setting_problems(config)]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("seed=-1", "seed: -1, but it must be between 0 and"),
        ("data.num_workers=5000", "data.num_workers: 5000, but it must be between 0 and 256"),
        ("optimizer.lr=-1", "optimizer.lr: -1, but it must be 0 or more"),
        ("sampling.num_steps=2000", "sampling.num_steps: 2000, but it must be between 1 and 1000"),
        ("sampling.num_steps=0", "sampling.num_steps: 0, but it must be between 1 and 1000"),
        ("sampling.window_overlap=100", "sampling.window_overlap: 100, but windows have"),
        ("sampling.window_overlap=-1", "sampling.window_overlap: -1, but it must be 0 or more"),
        ("optimized_metric=val/los", "optimized_metric: val/los; no run logs this; did you mean 'val/loss'?"),
        ("~logger.csv optimized_metric=val/loss", "is read from metrics.csv, which logger=csv writes"),
        ("optimized_metric=5", "optimized_metric: [5]; name a figure, or two"),
        ("optimized_metric=loss", "figures begin with train/, val/, perf/ or grade/"),
    ],
)
def test_training(override: str, problem: str) -> None:
    """A misspelt optimized_metric failed after the whole training; 7 was used for an overlap of 100."""
    assert training("data.val_span=[0.75,1.0]") == []
    found = training("data.val_span=[0.75,1.0]", *override.split())
    assert len(found) == 1
    assert problem in found[0]


def test_a_figure_that_a_loss_may_log_is_not_guessed_at() -> None:
    assert training("data.val_span=[0.75,1.0]", "optimized_metric=train/identity_similarity") == []


def test_a_figure_of_validation_needs_one() -> None:
    (problem,) = training("data.val_span=null", "optimized_metric=val/loss")
    assert "there is no validation" in problem


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_no_number(value: str) -> None:
    assert f"optimizer.lr: {value} is not a finite number" in find_problems(
        composed("train", "experiment=aniportrait/tiny_stage2", "data.shards=a.tar", f"optimizer.lr={value}")
    )


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("seed=-1", "seed: -1"),
        ("fps=100000", "fps: 100000.0, but it must be between 0.001 and 240"),
        ("size=20000", "size: 20000, but it must be between 8 and 8192"),
        ("size=[64,20000]", "size: 20000"),
        ("num_samples=0", "num_samples: 0"),
        ("length=-3", "length: -3"),
    ],
)
def test_generation(override: str, problem: str) -> None:
    config: Any = OmegaConf.to_container(composed("generate", "out=x", override), resolve=True)
    (found,) = generation_problems(config)
    assert problem in found


def test_pictures_have_windows_of_one_frame() -> None:
    assert list(sampling_problems({"window_frames": 1, "window_overlap": 4}, "sampling")) == []


def test_a_range_of_shards_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="stands for more than 1,000,000 shards"):
        find_shards(f"{tmp_path}/train-{{0..99999999999}}.tar")
