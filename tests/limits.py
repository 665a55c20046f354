"""What takes too long is ended: long of the processor, which other work beside it does not slow."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited(seconds: int, error: type[BaseException] = TimeoutError) -> Iterator[None]:
    """Raises `error` in the block after so many seconds of the processor, or ten times as many in all."""

    def stop(*_: object) -> None:
        raise error(f"took more than {seconds} s")

    before = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(10 * seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
