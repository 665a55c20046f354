"""How long the end of a run on W&B waits for a server that does not answer. Nothing here needs Lightning."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)

SENT_WITHIN = 300.0
"""Seconds that the end of a run waits for W&B to send what it still has; WANDB_FINISH_TIMEOUT sets others.

By itself it waits without end where its server does not answer any more.
"""


def patience() -> dict[str, Any]:
    """Settings of W&B by which the end of a run waits no longer than `SENT_WITHIN`."""
    named = "WANDB_FINISH_TIMEOUT" in os.environ
    return {"finish_timeout_raises": True} | ({} if named else {"finish_timeout": SENT_WITHIN})


@contextmanager
def said_if_not_sent(run: Any, key: str) -> Iterator[None]:
    """Around the end of a run on W&B with the settings of `patience`: a line if it did not send all in time.

    Args:
        run: of W&B; None: there is none.
        key: of the setting that W&B is used by.
    """
    folder = None if run is None else run.settings.sync_dir
    try:
        yield
    except TimeoutError:
        log.warning(
            "%s: W&B's server did not take all that was logged in time; it is on the disk, and"
            " `wandb sync %s` sends it",
            *(key, folder),
        )
