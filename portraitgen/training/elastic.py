"""A run goes on with batches of another size, on another number of processes: its counts are put into theirs.

Where the data stand is counted in samples, so none is repeated or left out. Optimizer steps, averages and
learning rates are counted in steps and go on as they are. Lightning counts batches and epochs too, which are
others now.
"""

import logging
from collections.abc import Mapping
from typing import Any, Protocol

log = logging.getLogger(__name__)


class Stream(Protocol):
    """What is asked of the loader of the run that goes on."""

    def __len__(self) -> int: ...

    def recounted(self, state: Mapping[str, int], *, multiple_of: int) -> dict[str, int]: ...


def recount(checkpoint: dict[str, Any], stream: Stream, *, accumulate: int) -> str | None:
    """Change a checkpoint that was read, so that a run with other batches goes on from it.

    Args:
        checkpoint: of Lightning, saved at the end of an optimizer step.
        stream: the training data of the run that goes on.
        accumulate: batches of an optimizer step.

    Returns:
        What changed, in a line; None where the batches are the same.

    Raises:
        ValueError: the order of the data depends on the size of the batches.
    """
    loop = checkpoint["loops"]["fit_loop"]
    (before,) = loop["state_dict"]["combined_loader"]
    now = stream.recounted(before, multiple_of=accumulate)
    if all(before[key] == now[key] for key in ("epoch", "batches", "samples")):
        return None
    loop["state_dict"]["combined_loader"] = [now]
    epoch, batches = now["epoch"], now["batches"]
    progress = loop["epoch_loop.batch_progress"]
    # A checkpoint is written just before its batch counts as completed.
    open_batches = progress["total"]["ready"] - progress["total"]["completed"]
    for part, count in (("total", epoch * len(stream) + batches), ("current", batches)):
        done = dict.fromkeys(("ready", "started", "processed"), count)
        progress[part] = {**done, "completed": count - open_batches}
    progress["is_last_batch"] = batches == len(stream)
    for part in ("total", "current"):
        begun = dict.fromkeys(("ready", "started"), epoch + 1)
        loop["epoch_progress"][part] = {**begun, **dict.fromkeys(("processed", "completed"), epoch)}
    checkpoint["epoch"] = epoch
    line = (
        f"behind sample {now['position']} of the data, batches of {before['samples']} → {now['samples']}"
        f" samples over all devices, {accumulate} an optimizer step, {len(stream)} an epoch"
    )
    log.info("%s", line)
    return line
