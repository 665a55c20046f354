"""Stop in good order when asked to: finish the step, save, leave; come back if it was the cluster that asked.

time limit (SIGUSR1, SIGUSR2)   the job goes into the queue again
preemption (SIGTERM)            so it does: SLURM says that it takes the machine back
scancel (SIGTERM)               the run ends
Ctrl-C (SIGINT)                 the run ends; a second one stops at once
"""

import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from types import FrameType
from typing import Any, Literal, NoReturn

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from portraitgen.training.checkpoint import LastCheckpoint
from portraitgen.training.slurm import is_preempted, requeue_slurm_job, starts_again_by_itself
from portraitgen.training.trainer_state import find_callback, is_last_step, optimizer_stepped, positive

log = logging.getLogger(__name__)

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h, "try again later": not 0, so that a stage that waits for this run to succeed
(`sbatch --dependency=afterok`) does not start from half-trained weights."""

INTERRUPTED = 130
"""What shells give a program that Ctrl-C ended."""

_OTHERS_WAIT_S = 60


class Preempted(SystemExit):
    """Training stopped on a signal, with its checkpoint written; leaves the process with EXIT_CODE."""

    def __init__(self, code: int = EXIT_CODE) -> None:
        super().__init__(code)


class _ValidationAbandoned(Preempted):
    """As Preempted; the checkpoint is written on the way out, once averaged weights are put back."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(INTERRUPTED if number == signal.SIGINT else EXIT_CODE)
        self.number = number


class Preemption(Checkpoint):
    """Saves `last.ckpt` after the step in which a signal arrives, requeues a SLURM job and raises Preempted.

    A validation, which may take longer than SLURM waits, is abandoned after the batch in which the signal
    arrives, and due again when the run goes on; only that of the last step, behind which nothing can be lost,
    is not. What else takes long at the end of a step, such as grading clips, may ask whether to leave it for
    the start of the resumed run (`asked_amid_step`).

    The signal handler only sets a flag, because a signal may arrive in the middle of anything. Whatever
    handler was there before is called after the checkpoint is written. Lightning's own for SIGTERM is
    replaced: it broadcasts from within the handler, and ends training before a checkpoint is written.
    Before the first step there is nothing to save, and the run leaves at once; after the last one, and while
    it leaves, signals change nothing any more: a finished run is finished.

    A signal may reach one rank only, or the ranks in different steps, while all must save the same step. So
    with more than one process the ranks compare their flags: each time they must wait for each other and for
    the GPU, so they do it every `agree_every_steps` steps, or more often where steps are long.

    Args:
        signals: names of the signals. SLURM sends the one of `--signal`, submitit SIGUSR2, `scancel` SIGTERM.
        requeue: in a SLURM job that is to come back, call `scontrol requeue` after saving; submitit does that
            itself for its jobs.
        agree_every_steps: optimizer steps, or batches of a validation, at most …
        agree_every_s: … and seconds at most, as the slowest rank's last ones tell. They have to fit into the
            time between signal and kill.

    Raises:
        ValueError: unknown signal; or at the start, no LastCheckpoint among the callbacks.
    """

    def __init__(
        self,
        *,
        signals: Sequence[str] = ("SIGUSR1", "SIGUSR2", "SIGTERM", "SIGINT"),
        requeue: bool = True,
        agree_every_steps: int = 10,
        agree_every_s: float = 15.0,
    ) -> None:
        unknown = [name for name in signals if name not in signal.Signals.__members__]
        if unknown:
            raise ValueError(f"callbacks.preemption.signals: no signal {', '.join(unknown)} on this system")
        self.signals = [signal.Signals[name] for name in signals]
        self.requeue = requeue
        self.agree_every_steps = positive("callbacks.preemption.agree_every_steps", agree_every_steps)
        self.agree_every_s = agree_every_s
        self._phase: Literal["off", "starting", "training", "over"] = "off"
        self._alone = False
        self._process = 0
        self._received: tuple[int, FrameType | None] | None = None
        self._leaving = 0
        self._before: dict[signal.Signals, Any] = {}
        self._turn = self._agree_at = 0
        self._agreed: tuple[int, float] | None = None
        self._validation: dict[str, Any] = {}

    @contextmanager
    def watching(self, *, until_exit: bool) -> Iterator[None]:
        """Mind the signals inside the block, in which the run starts, trains and ends.

        Args:
            until_exit: the process ends after the block, so that signals are ignored from there on.
        """
        self._install()
        self._phase = "starting"
        try:
            yield
        finally:
            self._phase = "over"
            self._uninstall(ignore=until_exit)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if find_callback(trainer, LastCheckpoint) is None:
            raise ValueError(
                "callbacks.preemption saves through callbacks.last_checkpoint, which is switched off"
            )
        if self._phase == "off":  # nobody watches over the whole run
            # Before Lightning puts its own in place, which it does between here and on_train_start.
            self._before = {number: signal.getsignal(number) for number in self.signals}

    def begin(self) -> None:
        """From here on finish what is begun, then leave; for callbacks with long work before the first step.

        Until then a signal ends its own process at once, for which others would wait without an end.
        """
        if self._phase == "training":
            return
        self._install_again()
        self._alone = self._phase == "off"
        self._phase = "training"
        self._agree_soon()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begin()
        if self._leaving:
            self._leave(trainer, self._leaving)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not optimizer_stepped(trainer) or is_last_step(trainer):
            return
        if number := self._leaving or self._asked(trainer):
            self._leave(trainer, number)

    def asked_amid_step(self, trainer: Trainer) -> bool:
        """Whether the run leaves behind this step; for callbacks that come before this one at its end.

        Or, once one has called `begin`, before the first step of this start. Every rank must ask equally
        often. Behind the last step nothing can be lost, and it is never so.
        """
        if self._phase == "training" and not self._leaving and not is_last_step(trainer):
            self._agree_soon()
            self._leaving = self._asked(trainer)
            self._agree_soon()
        return self._leaving != 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation = deepcopy(trainer.fit_loop.epoch_loop.val_loop.state_dict())
        self._agree_soon()  # its batches may take longer than steps

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, *numbers: int
    ) -> None:
        if self._phase != "training" or is_last_step(trainer):
            return
        if number := self._asked(trainer):
            raise _ValidationAbandoned(signal.Signals(number))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree_soon()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, _ValidationAbandoned):
            self._forget_validation(trainer)
            self._save(trainer, exception.number)
        self._end()

    def _forget_validation(self, trainer: Trainer) -> None:
        """Let the loops count as at the end of the step behind which it was due."""
        loop = trainer.fit_loop.epoch_loop
        loop.val_loop.load_state_dict(self._validation)
        for count in (loop.batch_progress.total, loop.batch_progress.current):
            count.completed = min(count.completed, count.ready - 1)

    def _agree_soon(self) -> None:
        self._agree_at, self._agreed = self._turn + 1, None

    def _asked(self, trainer: Trainer) -> int:
        """The signal to leave by, or 0; every rank asks after the same steps and batches."""
        number = 0 if self._received is None else int(self._received[0])
        if trainer.world_size == 1:
            return number
        self._turn += 1
        return self._agree(trainer, number) if self._turn >= self._agree_at else 0

    def _agree(self, trainer: Trainer, number: int) -> int:
        """A signal that any of the ranks received, or 0; and when they ask each other the next time."""
        now = time.monotonic()
        seconds = 0.0
        if self._agreed is not None:
            turn, then = self._agreed
            seconds = (now - then) / (self._turn - turn)
        told = torch.tensor([float(number), seconds], device=trainer.strategy.root_device)
        number, seconds = trainer.strategy.reduce(told, reduce_op="max").tolist()
        steps = self.agree_every_steps
        if seconds:
            steps = max(1, min(steps, int(self.agree_every_s / seconds)))
        elif self._agreed is None:
            steps = 1  # how long a step takes is not known yet
        self._agreed = self._turn, now
        self._agree_at = self._turn + steps
        return int(number)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker of the loader, which gets a Ctrl-C too
            return
        if self._phase == "starting":
            self._leave_early(signal.Signals(number), frame)
        if self._phase != "training":
            return
        if number == signal.SIGINT and self._received is not None and self._received[0] == number:
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            log.warning("interrupted: finishing the step and saving it; once more stops at once")
        self._received = number, frame

    def _leave_early(self, number: signal.Signals, frame: FrameType | None) -> None:
        """Before the first step: nothing is lost."""
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        self._phase = "over"
        if getattr(rank_zero_only, "rank", 0):
            # One that left before the job is requeued would, under srun --kill-on-bad-exit, end the others.
            time.sleep(_OTHERS_WAIT_S)
        else:
            log.warning("stopped by %s before the first step", number.name)
            self._come_back(number)
        self._call_before(number, frame)
        raise Preempted

    def _leave(self, trainer: Trainer, number: int) -> NoReturn:
        self._save(trainer, signal.Signals(number))
        raise Preempted(INTERRUPTED if number == signal.SIGINT else EXIT_CODE)

    def _save(self, trainer: Trainer, number: signal.Signals) -> None:
        """Save, say so, and see to it that the job comes back."""
        self._phase = "over"
        last_checkpoint = find_callback(trainer, LastCheckpoint)
        assert last_checkpoint is not None
        last_checkpoint.save(trainer)
        log.warning(
            "stopped by %s at step %d, saved %s", number.name, trainer.global_step, last_checkpoint.path
        )
        if trainer.is_global_zero:
            self._come_back(number)
        # A rank that left before the job was requeued would, under srun --kill-on-bad-exit, end the others.
        trainer.strategy.barrier("preempted")
        if number != signal.SIGINT and self._received is not None:
            self._call_before(signal.Signals(self._received[0]), self._received[1])

    def _come_back(self, number: signal.Signals) -> None:
        """Into the queue again, unless somebody ended the run for good."""
        if not self.requeue or number == signal.SIGINT:
            return
        if number == signal.SIGTERM and not (is_preempted() or starts_again_by_itself()):
            return
        requeue_slurm_job()

    def _call_before(self, number: signal.Signals, frame: FrameType | None) -> None:
        handler = self._before.get(number)
        if callable(handler) and handler is not signal.default_int_handler:
            handler(number, frame)

    def _install(self) -> None:
        self._before = {number: signal.getsignal(number) for number in self.signals}
        self._install_again()

    def _install_again(self) -> None:
        self._process = os.getpid()
        for number in self.signals:
            signal.signal(number, self._remember)

    def _end(self) -> None:
        if self._phase == "off":
            return
        self._phase = "over"
        if self._alone:
            self._uninstall(ignore=False)
            self._phase = "off"

    def _uninstall(self, *, ignore: bool) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if ignore else handler)
