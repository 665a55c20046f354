"""What masks cost: ours against ConsisID's, one 16-bit PNG for each object and frame.

    python -m benchmarks.masks

A sample is the face's masks of 12 frames of 720x480 in a row. Both readers take turns, several times; figures
are CPU milliseconds a sample (user and system), medians over the rounds. PNGs are decoded from memory, which
spares them what opening files costs.

The masks are a drawn face, a head and a person that sway, with outlines as rough as SAM 2 leaves them. On the
sample clip that ConsisID publishes (3 x 244 masks of 720x940) a mask has 2788 bytes as PNG and 386 packed.
"""

import os
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from portraitgen.data.catalog import Catalog
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import ClipMasks
from portraitgen.data.shards import ShardWriter
from portraitgen.media.encode import encode_clip
from portraitgen.media.masks import encode_rle_batch
from tests.synthetic import synthetic_clip

HEIGHT, WIDTH, NUM_FRAMES, CLIP_FRAMES = 720, 480, 120, 12
ROUNDS, SAMPLES = 7, 100
FASTER, SMALLER = 10, 4
# Centre and half axes of face, head and person, as shares of height and width.
OBJECTS = ((0.3, 0.5, 0.11, 0.12), (0.28, 0.5, 0.16, 0.19), (0.75, 0.5, 0.5, 0.42))


def make_masks() -> np.ndarray:
    """bool [T, M, H, W]."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    masks = np.empty((NUM_FRAMES, len(OBJECTS), HEIGHT, WIDTH), bool)
    for frame in range(NUM_FRAMES):
        sway = 20 * np.sin(frame / 9)
        coarse = rng.normal(0, 1, (HEIGHT // 12, WIDTH // 12)).astype(np.float32)
        rough = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        for number, (y, x, down, across) in enumerate(OBJECTS):
            distance = np.hypot(
                (rows - y * HEIGHT) / (down * HEIGHT), (columns - x * WIDTH - sway) / (across * WIDTH)
            )
            masks[frame, number] = distance + 0.02 * rough < 1
    return masks


def cpu_ms(work, count: int) -> float:
    """CPU milliseconds of each of `count` calls of `work` with a number."""
    before = sum(os.times()[:2])
    for number in range(count):
        work(number)
    return 1000 * (sum(os.times()[:2]) - before) / count


def main() -> int:
    masks = make_masks()
    pngs = [
        [
            cv2.imencode(".png", mask.astype(np.uint16) * (number + 1))[1].tobytes()
            for mask in masks[:, number]
        ]
        for number in range(len(OBJECTS))
    ]
    starts = np.random.default_rng(1).integers(0, NUM_FRAMES - CLIP_FRAMES, SAMPLES)
    drawn = synthetic_clip("masks", num_frames=NUM_FRAMES, size=64)
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    clip = replace(
        drawn,
        video=encode_clip((black for _ in range(NUM_FRAMES)), fps=25),
        height=HEIGHT,
        width=WIDTH,
        tracks=(replace(drawn.tracks[0], mask_ids={"face": 1}),),
        masks=ClipMasks(*encode_rle_batch(masks), (1, 2, 3), "sam2"),
    )
    with tempfile.TemporaryDirectory() as folder:
        with ShardWriter(folder) as writer:
            writer.write(clip)
        catalog = Catalog(str(Path(folder, "shards", "*.tar")))
        reader = ClipReader(catalog)
        packed_bytes = catalog.indexes[0].members(0)["masks.npz"].size

        def ours(number: int) -> np.ndarray:
            return reader.masks(0, 0, 0, starts[number] + np.arange(CLIP_FRAMES))

        def theirs(number: int) -> np.ndarray:
            chosen = pngs[0][starts[number] : starts[number] + CLIP_FRAMES]
            decoded = [cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) for png in chosen]
            return np.stack(decoded) > 0

        assert all(np.array_equal(ours(number), theirs(number)) for number in range(5))
        costs: dict[str, list[float]] = {"png": [], "shard": []}
        for _ in range(ROUNDS):
            costs["png"].append(cpu_ms(theirs, SAMPLES))
            costs["shard"].append(cpu_ms(ours, SAMPLES))
    count = masks.shape[0] * masks.shape[1]
    sizes = {"png": sum(len(png) for files in pngs for png in files) / count, "shard": packed_bytes / count}
    print(f"{'':8}{'CPU-ms a sample':>16}{'bytes a mask':>14}    rounds")
    for name, values in costs.items():
        rounds = "  ".join(f"{value:.2f}" for value in values)
        print(f"{name:8}{statistics.median(values):16.2f}{sizes[name]:14.0f}    {rounds}")
    speed = statistics.median(costs["png"]) / statistics.median(costs["shard"])
    room = sizes["png"] / sizes["shard"]
    for what, ratio, target in (("time", speed, FASTER), ("bytes", room, SMALLER)):
        print(f"{what}: png / shard {ratio:.1f}, goal >= {target}: {'met' if ratio >= target else 'MISSED'}")
    return 0 if speed >= FASTER and room >= SMALLER else 1


if __name__ == "__main__":
    sys.exit(main())
