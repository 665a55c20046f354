"""Shards to batches on the device: the one datamodule of all systems."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from portraitgen.data.batch import PICTURES
from portraitgen.data.catalog import Catalog, Range, Selection
from portraitgen.data.clips import ClipWindows
from portraitgen.data.examples import ClipExamples
from portraitgen.data.features.reader import FeatureReader
from portraitgen.data.loader import FixedLoader, ResumableLoader
from portraitgen.data.order import EvenSpread, SampleOrder
from portraitgen.data.sample import REGIONS, DataError
from portraitgen.media.yuv import yuv420_to_rgb

T = TypeVar("T")

log = logging.getLogger(__name__)


class ClipDataModule(LightningDataModule):
    """Clips from shards, for training without end and for grading on fixed windows.

    Batches are those of data/batch.BatchLayout; on the device pictures become float in [-1, 1].

    Args:
        shards: path or patterns of the training shards, such as "data/shards/train-{000000..000127}.tar".
        clip_frames, stride: frames of a window and the distance between them, or several distances, see
            ClipWindows; 1 frame for single pictures.
        batch_size: per device.
        num_workers: reading processes per device; 0 reads in the trainer.
        seed: of order and windows.
        samples_per_epoch: over all devices; default one pass over the clips that can be used.
        train_span, val_span: share of each clip to train on and to grade on.
        val_shards: shards to grade on; default the training shards, in val_span. No grading without either.
        val_clips: number of windows to grade on; default one of each clip.
        pose_size: draw the landmarks on a canvas of this size, a side or (height, width).
        reference: "random", "first" or "neutral", see ClipWindows.
        snap_keyframes: see ClipWindows.
        masks: region of the window's person whose masks are read: "face", "head" or "person"; null for none.
            Samples in which somebody has none are left out.
        pictures: read frames and references, or those named: ["reference"]. Without them nothing is decoded.
            Grading reads both, unless there are none at all.
        features: precomputed features to read, such as ["vae"], or "vae@1a2b3c4d" where there are several.
        audio: read the sound of the windows; samples without any are left out.
        filters: score -> [at least, at most], null for no limit, such as {"min_face": [64, null]}.

    Raises:
        DataError: in `setup`, when the shards cannot be used as asked.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        *,
        clip_frames: int,
        stride: int | Sequence[int] = 1,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        samples_per_epoch: int | None = None,
        train_span: Sequence[float] = (0.0, 1.0),
        val_span: Sequence[float] | None = None,
        val_shards: str | Sequence[str] | None = None,
        val_clips: int | None = None,
        pose_size: int | Sequence[int] | None = None,
        reference: str = "random",
        snap_keyframes: bool = True,
        masks: str | None = None,
        pictures: bool | Sequence[str] = True,
        features: Sequence[str] | None = None,
        audio: bool = False,
        filters: Mapping[str, Sequence[float | None]] | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self._shards, self._val_shards = shards, val_shards
        self._num_workers, self._seed = num_workers, seed
        self._samples_per_epoch, self._val_clips = samples_per_epoch, val_clips
        if not isinstance(pictures, bool) and not set(pictures) <= set(PICTURES):
            raise DataError(f"data.pictures={list(pictures)}: give true, false or some of {list(PICTURES)}")
        chosen = pictures if not isinstance(pictures, bool) else PICTURES if pictures else ()
        self._pictures, self._audio, self._features = tuple(chosen), audio, list(features or [])
        self._pose_size: tuple[int, int] | None = None
        if pose_size is not None:
            self._pose_size = _pair("pose_size", [pose_size] * 2 if isinstance(pose_size, int) else pose_size)
        if masks is not None and masks not in REGIONS:
            raise DataError(f"data.masks={masks}: give one of {', '.join(REGIONS)}, or null")
        self._masks = masks
        self._filters: dict[str, Range] = {
            name: _pair(f"filters.{name}", limits) for name, limits in (filters or {}).items()
        }

        def windows(name: str, span: Sequence[float]) -> ClipWindows:
            distances = stride if isinstance(stride, int) else tuple(stride)
            return ClipWindows(clip_frames, distances, _pair(name, span), snap_keyframes, reference)

        self._train_windows = windows("train_span", train_span)
        self._val_windows = windows("val_span", val_span or (0.0, 1.0)) if val_span or val_shards else None
        if val_span and not val_shards and train_span[0] < val_span[1] and val_span[0] < train_span[1]:
            log.warning(f"data.val_span {list(val_span)} overlaps data.train_span {list(train_span)}")
        self.landmark_scheme: str | None = None  # known from `setup` on
        self._train: ClipExamples | None = None
        self._val: ClipExamples | None = None
        self._train_loader: ResumableLoader | None = None

    def setup(self, stage: str) -> None:
        """Open the indexes and choose the clips; once, whatever the stage."""
        if self._train is not None:
            return
        catalog = Catalog(self._shards)
        self.landmark_scheme = catalog.landmark_scheme
        features, chosen = self._choose(catalog, self._train_windows)
        self._num_train = len(chosen)
        order = SampleOrder(chosen.shards, seed=self._seed)
        self._train = self._examples(
            catalog, chosen, self._train_windows, order, features=features, pictures=self._pictures
        )
        if self._val_windows is not None:
            catalog = Catalog(self._val_shards) if self._val_shards else catalog
            features, chosen = self._choose(catalog, self._val_windows)
            self._num_val = self._val_clips or len(chosen)
            self._val = self._examples(
                catalog,
                chosen,
                self._val_windows,
                EvenSpread(len(chosen), self._num_val),
                features=features,
                pictures=PICTURES if self._pictures else (),
            )

    def train_dataloader(self) -> ResumableLoader:
        """The endless stream in epochs of `samples_per_epoch`; it is saved in Lightning's checkpoints."""
        self.setup("fit")
        assert self._train is not None
        samples = self._samples_per_epoch or self._num_train
        global_batch = self.batch_size * self._placement["world_size"]
        if samples < global_batch:
            raise DataError(
                f"an epoch of {samples} samples is less than one batch of {global_batch} over all devices"
                f" ({self._num_train} clips can be used): set data.samples_per_epoch or lower data.batch_size"
            )
        self._train_loader = ResumableLoader(
            self._train,
            batch_size=self.batch_size,
            batches_per_epoch=samples // global_batch,
            num_workers=self._num_workers,
            **self._placement,
        )
        return self._train_loader

    def val_dataloader(self) -> FixedLoader | list[Any]:
        """Fixed windows, spread over the clips; an empty list without `val_span` and `val_shards`."""
        self.setup("validate")
        if self._val is None:
            return []
        return FixedLoader(
            self._val,
            num_clips=self._num_val,
            batch_size=self.batch_size,
            num_workers=self._num_workers,
            **self._placement,
        )

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Pictures to float in [-1, 1], on the device; see data/batch.BatchLayout."""
        # Lightning has brought the other floats to the precision of the run.
        dtype = batch["landmarks"].dtype
        planes = [name for name in ("frames", "reference") if name in batch]
        pictures: dict[str, Any] = {name: yuv420_to_rgb(batch[name], dtype=dtype) for name in planes}
        if "pose" in batch:
            pictures["pose"] = batch["pose"].to(dtype).div_(127.5).sub_(1)
        if "masks" in batch:
            pictures["masks"] = batch["masks"].to(dtype).unsqueeze(2)
        # Features are stored in half precision.
        halves = {name: value.to(dtype) for name, value in batch.items() if _is_half(value)}
        return batch | halves | pictures

    def teardown(self, stage: str) -> None:
        """End the workers."""
        if self._train_loader is not None:
            self._train_loader.close()

    @property
    def _placement(self) -> dict[str, Any]:
        """What loaders need to know of the device; the numbers of one process where there is no trainer."""
        if self.trainer is None:
            return {"rank": 0, "world_size": 1, "pin_memory": False}
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size, "pin_memory": on_gpu}

    def _choose(self, catalog: Catalog, windows: ClipWindows) -> tuple[list[FeatureReader], Selection]:
        """The features of a catalog's samples, and the samples that can be used."""
        features = [FeatureReader(catalog, name) for name in self._features]
        chosen = catalog.select(
            windows,
            self._filters,
            masks=self._masks,
            audio=self._audio,
            having={feature.name: feature.has_values() for feature in features},
        )
        return features, chosen

    def _examples(
        self,
        catalog: Catalog,
        chosen: Selection,
        windows: ClipWindows,
        order: Callable[[int], int],
        *,
        features: Sequence[FeatureReader],
        pictures: tuple[str, ...],
    ) -> ClipExamples:
        return ClipExamples(
            catalog,
            chosen,
            windows,
            order,
            seed=self._seed,
            pose_size=self._pose_size,
            masks=self._masks,
            pictures=pictures,
            audio=self._audio,
            features=features,
        )


def _is_half(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float16


def _pair(name: str, values: Sequence[T]) -> tuple[T, T]:
    if len(values) != 2:
        raise DataError(f"data.{name} must be a pair, found {list(values)}")
    return values[0], values[1]
