"""The sweep goes on, whatever one of its calls met."""

import threading

from portraitgen.runs.demo.sweeper import Sweeper


def test_a_call_that_fails_is_logged_and_does_not_end_the_others(caplog):
    calls, thrice = [], threading.Event()

    def sweep():
        calls.append(None)
        if len(calls) >= 3:
            thrice.set()
        raise OSError("the disk is gone")

    sweeper = Sweeper(sweep, every_s=0.01)
    assert thrice.wait(10)
    sweeper.close()
    assert "the disk is gone" in caplog.text
    assert "sweeper" not in [thread.name for thread in threading.enumerate()]
