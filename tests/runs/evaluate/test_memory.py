"""What `python evaluate.py` holds at most, whatever the length of a clip."""

import subprocess
import sys

import pytest
import torch

from benchmarks.evaluate import GOAL_MB, GRADERS, run, write_clips, write_weights


@pytest.mark.slow
def test_memory_of_all_graders_stays_below_the_goal_and_does_not_grow_with_a_clip(tmp_path):
    torch.manual_seed(0)
    write_weights(tmp_path / "weights")
    peaks = {}
    for seconds in (3, 12):
        clips = write_clips(tmp_path / f"clips{seconds}", count=1, seconds=seconds)
        out = tmp_path / f"report{seconds}"
        peaks[seconds] = run(clips, tmp_path / "weights", out, GRADERS, count=1).peak_mb
    print(f"3 s {peaks[3]:.0f} MB, 12 s {peaks[12]:.0f} MB")
    assert max(peaks.values()) <= GOAL_MB
    assert peaks[12] <= 1.1 * peaks[3]


def test_pairs_of_files_are_graded_without_lightning():
    """It takes 130 MB, and seconds to import."""
    program = "import sys, portraitgen.runs.evaluate.evaluate as _; print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
