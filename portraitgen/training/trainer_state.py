"""What callbacks ask the Trainer: is it time for what happens every N steps, which others are there.

The answers need no memory of earlier steps, so they are right after a resume too.
"""

from typing import TypeVar, cast

from lightning.pytorch import Callback, Trainer

CallbackT = TypeVar("CallbackT", bound=Callback)


def optimizer_stepped(trainer: Trainer) -> bool:
    """Whether an optimizer step ended with this batch (gradient accumulation: only with every k-th).

    For `on_train_batch_end`. Only then may weights be saved: gradients in the making are in no checkpoint.
    """
    return (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch


def is_last_step(trainer: Trainer) -> bool:
    """Whether training ends with the optimizer step that just ended."""
    if trainer.should_stop or 0 < trainer.max_steps <= trainer.global_step:
        return True
    limit = trainer.max_epochs
    return limit is not None and 0 < limit <= trainer.current_epoch + 1 and trainer.is_last_batch


def is_due(trainer: Trainer, every_steps: int) -> bool:
    """Whether an optimizer step ended that is a multiple of `every_steps` or the last of the run."""
    if not optimizer_stepped(trainer):
        return False
    return trainer.global_step % every_steps == 0 or is_last_step(trainer)


def find_callback(trainer: Trainer, kind: type[CallbackT]) -> CallbackT | None:
    """The trainer's callback of this class, or None."""
    callbacks = cast(list[Callback], trainer.callbacks)  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def positive(name: str, value: int) -> int:
    """`value`, or a ValueError naming the setting `name` when it is below 1."""
    if value < 1:
        raise ValueError(f"{name} is {value}: it must be 1 or more")
    return value
