"""Metrics of a run on Weights & Biases: one run there for each run folder, one row for each step."""

import logging
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from portraitgen.media.files import replace_file
from portraitgen.training.wandb_patience import patience, said_if_not_sent

log = logging.getLogger(__name__)

ID_FILE = "wandb_id.txt"


class WandbLog(WandbLogger):
    """Lightning's logger, whose rows W&B counts by optimizer steps.

    The run on W&B belongs to the folder: its id lies there, so that a resumed run goes on in its own curves,
    and two people's runs of one name are two. What is logged of a step is one row, also after a resume and
    in parts that were written without a network, which W&B puts together by these steps. If W&B's own
    process on the machine ends, the run goes on without it and says so once. While W&B's server does not
    answer, that process keeps what it is given on the disk; what it could not send in time at the end of the
    run stays there, and a line says how to send it.

    Args:
        save_dir: the folder of the run.
        project, name: on W&B.
        id: on W&B; None: that of the folder. What an agent of a W&B sweep starts has the agent's.
        offline, log_model, settings, kwargs: see Lightning's WandbLogger and wandb.init.
    """

    def __init__(
        self,
        *,
        save_dir: str,
        project: str,
        name: str,
        id: str | None = None,
        offline: bool = False,
        log_model: bool = False,
        settings: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            save_dir=save_dir,
            project=project,
            name=name,
            id=id,
            offline=offline,
            log_model=log_model,
            settings={**patience(), **(settings or {})},
            **kwargs,
        )
        self._folder = Path(save_dir)
        self._ended = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run on W&B, begun or gone on with when it is first asked for.

        Raises:
            ValueError: W&B does not let us, for want of an API key for example.
        """
        from wandb.errors import Error

        if self._experiment is None and self._wandb_init["id"] is None and "WANDB_SWEEP_ID" not in os.environ:
            self._wandb_init["id"] = self._id = folder_id(self._folder)
        try:
            return WandbLogger.experiment.fget(self)  # type: ignore[attr-defined]
        except Error as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise ValueError(
                f"logger.wandb: {reason}. Log in once with `wandb login`, log without a"
                " network (WANDB_MODE=offline, later `wandb sync`), or leave it out (logger=csv)"
            ) from error

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add `metrics` to the row of the optimizer step `step`."""
        assert step is not None
        self._send(lambda: self.experiment.log({**metrics, "trainer/global_step": step}, step=step))

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._send(partial(super().log_hyperparams, params, *args, **kwargs))

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self._send(partial(super().log_image, key, images, step, **kwargs))

    @rank_zero_only
    def log_video(self, key: str, videos: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self._send(partial(super().log_video, key, videos, step, **kwargs))

    def finish(self) -> None:
        """End the run on W&B, so that the next one in this process is one of its own."""
        import wandb
        from wandb.sdk.lib.module import unset_globals

        with said_if_not_sent(self._experiment, "logger.wandb"):
            self._send(wandb.finish)
        if self._ended:
            with suppress(ConnectionError):
                wandb.teardown()  # else it is asked again at exit
            unset_globals()

    def _send(self, call: Callable[[], Any]) -> None:
        """Call W&B; nothing, once its process has ended."""
        from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

        if self._ended:
            return
        try:
            call()
        except (ConnectionError, HandleAbandonedError, MailboxClosedError) as error:
            self._ended = True
            log.warning(
                "logger.wandb: W&B's process on this machine has ended (%s). Training goes on, and logs to"
                " its other loggers; what W&B had got is in %s, see `wandb sync`",
                str(error) or type(error).__name__,
                self._folder / "wandb",
            )


def folder_id(folder: Path) -> str:
    """The id of a run folder on W&B, made when it is first asked for."""
    path = folder / ID_FILE
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, f"{secrets.token_hex(6)}\n".encode())
    return path.read_text().strip()
