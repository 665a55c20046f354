"""Signs that a run goes wrong: the norm of the gradient in the log, and advice when memory runs out."""

import logging

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from portraitgen.training.run_log import log_metrics
from portraitgen.training.trainer_state import is_due, positive
from portraitgen.training.zero import Zero

log = logging.getLogger(__name__)

_MEMORY_ADVICE = """The GPU's memory ran out. What helps, the cheapest first:
  trainer.precision=bf16-mixed        halves the activations
  model.gradient_checkpointing=true   keeps few activations and computes the others twice: about 30 % slower
  data.batch_size                     smaller, with trainer.accumulate_grad_batches larger by the same factor
  data.examples.clip_frames           fewer frames a clip
  strategy=deepspeed_zero2            spreads gradients and optimizer state over the GPUs"""


class Health(Callback):
    """Logs `train/grad_norm`, before clipping, and says what to change when the GPU's memory runs out.

    Args:
        every_steps: optimizer steps between two logs; as `LossLog`'s, so that both go into one row.
    """

    def __init__(self, every_steps: int) -> None:
        self.every_steps = positive("callbacks.health.every_steps", every_steps)
        self._grad_norm: Tensor | None = None

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if isinstance(trainer.strategy, Zero):
            return  # its engine has taken the gradients, and knows their norm behind the step
        # The step is counted after this hook.
        if (trainer.global_step + 1) % self.every_steps == 0:
            gradients = [
                p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
            ]
            self._grad_norm = get_total_norm(gradients)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not is_due(trainer, self.every_steps):
            return
        if isinstance(trainer.strategy, Zero):
            self._grad_norm = trainer.strategy.gradient_norm()
        if self._grad_norm is not None:
            log_metrics(trainer, {"train/grad_norm": self._grad_norm.item()})
            self._grad_norm = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, torch.OutOfMemoryError):
            summary = torch.cuda.memory_summary(abbreviated=True) if torch.cuda.is_initialized() else ""
            log.error("%s\n%s", summary, _MEMORY_ADVICE)
