"""What a sample costs that lies in an object store: bytes fetched, and samples a second.

    python -m benchmarks.remote

A sample is a window of 12 frames of a clip of 250 frames of 512x512, a reference frame, landmarks and key
points. Clips lie in shards at an S3 server (moto's, on this machine) behind a proxy, which counts the bytes
and is as slow as stores are: so many milliseconds before each answer, so many bytes a second over all
connections, or any number. One pass over all clips, each time into an empty cache, by readers in turn:

    ranges      ours: indexes, then byte ranges; 2 workers
    webdataset  `webdataset.WebDataset` streams the same tars whole, as many workers; of each clip it takes
                the same window, decoded and made a batch by the same code, so that only the reading differs

Seconds are those of a clock: both wait for the network most of the time. The targets are for the limited
bandwidth: without a limit it is the server in Python, which shares the machine, that is measured.
"""

import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from benchmarks.loader import CLIP_FRAMES, NUM_FRAMES, NUM_WORKERS, SIZE, make_frames
from portraitgen.data.clip_examples import ClipExamples
from portraitgen.data.datamodule import ShardDataModule
from portraitgen.data.remote.settings import RemoteShards
from portraitgen.data.sample import make_key
from portraitgen.data.shards import ShardWriter
from portraitgen.media.bounded import read_arrays
from portraitgen.media.encode import encode_clip
from portraitgen.media.gop import GopDecoder, packet_table
from tests.data.remote.proxy import Proxy
from tests.data.remote.servers import BUCKET, CREDENTIALS, s3_server
from tests.synthetic import synthetic_clip

NUM_CLIPS, CLIPS_A_SHARD, BATCH_SIZE, ROUNDS = 96, 8, 4, 3
LATENCY_S, BANDWIDTHS = 0.02, (10e6, None)
KEYFRAMES = range(0, NUM_FRAMES - CLIP_FRAMES + 1, 12)


def write_shards(root: Path) -> int:
    """Clips of two videos under many keys; returns the bytes of the shards."""
    videos = [encode_clip(list(make_frames(seed)), fps=25, crf=20) for seed in range(2)]
    drawn = synthetic_clip("carphone", num_frames=NUM_FRAMES, size=64)
    with ShardWriter(root, max_samples=CLIPS_A_SHARD) as writer:
        for number in range(NUM_CLIPS):
            video = videos[number % len(videos)]
            writer.write(
                replace(drawn, key=make_key("carphone", number), video=video, width=SIZE, height=SIZE)
            )
    return sum(path.stat().st_size for path in (root / "shards").iterdir())


def read_ranges(proxy: Proxy, cache: Path) -> int:
    """One pass by byte ranges; returns the samples read."""
    shards = f"s3://{BUCKET}/data/shards/train-*.tar"
    module = ShardDataModule(
        shards,
        examples=ClipExamples(clip_frames=CLIP_FRAMES, key_points=True),
        batch_size=BATCH_SIZE,
        num_workers=NUM_WORKERS,
        val_shards=shards,  # a pass that ends: the stream for training fetches beyond it
        remote=RemoteShards(cache=str(cache), options={"endpoint_url": proxy.url}),
    )
    return sum(len(batch["key"]) for batch in module.val_dataloader())


def window_of(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a clip that came whole: a window from a key frame on, a reference, their points."""
    rng, decoder = np.random.default_rng(list(sample["__key__"].encode())), GopDecoder()
    start, reference = rng.choice(KEYFRAMES), rng.choice(KEYFRAMES)
    table, frames = packet_table(sample["mp4"]), np.arange(start, start + CLIP_FRAMES)
    points = np.append(frames, reference)
    return {
        "key": sample["__key__"],
        "frames": torch.from_numpy(decoder.decode_frames(sample["mp4"], frames, table=table)),
        "reference": torch.from_numpy(decoder.decode_frames(sample["mp4"], [reference], table=table)[0]),
        "landmarks": torch.from_numpy(read_arrays(sample["lmk.npz"])["lmk"][points, 0]),
        "key_points": torch.from_numpy(read_arrays(sample["tracks.npz"], ("kps",))["kps"][frames, 0]),
    }


def read_whole(proxy: Proxy, cache: Path) -> int:
    """One pass by webdataset, whole tars; returns the samples read."""
    last = -(-NUM_CLIPS // CLIPS_A_SHARD) - 1
    urls = f"{proxy.url}/{BUCKET}/data/shards/train-{{000000..{last:06d}}}.tar"
    shards = wds.WebDataset(urls, shardshuffle=False).map(window_of)
    return sum(
        len(batch["key"]) for batch in DataLoader(shards, batch_size=BATCH_SIZE, num_workers=NUM_WORKERS)
    )


READERS: dict[str, Callable[[Proxy, Path], int]] = {"ranges": read_ranges, "webdataset": read_whole}


def measure(root: Path, proxy: Proxy, name: str) -> tuple[float, int]:
    """Samples a second of one pass, and bytes that went over the network for it."""
    cache = Path(tempfile.mkdtemp(dir=root))
    proxy.forget()
    began = time.perf_counter()
    count = READERS[name](proxy, cache)
    seconds = time.perf_counter() - began
    assert count == NUM_CLIPS
    shutil.rmtree(cache)
    return count / seconds, proxy.total


def main() -> int:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ |= {**CREDENTIALS, "AWS_DEFAULT_REGION": "us-east-1"}
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        stored = write_shards(root := Path(folder, "data"))
        print(f"{NUM_CLIPS} clips of {NUM_FRAMES} frames of {SIZE}x{SIZE}, {stored / 1e6:.0f} MB in shards\n")
        with s3_server(root, public=True) as port, Proxy(port, latency=LATENCY_S) as proxy:
            for bandwidth in BANDWIDTHS:
                proxy.bandwidth = bandwidth
                rounds = [{name: measure(root, proxy, name) for name in READERS} for _ in range(ROUNDS)]
                limit = f"{bandwidth / 1e6:.0f} MB a second" if bandwidth else "as fast as the server is"
                print(f"{1000 * LATENCY_S:.0f} ms before each answer, {limit}")
                print(f"{'reader':12}{'samples a second':>18}{'bytes / shards':>16}    rounds")
                for name in READERS:
                    rates, sent = zip(*(each[name] for each in rounds), strict=True)
                    share = statistics.median(sent) / stored
                    print(f"{name:12}{statistics.median(rates):18.2f}{share:16.1%}    ", end="")
                    print("  ".join(f"{rate:.2f}" for rate in rates))
                ratio = statistics.median(each["ranges"][0] / each["webdataset"][0] for each in rounds)
                share = statistics.median(each["ranges"][1] for each in rounds) / stored
                for what, value, holds in (
                    ("ranges / webdataset, samples a second, >= 3", f"{ratio:.2f}", ratio >= 3),
                    ("bytes fetched / bytes of the shards, <= 20 %", f"{share:.1%}", share <= 0.2),
                ):
                    missed += not holds and bandwidth is not None
                    print(f"{what:46}{value:>8}  {'met' if holds else 'MISSED'}")
                print()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
