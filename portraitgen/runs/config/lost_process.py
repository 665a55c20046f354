"""Another process of a run that is gone, which gloo and NCCL report each in its own way, said in one line."""

from portraitgen.media.blame import causes

_TYPES = ("DistBackendError", "DistNetworkError", "DistStoreError")
"""Of torch.distributed; by name, since torch is not imported where configurations are checked."""


def is_process_lost(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that a process did not answer any more."""
    return any(_says_so(each) for each in causes(error))


def process_lost_message() -> str:
    """What is to be done."""
    return (
        "another process of this run has ended, or its machine does not answer any more. If its own log"
        " (train.rank*.log, and that of the job) does not say why, it was killed, perhaps for want of memory,"
        " or its machine went down. Start the same command again: it goes on from the last checkpoint"
    )


def _says_so(error: BaseException) -> bool:
    """Gloo raises plain RuntimeErrors, whose text names the place in its own source."""
    if type(error).__name__ in _TYPES:
        return True
    return isinstance(error, RuntimeError) and "gloo/transport" in str(error)
