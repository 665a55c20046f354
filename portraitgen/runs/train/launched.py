"""What becomes of a run when a process that Lightning started beside it ends.

Lightning looks every few seconds, and then kills the others without a word, were they about to say why they
end, to save for a signal that all have got, or to send what was logged.
"""

import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from portraitgen.runs.config.lost_process import process_lost_message
from portraitgen.training.preemption import EXIT_CODE, INTERRUPTED

LAUNCHER = "lightning.fabric.strategies.launchers.subprocess_script"
PATIENCE_S = 30.0
"""For this process to find by itself that another is gone, and then for all others to end."""
SAVING_S = 600.0
"""As `PATIENCE_S` where another has left for a signal, behind which there is still a checkpoint to write."""

_LEFT_IN_ORDER = re.compile(rf"terminated with code ({EXIT_CODE}|{INTERRUPTED})\.")


def end_in_order(patience_s: float = PATIENCE_S, saving_s: float = SAVING_S) -> None:
    """Have Lightning wait for this process to end by itself, and say so in a line where it has to be killed.

    What Lightning started beside it ends with it, or is killed: one that waits for a lost one on a GPU would
    wait for many minutes.

    A filter of the launcher's logger, which tells what it is about to do: unlike handlers, filters hold no
    lock that the end of a process waits for.
    """

    def wait(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if "Forcefully terminating" not in said:
            return record.levelno > logging.INFO
        started = getattr(threading.current_thread(), "_child_processes", ())
        # No daemon, as the observer is: this process ends behind it.
        threading.Thread(target=_end_others, args=(started, patience_s), daemon=False).start()
        threading.main_thread().join(saving_s if _LEFT_IN_ORDER.search(said) else patience_s)
        if threading.main_thread().is_alive():
            print(f"error: {process_lost_message()}", file=sys.stderr, flush=True)
        else:
            time.sleep(2 * patience_s)  # for the others, and what is done at exit
        return False

    logger = logging.getLogger(LAUNCHER)
    logger.setLevel(logging.INFO)
    logger.filters.clear()  # of an earlier trial of this process
    logger.addFilter(wait)


def _end_others(started: Sequence[subprocess.Popen], patience_s: float) -> None:
    """Behind the end of this process, kill those that do not end in time."""
    threading.main_thread().join()
    until = time.monotonic() + patience_s
    for process in started:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
        process.kill()
