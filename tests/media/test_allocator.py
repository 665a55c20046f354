"""Large arrays that are freed leave the process, whatever small ones stay between them."""

import gc
import os
import platform
import subprocess
import sys

import pytest

from portraitgen.media.allocator import collecting_new_garbage_alone
from tests.command_line import ROOT

PROGRAM = """
import os, sys
import numpy as np
from portraitgen.media.allocator import return_freed_memory, trim_heap

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

LAYERS = """
import resource, sys
import numpy as np
from contextlib import nullcontext
from portraitgen.media.allocator import keeping_freed_memory, return_freed_memory
from tests.media.test_allocator import held_mb

if "set" in sys.argv:
    return_freed_memory()
kept = []
before, faults = held_mb(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
with keeping_freed_memory() if "keep" in sys.argv else nullcontext():
    for _ in range(100):
        maps = np.ones(2**17)  # 1 MB: 256 pages
        kept.append(np.ones(100))
        del maps
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, held_mb() - before)
"""


def held_mb():
    """Resident megabytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps freed memory")
def test_the_maps_of_a_network_take_each_others_place_and_leave_with_the_last():
    def faults_and_grown(*words, **environment):
        program = [sys.executable, "-c", LAYERS, *words]
        environment = {"PYTHONPATH": str(ROOT)} | environment
        done = subprocess.run(program, capture_output=True, text=True, check=True, env=environment)
        return [float(figure) for figure in done.stdout.split()]

    faults, grown = faults_and_grown("set", "keep")
    assert faults < 3_000
    assert grown < 3, "the map has left"
    assert faults_and_grown("set")[0] > 20_000, "mapped anew each time"
    assert faults_and_grown("set", "keep", MALLOC_TRIM_THRESHOLD_="131072")[0] > 20_000, "the user's word"


@pytest.fixture(params=[False, True], ids=["nothing before", "all before"])
def frozen(request):
    """Whether collections pass over what is there, as they do in tests."""
    gc.unfreeze()
    if request.param:
        gc.freeze()
    yield request.param
    gc.freeze()


def test_what_was_there_is_passed_over_inside_alone(frozen):
    with collecting_new_garbage_alone():
        assert gc.get_freeze_count() > 1000
    assert (gc.get_freeze_count() > 1000) == frozen
