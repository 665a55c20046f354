"""What a pass of a tiny system takes in memory, measured and planned: python -m tests.plan_memory NAME BATCH

Measured is by how much the process grows at most (its resident set) while the network is run forward and
back, after a small pass has loaded and cached what every pass needs; planned is `training/cost.py`'s peak.
"""

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.command_line import ROOT


def measure(experiment: str, batch: int) -> tuple[float, float]:
    """Bytes measured and planned, in a process of their own whose allocator gives memory back at once."""
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.plan_memory", experiment, str(batch)]
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | allocator, capture_output=True, text=True, check=True
    )
    measured, planned = done.stdout.split()[-2:]
    return float(measured), float(planned)


def main(experiment: str, batch: int) -> None:
    from dataclasses import replace

    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from portraitgen.runs.config.schema import CONF, register_configs
    from portraitgen.runs.train.plan import make_plan, step_sizes

    torch.set_num_threads(1)
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"experiment={experiment}", "data.shards=x", f"data.batch_size={batch}"])
    planned = make_plan(config).passes[False].peak_with_gradients
    network: Any = instantiate(config.model.network, _convert_="all")
    instantiate(config.stage, _convert_="all").freeze(network)
    sizes = step_sizes(config, network)

    def once(count: int) -> None:
        prediction = network.rehearse(replace(sizes, batch=count))
        torch.nn.functional.mse_loss(prediction, torch.zeros_like(prediction)).backward()
        network.zero_grad()

    once(1)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
    before = resident("VmRSS")
    once(batch)
    print(resident("VmHWM") - before, planned)


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
