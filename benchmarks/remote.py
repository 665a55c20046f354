"""What a sample costs that lies elsewhere: bytes fetched, samples a second, processor time.

    python -m benchmarks.remote

A sample is a window of 12 frames of a clip of 250 frames of 512x512, a reference frame, landmarks and key
points. Clips lie in shards at a server of files, a process of its own on this machine, which counts the bytes
and is as slow as stores are: so many milliseconds before each answer, so many bytes a second over all
connections, or any number. One pass over all clips, each time into an empty cache, by readers in turn:

    s3 ranges    ours over s3://, by s3fs and botocore, which sign each request: indexes, then byte ranges
    http ranges  the same over http://
    webdataset   `webdataset.WebDataset` streams the same tars whole over http://; of each clip it takes the
                 same window, decoded and made a batch by the same code, so that only the reading differs

Each has 2 workers. Seconds are those of a clock; processor time is that of the readers, without the server's,
their start included. The targets are for the limited bandwidth: without a limit all readers mostly decode,
and they decode the same frames.
"""

import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

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
from tests.data.remote.fast_server import FastServer, fast_server
from tests.data.remote.servers import BUCKET, CREDENTIALS
from tests.synthetic import synthetic_clip

NUM_CLIPS, CLIPS_A_SHARD, BATCH_SIZE, ROUNDS = 96, 8, 4, 3
LATENCY_S, BANDWIDTHS = 0.02, (10e6, None)
LAST_SHARD = -(-NUM_CLIPS // CLIPS_A_SHARD) - 1
NAMES = f"data/shards/train-{{000000..{LAST_SHARD:06d}}}.tar"
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


def read_ranges(shards: str, cache: Path, options: Mapping[str, Any]) -> int:
    """One pass by byte ranges; returns the samples read."""
    module = ShardDataModule(
        shards,
        examples=ClipExamples(clip_frames=CLIP_FRAMES, key_points=True),
        batch_size=BATCH_SIZE,
        num_workers=NUM_WORKERS,
        val_shards=shards,  # a pass that ends: the stream for training fetches beyond it
        remote=RemoteShards(cache=str(cache), options=options),
    )
    return sum(len(batch["key"]) for batch in module.val_dataloader())


def read_s3(server: FastServer, cache: Path) -> int:
    """By byte ranges from an S3."""
    return read_ranges(f"s3://{BUCKET}/{NAMES}", cache, {"endpoint_url": server.url})


def read_http(server: FastServer, cache: Path) -> int:
    """By byte ranges from a web server."""
    return read_ranges(f"{server.url}/{BUCKET}/{NAMES}", cache, {})


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


def read_whole(server: FastServer, cache: Path) -> int:
    """One pass by webdataset, whole tars; returns the samples read."""
    shards = wds.WebDataset(f"{server.url}/{BUCKET}/{NAMES}", shardshuffle=False).map(window_of)
    return sum(
        len(batch["key"]) for batch in DataLoader(shards, batch_size=BATCH_SIZE, num_workers=NUM_WORKERS)
    )


READERS: dict[str, Callable[[FastServer, Path], int]] = {
    "s3 ranges": read_s3,
    "http ranges": read_http,
    "webdataset": read_whole,
}


class Pass(NamedTuple):
    """One pass: samples a second, bytes that went over the network, seconds of a processor a sample."""

    rate: float
    sent: int
    busy: float


def processor_time() -> float:
    """Seconds of this process and of workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(root: Path, server: FastServer, name: str) -> Pass:
    """One pass of a reader."""
    cache = Path(tempfile.mkdtemp(dir=root))
    sent, busy, began = server.sent, processor_time(), time.perf_counter()
    count = READERS[name](server, cache)
    seconds = time.perf_counter() - began
    assert count == NUM_CLIPS
    shutil.rmtree(cache)
    return Pass(count / seconds, server.sent - sent, (processor_time() - busy) / count)


def report(rounds: list[dict[str, Pass]], stored: int, *, judged: bool) -> bool:
    """Print the readers of all rounds; returns whether both kinds of ranges reach the targets.

    Args:
        judged: False where there are no targets.
    """
    print(f"{'reader':12}{'samples a second':>18}{'bytes / shards':>16}{'ms of a processor':>19}    rounds")
    for name in READERS:
        rates, sent, busy = zip(*(each[name] for each in rounds), strict=True)
        print(f"{name:12}{statistics.median(rates):18.2f}{statistics.median(sent) / stored:16.1%}", end="")
        print(f"{1000 * statistics.median(busy):19.1f}    {'  '.join(f'{rate:.2f}' for rate in rates)}")
    all_met = True
    for name in (name for name in READERS if name != "webdataset"):
        ratio = statistics.median(each[name].rate / each["webdataset"].rate for each in rounds)
        share = statistics.median(each[name].sent for each in rounds) / stored
        for what, value, target, met in (
            (f"{name} / webdataset, samples a second", f"{ratio:.2f}", ">= 3", ratio >= 3),
            (f"{name}: bytes fetched / of the shards", f"{share:.1%}", "<= 20 %", share <= 0.2),
        ):
            all_met &= met or not judged
            verdict = f"{target}: {'met' if met else 'MISSED'}" if judged else ""
            print(f"{what:44}{value:>8}  {verdict}".rstrip())
    print()
    return all_met


def main() -> int:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    os.environ |= {**CREDENTIALS, "AWS_DEFAULT_REGION": "us-east-1"}
    met = True
    with tempfile.TemporaryDirectory() as folder:
        stored = write_shards(Path(folder, BUCKET, "data"))
        print(f"{NUM_CLIPS} clips of {NUM_FRAMES} frames of {SIZE}x{SIZE}, {stored / 1e6:.0f} MB in shards\n")
        with fast_server(Path(folder), latency=LATENCY_S) as server:
            for bandwidth in BANDWIDTHS:
                server.narrow(bandwidth)
                rounds = [
                    {name: measure(Path(folder), server, name) for name in READERS} for _ in range(ROUNDS)
                ]
                limit = f"{bandwidth / 1e6:.0f} MB a second" if bandwidth else "as fast as the server is"
                print(f"{1000 * LATENCY_S:.0f} ms before each answer, {limit}")
                met &= report(rounds, stored, judged=bandwidth is not None)
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
