"""Advice when memory runs out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.training import toy


def test_memory_that_runs_out_gives_advice_and_stays_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(Callback):
        def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        toy.train(tmp_path, callbacks=[Full()])
    assert "data.batch_size" in caplog.text
    assert "strategy=deepspeed_zero2" in caplog.text
