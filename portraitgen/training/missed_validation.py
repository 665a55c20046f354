"""The validation at the step that a run resumes from: it is due after the checkpoint was written."""

from lightning.pytorch import Trainer

from portraitgen.training.run_log import csv_logs


def run_missed_validation(trainer: Trainer) -> None:
    """Validate now, at the start of a resumed run, if the run was stopped between its checkpoint and this.

    A checkpoint is written before the validation of its step, and Lightning goes on behind it. Every rank
    calls this; the loops, which a checkpoint holds, count as if nothing had happened.
    """
    loop = trainer.fit_loop
    every, batches = trainer.val_check_batch, loop.total_batch_idx + 1
    if not trainer.global_step or trainer.check_val_every_n_epoch is not None or not isinstance(every, int):
        return
    if batches % every or not trainer.num_val_batches:
        return
    missed = not any(log.has(trainer.global_step, "val/") for log in csv_logs(trainer))
    if not trainer.strategy.broadcast(missed):
        return
    validation = loop.epoch_loop.val_loop
    state = validation.state_dict()
    connector = trainer._logger_connector
    first_loop_iter = connector._first_loop_iter
    # As the loop of training does it between two batches.
    trainer.validating = True
    validation.restarting = False
    validation.run()
    trainer.training = True
    connector._first_loop_iter = first_loop_iter
    validation.load_state_dict(state)
