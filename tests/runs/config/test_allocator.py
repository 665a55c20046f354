"""Large arrays that are freed leave the process, whatever small ones stay between them."""

import platform
import subprocess
import sys

import pytest

from tests.command_line import ROOT

PROGRAM = """
import os, sys
import numpy as np
from portraitgen.runs.config.allocator import return_freed_memory, trim_heap

def held_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

done = return_freed_memory() if "set" in sys.argv else None
np.ones(2 * 2**20)  # 16 MB: from now on glibc keeps what is smaller in its heap
before = held_mb()
large, small = [], []
for _ in range(100):
    large.append(np.ones(2**18))  # 2 MB
    small.append(np.ones(100))
large.clear()
if "trim" in sys.argv:
    trim_heap()
print(done, held_mb() - before)
"""


def run(*words, **environment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True, env=environment
    )
    said, grown = done.stdout.split()
    return said, float(grown)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps freed memory")
def test_freed_arrays_leave_the_process():
    environment = {"PYTHONPATH": str(ROOT)}
    said, grown = run("set", **environment)
    assert said == "True"
    assert grown < 20
    assert run(**environment)[1] > 150, "the default keeps them: without this the setting does nothing"
    assert run("trim", **environment)[1] < 20
    said, _ = run("set", **environment, MALLOC_MMAP_THRESHOLD_="33554432")
    assert said == "False", "what the user says stays"
