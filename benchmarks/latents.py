"""What a training sample costs to read as precomputed features, against the same sample as pixels.

    python -m benchmarks.latents

A sample is a window of 12 frames of 512x512 and a reference frame of the same clip, with their landmarks, as
AniPortrait's stage 2 reads them. All come through the same loader with 2 workers and take turns, several
times; figures are CPU milliseconds a sample (user and system, this process and its workers), medians over the
rounds.

    pixels        YUV420 bytes of window and reference, windows at key frames
    any start     the same, windows at any frame
    latents       float16 [4, 64, 64] a frame, of window and reference
    features      these and CLIP's embeddings: all that AniPortrait encodes, so no picture is decoded
    distribution  the same with mean and standard deviation of the latents, to draw from
    and picture   latents beside the decoded picture of the reference
    …, drawn      with the landmarks drawn on canvases of 512x512, which are made anew for each sample
    drawing       the drawing alone, in this process
    copying       the bytes of features, from the mapped file to the batch

What it costs to encode the pixels is not counted. The values of the features are random: they do not matter
here.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.loader import NUM_CLIPS, NUM_FRAMES, SIZE, cpu_ms, make_frames
from portraitgen.data.clip_examples import ClipExamples
from portraitgen.data.datamodule import ShardDataModule
from portraitgen.data.features.store import FeatureFacts, write_features
from portraitgen.data.sample import make_key
from portraitgen.data.shards import ShardWriter
from portraitgen.faces.drawing import draw_landmarks
from portraitgen.media.encode import encode_clip
from tests.synthetic import synthetic_clip

ROUNDS, PIXEL_SAMPLES, LATENT_SAMPLES = 5, 160, 3200
CLIP_FRAMES = 12
FEATURES = {
    "vae": ("latents", (4, SIZE // 8, SIZE // 8)),
    "vae_distribution": ("latent_distribution", (2, 4, SIZE // 8, SIZE // 8)),
    "clip": ("image_embeds", (768,)),
}
GOALS = (("pixels", "features", 15), ("any start", "features", 15))
SHOWN = (("pixels", "distribution"), ("pixels", "and picture"), ("pixels, drawn", "features, drawn"))


def read(shards: str, num_samples: int, seed: int, **settings) -> None:
    module = ShardDataModule(
        shards,
        examples=ClipExamples(clip_frames=CLIP_FRAMES, **settings),
        batch_size=4,
        num_workers=2,
        seed=seed,
        samples_per_epoch=num_samples,
    )
    for _ in module.train_dataloader():
        pass
    module.teardown("fit")


def draw(landmarks: np.ndarray, out: np.ndarray, count: int, seed: int) -> None:
    for _ in range(count):
        draw_landmarks(landmarks, image_size=(SIZE, SIZE), canvas_size=(SIZE, SIZE), out=out)


def copy(values: list[np.ndarray], count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = [np.empty((CLIP_FRAMES + 1, *each.shape[1:]), each.dtype) for each in values]
    for _ in range(count):
        start = int(rng.integers(NUM_FRAMES - CLIP_FRAMES))
        for target, each in zip(targets, values, strict=True):
            target[:] = each[start : start + CLIP_FRAMES + 1]


def write_shard(root: Path) -> tuple[str, list[np.ndarray], np.ndarray]:
    """Pattern of a shard, the values of its first clip's features, landmarks of a window."""
    with ShardWriter(root) as writer:
        for seed in range(NUM_CLIPS):
            drawn = synthetic_clip("carphone", num_frames=NUM_FRAMES, size=64)
            points = drawn.tracks[0].landmarks * (SIZE / 64)
            track = replace(drawn.tracks[0], landmarks=points)
            video = encode_clip(make_frames(seed), fps=25, crf=20)
            key = make_key("carphone", seed)
            writer.write(replace(drawn, key=key, video=video, width=SIZE, height=SIZE, tracks=(track,)))
    (shard,) = writer.close()
    rng = np.random.default_rng(0)
    first = []
    for name, (batch_key, shape) in FEATURES.items():
        values = [
            (
                make_key("carphone", seed),
                rng.standard_normal((NUM_FRAMES, *shape), np.float32).astype(np.float16),
            )
            for seed in range(NUM_CLIPS)
        ]
        write_features(FeatureFacts(name, "random00", batch_key, "frame", {}).save(root), shard, values)
        if name != "vae_distribution":
            first.append(values[0][1])
    return str(shard), first, points[:CLIP_FRAMES]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        shards, values, points = write_shard(Path(folder))

        def reader(count: int, **settings) -> tuple[int, Callable[[int, int], None]]:
            return count, partial(read, shards, **settings)

        alone = {"features": ["vae", "clip"], "pictures": []}
        canvas = np.zeros((CLIP_FRAMES, 3, SIZE, SIZE), np.uint8)
        readers: dict[str, tuple[int, Callable[[int, int], None]]] = {
            "pixels": reader(PIXEL_SAMPLES),
            "any start": reader(PIXEL_SAMPLES, snap_keyframes=False),
            "latents": reader(LATENT_SAMPLES, features=["vae"], pictures=[]),
            "features": reader(LATENT_SAMPLES, **alone),
            "distribution": reader(LATENT_SAMPLES, features=["vae_distribution", "clip"], pictures=[]),
            "and picture": reader(PIXEL_SAMPLES, features=["vae"], pictures=["reference"]),
            "pixels, drawn": reader(PIXEL_SAMPLES, pose_size=SIZE),
            "features, drawn": reader(PIXEL_SAMPLES, pose_size=SIZE, **alone),
            "drawing": (PIXEL_SAMPLES, partial(draw, points, canvas)),
            "copying": (LATENT_SAMPLES, partial(copy, values)),
        }
        rounds: dict[str, list[float]] = {name: [] for name in readers}
        for seed in range(ROUNDS):
            for name, (count, work) in readers.items():
                rounds[name].append(cpu_ms(partial(work, count, seed), count))
    costs = {name: statistics.median(figures) for name, figures in rounds.items()}
    print(f"{'reader':18}{'CPU-ms a sample':>16}    rounds")
    for name, cost in costs.items():
        print(f"{name:18}{cost:16.2f}    {'  '.join(f'{value:.2f}' for value in rounds[name])}")
    missed = 0
    for upper, lower, goal in GOALS:
        ratio = costs[upper] / costs[lower]
        missed += ratio < goal
        print(f"{upper} / {lower} {ratio:.1f}, goal >= {goal}: {'met' if ratio >= goal else 'MISSED'}")
    for upper, lower in SHOWN:
        print(f"{upper} / {lower} {costs[upper] / costs[lower]:.1f}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
