"""Stop in good order when the cluster takes the machine back: save, put the job in the queue again, leave."""

import logging
import os
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from portraitgen.training.checkpoint import LastCheckpoint
from portraitgen.training.trainer_state import find_callback, optimizer_stepped, positive

log = logging.getLogger(__name__)

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h, "try again later": not 0, so that a stage that waits for this run to succeed
(`sbatch --dependency=afterok`) does not start from half-trained weights."""


class Preempted(SystemExit):
    """Training stopped on a signal, with its checkpoint written; leaves the process with EXIT_CODE."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class Preemption(Checkpoint):
    """Saves `last.ckpt` after the step in which a signal arrives, requeues a SLURM job and raises Preempted.

    The signal handler only sets a flag, because a signal may arrive in the middle of anything. Whatever
    handler was there before is called after the checkpoint is written. Lightning's own for SIGTERM is
    replaced: it broadcasts from within the handler, and ends training before a checkpoint is written.

    A signal may reach one rank only, or the ranks in different steps, while all must save the same step. So
    with more than one process the ranks compare their flags, at most every `agree_every_steps` steps: each
    time they must wait for each other and for the GPU. That many steps have to fit into the time between
    signal and kill.

    Args:
        signals: names of the signals. SLURM sends the one of `--signal`, submitit SIGUSR2, `scancel` SIGTERM.
        requeue: in a SLURM job, call `scontrol requeue` after saving. Set it to false where someone else
            does, as submitit.
        agree_every_steps: optimizer steps.

    Raises:
        ValueError: unknown signal; or at the start, no LastCheckpoint among the callbacks.
    """

    def __init__(
        self,
        *,
        signals: Sequence[str] = ("SIGUSR1", "SIGUSR2", "SIGTERM"),
        requeue: bool = True,
        agree_every_steps: int = 10,
    ) -> None:
        unknown = [name for name in signals if name not in signal.Signals.__members__]
        if unknown:
            raise ValueError(f"callbacks.preemption.signals: no signal {', '.join(unknown)} on this system")
        self.signals = [signal.Signals[name] for name in signals]
        self.requeue = requeue
        self.agree_every_steps = positive("callbacks.preemption.agree_every_steps", agree_every_steps)
        self._received: tuple[int, FrameType | None] | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._replaced: dict[signal.Signals, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if find_callback(trainer, LastCheckpoint) is None:
            raise ValueError(
                "callbacks.preemption saves through callbacks.last_checkpoint, which is not there"
            )
        # Before Lightning puts its own in place, which it does between here and on_train_start.
        self._before = {number: signal.getsignal(number) for number in self.signals}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._replaced = {number: signal.signal(number, self._remember) for number in self.signals}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not optimizer_stepped(trainer):
            return
        if trainer.world_size > 1 and trainer.global_step % self.agree_every_steps:
            return
        if trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            self._leave(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._uninstall()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._uninstall()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._received = number, frame

    def _uninstall(self) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, handler)
        self._replaced = {}

    def _leave(self, trainer: Trainer) -> None:
        last_checkpoint = find_callback(trainer, LastCheckpoint)
        assert last_checkpoint is not None
        last_checkpoint.save(trainer)
        log.warning("stopped by a signal at step %d, saved %s", trainer.global_step, last_checkpoint.path)
        if self.requeue and trainer.is_global_zero:
            requeue_slurm_job()
        # A rank that left before the job was requeued would, under srun --kill-on-bad-exit, end the others.
        trainer.strategy.barrier("preempted")
        if self._received is not None:
            number, frame = self._received
            handler = self._before[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)
        raise Preempted


def requeue_slurm_job() -> None:
    """Have SLURM run this job again; does nothing outside a SLURM job, and only logs when SLURM refuses."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        log.warning("job %s is in the queue again", job)
    except (OSError, subprocess.CalledProcessError) as error:
        log.error("could not requeue job %s, submit it again to go on: %s", job, error)
