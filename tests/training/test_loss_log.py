"""The logged loss, and runs whose loss is no number."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from portraitgen.losses.loss import ForwardPass, Loss, LossValue
from portraitgen.losses.mean import Mean
from portraitgen.training.loss_log import LossLog, NonFiniteLossError
from tests.training import toy


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("train/loss")]


def test_the_mean_over_all_batches_since_the_last_time_is_logged(tmp_path: Path) -> None:
    class Keep(Callback):
        def __init__(self) -> None:
            self.losses: list[float] = []

        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any
        ) -> None:
            self.losses.append(outputs["losses"]["loss"].item())

    keep = Keep()
    toy.train(tmp_path, callbacks=[keep], accumulate=2, trainer={"max_steps": 5})
    assert len(keep.losses) == 9  # the last batch of an epoch of 7 makes a step alone
    logged = rows(tmp_path)
    assert [row["step"] for row in logged] == ["3", "5"]
    assert float(logged[0]["train/loss"]) == pytest.approx(sum(keep.losses[:6]) / 6)
    assert float(logged[1]["train/loss"]) == pytest.approx(sum(keep.losses[6:]) / 3)
    assert float(logged[0]["train/lr"]) == pytest.approx(1e-3)
    assert float(logged[0]["train/grad_norm"]) > 0
    assert 0 <= float(logged[1]["perf/data_wait"]) < 1
    assert float(logged[1]["perf/frames_per_s"]) == pytest.approx(2 * float(logged[1]["perf/samples_per_s"]))


class BreaksAt(Loss):
    """The loss of one batch is no number."""

    def __init__(self, key: str) -> None:
        super().__init__(weight=1.0)
        self.key = key

    def forward(self, seen: ForwardPass) -> LossValue:
        factor = float("nan") if self.key in seen.batch["key"] else 0.0
        return LossValue(Mean.over(seen.prediction * factor))


@pytest.mark.parametrize(("save_every", "saved"), [(2, 4), (100, None)])
def test_a_loss_that_is_no_number_ends_the_run_and_is_in_no_checkpoint(
    tmp_path: Path, save_every: int, saved: int | None
) -> None:
    generator = toy.make_generator()
    generator.use_losses({"strange": BreaksAt("clip-000000009")})
    with pytest.raises(NonFiniteLossError) as caught:
        toy.train(
            tmp_path, generator=generator, every_steps=9, save_every=save_every, trainer={"max_steps": 20}
        )
    message = str(caught.value)
    assert "not finite at step 5 " in message
    assert "loss_strange nan" in message
    assert "samples clip-000000008, clip-000000009" in message

    last = tmp_path / "checkpoints/last.ckpt"
    assert last.exists() is (saved is not None)
    if saved is not None:
        checkpoint = torch.load(last, weights_only=True)
        assert checkpoint["global_step"] == saved
        assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())


def test_a_rank_stops_too_when_the_loss_broke_on_another_one() -> None:
    log = LossLog(10)
    strategy = SimpleNamespace(reduce=lambda losses, reduce_op: losses + float("inf"))
    trainer = SimpleNamespace(
        strategy=strategy,
        global_step=3,
        accumulate_grad_batches=2,
        is_last_batch=False,
        fit_loop=SimpleNamespace(batch_idx=0),
    )
    log.on_train_batch_end(
        trainer, None, {"losses": {"loss": torch.tensor(1.0)}, "figures": {}}, {"key": ["a"]}, 0
    )
    with pytest.raises(NonFiniteLossError, match=r"step 3 \(loss 1\.0; another rank\)"):
        log.on_save_checkpoint(trainer, None, {})
