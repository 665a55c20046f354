"""What a training sample costs to read as precomputed latents, against the same sample as pixels.

    python benchmarks/latents.py

A sample is a window of 12 frames of 512x512 and a reference frame of the same clip, with their landmarks:
pixels as YUV420 bytes, latents as float16 [4, 64, 64] a frame. Both come through the same loader with 2
workers and take turns, several times; figures are CPU milliseconds a sample (user and system, this process
and its workers), medians over the rounds. With "any start" windows need not begin at key frames, which costs
pixels more and latents nothing; "and reference" decodes the reference frame beside the latents, which
AniPortrait shows to CLIP. What it costs to encode the pixels is not counted.

The values of the latents are random: they do not matter here.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from loader import NUM_CLIPS, NUM_FRAMES, SIZE, cpu_ms, make_frames

from portraitgen.data.clip_examples import ClipExamples
from portraitgen.data.datamodule import ShardDataModule
from portraitgen.data.features.store import FeatureFacts, write_features
from portraitgen.data.sample import make_key
from portraitgen.data.shards import ShardWriter
from portraitgen.data.synthetic import synthetic_clip
from portraitgen.media.encode import encode_clip

ROUNDS, PIXEL_SAMPLES, LATENT_SAMPLES = 5, 160, 1600
TARGET = 8


def read(shards: str, num_samples: int, seed: int, **settings) -> None:
    module = ShardDataModule(
        shards,
        examples=ClipExamples(clip_frames=12, **settings),
        batch_size=4,
        num_workers=2,
        seed=seed,
        samples_per_epoch=num_samples,
    )
    for _ in module.train_dataloader():
        pass
    module.teardown("fit")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with ShardWriter(root) as writer:
            for seed in range(NUM_CLIPS):
                drawn = synthetic_clip("carphone", num_frames=NUM_FRAMES, size=64)
                video = encode_clip(make_frames(seed), fps=25, crf=20)
                writer.write(
                    replace(drawn, key=make_key("carphone", seed), video=video, width=SIZE, height=SIZE)
                )
        (shard,) = writer.close()
        rng = np.random.default_rng(0)
        shape = (NUM_FRAMES, 4, SIZE // 8, SIZE // 8)
        values = [
            (make_key("carphone", seed), rng.standard_normal(shape, np.float32).astype(np.float16))
            for seed in range(NUM_CLIPS)
        ]
        write_features(FeatureFacts("vae", "random00", "latents", "frame", {}).save(root), shard, values)
        readers: dict[str, tuple[int, Callable[[int, int], None]]] = {
            "pixels": (PIXEL_SAMPLES, partial(read, str(shard))),
            "pixels, any start": (PIXEL_SAMPLES, partial(read, str(shard), snap_keyframes=False)),
            "latents": (LATENT_SAMPLES, partial(read, str(shard), features=["vae"], pictures=False)),
            "and reference": (
                PIXEL_SAMPLES,
                partial(read, str(shard), features=["vae"], pictures=["reference"]),
            ),
        }
        rounds: dict[str, list[float]] = {name: [] for name in readers}
        for seed in range(ROUNDS):
            for name, (count, work) in readers.items():
                rounds[name].append(cpu_ms(partial(work, count, seed), count))
    costs = {name: statistics.median(figures) for name, figures in rounds.items()}
    print(f"{'reader':18}{'CPU-ms a sample':>16}    rounds")
    for name, cost in costs.items():
        print(f"{name:18}{cost:16.2f}    {'  '.join(f'{value:.2f}' for value in rounds[name])}")
    ratios = {name: costs[name] / costs["latents"] for name in ("pixels", "pixels, any start")}
    for name, ratio in ratios.items():
        print(f"{name} / latents {ratio:.1f}, goal >= {TARGET}: {'met' if ratio >= TARGET else 'MISSED'}")
    print(f"pixels / latents and reference {costs['pixels'] / costs['and reference']:.1f}")
    return 0 if min(ratios.values()) >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
