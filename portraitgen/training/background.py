"""Files of a run that are written while training goes on."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, ParamSpec

from lightning.pytorch import Callback, LightningModule, Trainer

from portraitgen.training.trainer_state import find_callback

log = logging.getLogger(__name__)

Given = ParamSpec("Given")


class BackgroundWriter(Callback):
    """Does one job after the other, in the order in which they were handed over, in a thread of its own.

    What writes has to release the interpreter's lock, as copying, hashing and writing tensors does. Behind a
    job that failed none is done any more, since it may say that the one before was (a checkpoint says that
    the weights of its step are there). Its error ends training after the step that is being made; training
    ends well only when all jobs have. After an error of training what was begun is still finished.
    """

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._open: list[Future[None]] = []
        self._failed = False

    def submit(self, job: Callable[Given, Any], *args: Given.args, **settings: Given.kwargs) -> Future[None]:
        """Do `job` with these arguments, which nobody may change until it is done."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="write")
        self._open = [each for each in self._open if not each.done() or each.exception()]
        self._open.append(self._executor.submit(self._do, lambda: job(*args, **settings)))
        return self._open[-1]

    @property
    def is_busy(self) -> bool:
        """Whether a job is being done or waits for its turn."""
        return not all(each.done() for each in self._open)

    def wait(self, job: Future[None] | None = None) -> None:
        """Return when a job is done; None: when all are.

        Raises:
            Exception: of the job that failed.
        """
        wait(self._open if job is None else [job])
        self._raise_failed()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self._raise_failed()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.wait()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        wait(self._open)
        for each in self._open:
            error = each.exception()
            if error is not None and error is not exception:
                log.error("a file that was being written meanwhile is not there: %s", error)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def _do(self, job: Callable[[], Any]) -> None:
        if self._failed:
            return
        try:
            job()
        except BaseException:
            self._failed = True
            raise

    def _raise_failed(self) -> None:
        for each in self._open:
            if each.done():
                each.result()


def background_writer(trainer: Trainer) -> BackgroundWriter:
    """The one of this trainer, which is made and added behind all its callbacks where there is none yet."""
    writer = find_callback(trainer, BackgroundWriter)
    if writer is None:
        writer = BackgroundWriter()
        trainer.callbacks.append(writer)  # type: ignore[attr-defined]
    return writer
