"""What a training sample of ConsisID costs to load: ours against a loader that goes about it as the
official one.

    python -m benchmarks.consisid_step                                        # a drawn clip
    python -m benchmarks.consisid_step ConsisID/asserts/demo_train_data/dataname   # ConsisID's own

A sample is 49 frames, three apart, of 480x720, their face masks, a reference face and the caption. All
readers take turns, several times; figures are CPU milliseconds a sample (user and system), medians over the
rounds.

official   tables parsed, frames decoded to RGB and scaled as floats, a PNG a mask, crops by Lanczos: what its
           dataset does at every sample, with the functions that repeat its choices exactly (compat)
pixels     `ClipExamples` of clips that were imported at 480x720: planes as they are in the video, packed
           masks
features   from precomputed features alone: latents of windows and of noised faces (CogVideoX's shapes),
           masks, faces (EVA-CLIP's shapes), prompts (T5's), and no picture

Then a training step on such a batch is made, and must run no module of the VAE, of T5 and of EVA-CLIP
(benchmarks/consisid_cached_step). Exits with 1 if it does, or a ratio is below the target.
"""

import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import consisid_cached_step
from benchmarks.consisid_cached_step import TEXT_DIM, WORDS
from portraitgen.data.catalog import Catalog
from portraitgen.data.clip_examples import ClipExamples
from portraitgen.data.datamodule import ShardDataModule
from portraitgen.data.features.feature import FaceValues, Value, WindowValues
from portraitgen.data.features.store import FeatureFacts, write_empty, write_features
from portraitgen.data.formats.consisid.crops import crop_images, short_resize_and_crop
from portraitgen.data.formats.consisid.export import ConsisIDFolder
from portraitgen.data.formats.consisid.frame_indices import Skip, generate_frame_indices_for_face
from portraitgen.data.formats.consisid.references import Person, select_mask_frames_from_index
from portraitgen.data.formats.consisid.samples import import_clip
from portraitgen.data.on_device import to_floats
from portraitgen.data.prepare.masks import EllipseMasks
from portraitgen.data.sample import ClipSample
from portraitgen.data.shards import ShardWriter
from tests.synthetic import synthetic_clip

SIZE, CLIP_FRAMES, STRIDE = (480, 720), 49, 3
NUM_FRAMES, DRAWN_SIZE = 240, 720
ROUNDS, SAMPLES = 3, {"official": 2, "pixels": 6, "features": 30}
FEATURES = ["video_vae", "face", "prompt"]
TARGET = 3.0


def draw_clip(root: Path) -> Path:
    """A drawn face in ConsisID's layout: the folder."""
    drawn = EllipseMasks()(synthetic_clip("drawn", num_frames=NUM_FRAMES, size=DRAWN_SIZE))
    folder = ConsisIDFolder(root / "consisid")
    folder.add(drawn)
    folder.finish()
    return root / "consisid"


class OfficialStyle:
    """Samples of the one clip of a folder, made from its files each time."""

    def __init__(self, folder: Path) -> None:
        self.boxes = next((folder / "refine_bbox_jsons").glob("*.json"))
        self.video = folder / "videos" / f"{self.boxes.stem}.mp4"
        self.tables = folder / "track_masks_data" / self.boxes.stem

    def __call__(self, number: int) -> dict[str, Tensor]:
        """float32 [49, 3, 480, 720], uint8 masks [49, 480, 720], float32 reference face [1, 3, 480, 480]."""
        rng = random.Random(number)
        names = ("corresponding_data", "control_sam2_frame", "valid_frame")
        tables = {name: json.loads((self.tables / f"{name}.json").read_text()) for name in names}
        (track, *_) = tables["valid_frame"]
        valid = tables.pop("valid_frame")[track]
        region = "head" if "head" in valid else "face"
        valid = {"face": valid["face"], "head": valid[region]}
        controls = tables["control_sam2_frame"].setdefault(track, {})
        controls.setdefault("head", controls.get("face", valid["face"][0]))
        person = Person(
            track=track,
            bbox_data=json.loads(self.boxes.read_text()),
            valid_frame=valid,
            read_mask=self._mask,
            **tables,
        )
        frames, _ = generate_frame_indices_for_face(
            CLIP_FRAMES, STRIDE, valid, rng=rng, tolerance=6, skip=Skip(7, 7), compat=True
        )
        shown = select_mask_frames_from_index(
            person, frames, frames, rng=rng, max_frames=1, dense_masks=True, compat=True
        )
        pictures = self._decode([*frames, *shown.frames])
        clip = torch.from_numpy(np.stack([pictures[frame] for frame in frames]))
        masks = torch.from_numpy(np.stack(shown.clip_masks)[..., None].astype(np.uint8))
        faces, _ = crop_images([pictures[frame] for frame in shown.frames], shown.boxes, compat=True)
        resized = [Image.fromarray(face).resize((480, 480), Image.Resampling.LANCZOS) for face in faces]
        return {
            "frames": short_resize_and_crop(clip, size=SIZE, keep=None).permute(0, 3, 1, 2).float() / 127.5
            - 1,
            "masks": short_resize_and_crop(masks, size=SIZE, keep=None)[..., 0],
            "face": torch.from_numpy(np.stack([np.asarray(face, np.float32) for face in resized])),
        }

    def _decode(self, frames: list[int]) -> dict[int, np.ndarray]:
        wanted, found = set(frames), {}
        with av.open(str(self.video)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    found[number] = frame.to_ndarray(format="rgb24")
                if number == max(wanted):
                    break
        return found

    def _mask(self, number: int, frame: int) -> np.ndarray:
        file = self.tables / "tracking_mask_results" / str(number) / f"annotated_frame_{frame:05d}.png"
        return np.asarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED))


class Zeros:
    """In the place of features of full size, whose networks are billions of weights: their shapes, and
    zeros.
    """

    unit: str

    def __init__(self, name: str, batch_key: str, unit: str, make: Callable[[ClipSample], Value]) -> None:
        self.name, self.batch_key, self.unit, self._make = name, batch_key, unit, make

    def depends_on(self) -> dict[str, Any]:
        return {"weights": "none", "max_tokens": WORDS}

    def __call__(self, sample: ClipSample) -> Value:
        return self._make(sample)


def latents_of(sample: ClipSample) -> WindowValues:
    reach = (CLIP_FRAMES - 1) * STRIDE + 1
    starts = range(0, sample.num_frames - reach + 1, 12)
    windows = np.array([(start, STRIDE, CLIP_FRAMES) for start in starts], np.int64)
    return WindowValues(windows, np.zeros((len(windows), 13, 2, 16, 60, 90), np.float16))


def faces_of(sample: ClipSample) -> FaceValues:
    dtype = np.dtype(
        [
            ("face_embedding", np.float32, (1280,)),
            ("face_hidden", np.float16, (5, 577, 1024)),
            ("face_picture", np.uint8, (512, 512, 3)),
            ("face_key_points", np.float32, (5, 2)),
            ("face_latent_distribution", np.float16, (4, 1, 2, 16, 60, 90)),
        ]
    )
    frames = np.linspace(0, sample.num_frames - 1, 4).astype(np.int64)
    return FaceValues(np.stack([np.zeros(4, np.int64), frames], axis=1), np.zeros(4, dtype))


def prompt_of(sample: ClipSample) -> np.ndarray:
    return np.zeros((WORDS, TEXT_DIM), np.float16)


def import_here(folder: Path, root: Path) -> str:
    """Pattern of shards with the clip at the size of training, and features of it."""
    name = next((folder / "refine_bbox_jsons").glob("*.json")).stem
    sample = import_clip(folder, name, size=SIZE, caption="a person talks")
    with ShardWriter(root) as writer:
        writer.write(sample)
    shards = str(root / "shards" / "*.tar")
    (shard,) = Catalog(shards).shards
    for feature in (
        Zeros("video_vae", "latent_distribution", "window", latents_of),
        Zeros("face", "face", "face", faces_of),
        Zeros("prompt", "prompt_embeds", "tokens", prompt_of),
    ):
        kept = FeatureFacts.of(feature).save(root)
        write_features(kept, shard, [(sample.key, feature(sample))])
        if feature.name == "prompt":
            write_empty(kept, prompt_of(sample))
    return shards


def loader(shards: str, count: int, features: list[str] | None, seed: int) -> ShardDataModule:
    examples = ClipExamples(
        clip_frames=CLIP_FRAMES,
        stride=STRIDE,
        reference=None if features else "random",
        pictures=not features,
        masks="face",
        captions=not features,
        features=features,
    )
    return ShardDataModule(
        shards, examples=examples, batch_size=1, num_workers=0, seed=seed, samples_per_epoch=count
    )


def read_ours(shards: str, count: int, features: list[str] | None, seed: int) -> None:
    for batch in loader(shards, count, features, seed).train_dataloader():
        assert all(
            value.dtype != torch.float32 for name, value in batch.items() if name in ("frames", "masks")
        )


def cpu_ms(read: Callable[[], None], count: int) -> float:
    before = sum(os.times()[:4])
    read()
    return 1000 * (sum(os.times()[:4]) - before) / count


def main() -> int:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else draw_clip(root)
        shards, official = import_here(folder, root / "data"), OfficialStyle(folder)

        def read_official(seed: int) -> None:
            for number in range(SAMPLES["official"]):
                official(SAMPLES["official"] * seed + number)

        readers: dict[str, Callable[[int], None]] = {
            "official": read_official,
            "pixels": partial(read_ours, shards, SAMPLES["pixels"], None),
            "features": partial(read_ours, shards, SAMPLES["features"], FEATURES),
        }
        rounds: dict[str, list[float]] = {name: [] for name in readers}
        for seed in range(ROUNDS):
            for name, read in readers.items():
                rounds[name].append(cpu_ms(partial(read, seed), SAMPLES[name]))
        (planes,) = loader(shards, 1, FEATURES, 0).train_dataloader()
        cached = consisid_cached_step.check(to_floats(planes), root / "text")
    costs = {name: statistics.median(values) for name, values in rounds.items()}
    print(f"{'loader':10}{'CPU-ms a sample':>16}    rounds")
    for name, cost in costs.items():
        print(f"{name:10}{cost:16.1f}    {'  '.join(f'{value:.0f}' for value in rounds[name])}")
    missed = 0
    for name in ("pixels", "features"):
        ratio = costs["official"] / costs[name]
        missed += ratio < TARGET
        print(
            f"official / {name}: {ratio:.1f}, target >= {TARGET:g}: {'met' if ratio >= TARGET else 'MISSED'}"
        )
    return 1 if missed or not cached else 0


if __name__ == "__main__":
    sys.exit(main())
