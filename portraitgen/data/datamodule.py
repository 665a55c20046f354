"""Shards to batches on the device: the one datamodule of all systems."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from lightning.pytorch import LightningDataModule

from portraitgen.data.catalog import Catalog, Range
from portraitgen.data.examples import Examples, ExamplesByPosition, OpenExamples
from portraitgen.data.loader import FixedLoader, ResumableLoader
from portraitgen.data.on_device import to_floats
from portraitgen.data.order import BucketOrder, BucketSpread, EvenSpread, SampleOrder
from portraitgen.data.remote.settings import RemoteShards
from portraitgen.data.sample import DataError

T = TypeVar("T")

log = logging.getLogger(__name__)


class ShardDataModule(LightningDataModule):
    """Examples from shards, for training without end and for grading on fixed ones.

    What an example is made of, `examples` says; batches are those of data/batch.

    Args:
        shards: path or patterns of the training shards, such as "data/shards/train-{000000..000127}.tar".
        examples: ClipExamples or PhotoExamples.
        batch_size: per device.
        num_workers: reading processes per device; 0 reads in the trainer.
        seed: of order and of all that is drawn.
        samples_per_epoch: over all devices; default as many as there are samples that can be used.
        train_span, val_span: share of each clip (or of the photos) to train on and to grade on.
        val_shards: shards to grade on; default the training shards, in val_span. No grading without either.
        val_samples: number of examples to grade on; default one of each sample.
        filters: score -> [at least, at most], null for no limit, such as {"min_face": [64, null]}.
        remote: how shards are read that are given by address, such as "s3://bucket/shards/train-*.tar".

    Raises:
        DataError: in `setup`, when the shards cannot be used as asked.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        *,
        examples: Examples,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        samples_per_epoch: int | None = None,
        train_span: Sequence[float] = (0.0, 1.0),
        val_span: Sequence[float] | None = None,
        val_shards: str | Sequence[str] | None = None,
        val_samples: int | None = None,
        filters: Mapping[str, Sequence[float | None]] | None = None,
        remote: RemoteShards | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self._shards, self._val_shards, self._remote = shards, val_shards, remote
        self._examples = examples
        self._num_workers, self._seed = num_workers, seed
        self._samples_per_epoch, self._val_samples = samples_per_epoch, val_samples
        self._filters: dict[str, Range] = {
            name: _pair(f"filters.{name}", limits) for name, limits in (filters or {}).items()
        }
        self._train_span = _span("train_span", train_span)
        self._val_span = _span("val_span", val_span or (0.0, 1.0)) if val_span or val_shards else None
        if val_span and not val_shards and train_span[0] < val_span[1] and val_span[0] < train_span[1]:
            log.warning(f"data.val_span {list(val_span)} overlaps data.train_span {list(train_span)}")
        self.landmark_scheme: str | None = None  # known from `setup` on
        self.may_change = False
        """Whether a resumed run may go on with other samples than those it was started with."""
        self._train: OpenExamples | None = None
        self._val: OpenExamples | None = None
        self._train_loader: ResumableLoader | None = None

    def setup(self, stage: str) -> None:
        """Open the indexes and choose the samples; once, whatever the stage."""
        if self._train is not None:
            return
        catalog = Catalog(self._shards, self._remote)
        self.landmark_scheme = catalog.landmark_scheme
        self._train = self._open(catalog, self._train_span, grading=False)
        if self._val_span is not None:
            if self._val_shards and self._val_shards != self._shards:
                catalog = Catalog(self._val_shards, self._remote)
            self._val = self._open(catalog, self._val_span, grading=True)

    def train_dataloader(self) -> ResumableLoader:
        """The endless stream in epochs of `samples_per_epoch`; it is saved in Lightning's checkpoints."""
        self._train_loader = self.train_stream(**self._placement)
        return self._train_loader

    def train_stream(
        self, *, rank: int = 0, world_size: int = 1, pin_memory: bool = False
    ) -> ResumableLoader:
        """The share of a rank in the stream.

        Raises:
            DataError: an epoch has not even one batch.
        """
        self.setup("fit")
        assert self._train is not None
        selection = self._train.selection
        samples = self._samples_per_epoch or len(selection)
        global_batch = self.batch_size * world_size
        if samples < global_batch:
            raise DataError(
                f"an epoch of {samples} samples is less than one batch of {global_batch} over all devices"
                f" ({len(selection)} samples can be used): set data.samples_per_epoch or lower"
                " data.batch_size"
            )
        order: SampleOrder | BucketOrder
        if len(self._train.layouts) > 1:
            _, counts = np.unique(selection.buckets, return_counts=True)
            if counts.min() < global_batch:
                log.warning(
                    f"{int((counts < global_batch).sum())} of {len(counts)} buckets hold fewer samples than a"
                    f" batch of {global_batch} over all devices, which then has some of them more than once:"
                    " use fewer buckets (data.examples.buckets)"
                )
            order = BucketOrder(selection.shards, selection.buckets, seed=self._seed, batch_size=global_batch)
        else:
            order = SampleOrder(selection.shards, seed=self._seed)
        return ResumableLoader(
            ExamplesByPosition(self._train, order, seed=self._seed),
            batch_size=self.batch_size,
            batches_per_epoch=samples // global_batch,
            num_workers=self._num_workers,
            rank=rank,
            world_size=world_size,
            pin_memory=pin_memory,
        )

    def val_dataloader(self) -> FixedLoader | list[Any]:
        """Fixed examples, spread over the samples; an empty list without `val_span` and `val_shards`."""
        self.setup("validate")
        return [] if self._val is None else self.val_stream(**self._placement)

    def val_stream(self, *, rank: int = 0, world_size: int = 1, pin_memory: bool = False) -> FixedLoader:
        """The share of a rank in what is graded on."""
        self.setup("validate")
        assert self._val is not None
        selection = self._val.selection
        count = self._val_samples or len(selection)
        many = len(self._val.layouts) > 1
        order = BucketSpread(selection.buckets, count) if many else EvenSpread(len(selection), count)
        return FixedLoader(
            ExamplesByPosition(self._val, order, seed=self._seed),
            groups=order.groups(),
            batch_size=self.batch_size,
            num_workers=self._num_workers,
            rank=rank,
            world_size=world_size,
            pin_memory=pin_memory,
        )

    @property
    def catalog(self) -> Catalog:
        """The shards that are trained on; from `setup` on."""
        assert self._train is not None
        return self._train.selection.catalog

    def state_dict(self) -> dict[str, Any]:
        """What the order of the training samples depends on beside the settings; for checkpoints."""
        catalog = self.catalog
        digest = hashlib.sha256()
        for shard, index in zip(catalog.shards, catalog.indexes, strict=True):
            digest.update(f"{shard.name} {int(index.shard_bytes)}\n".encode() + index.keys.tobytes())
        return {"shards": len(catalog.shards), "samples": len(catalog), "digest": digest.hexdigest()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare with a `state_dict`.

        Raises:
            DataError: the samples are others, and `may_change` is false.
        """
        now = self.state_dict()
        if now["digest"] != state["digest"] and not self.may_change:
            then, there = (f"{each['samples']} samples in {each['shards']} shards" for each in (state, now))
            raise DataError(
                f"data.shards: the run was started with {then}, there are now {there}, or they were prepared"
                " anew. Name the shards that it was started with, start a new run (name=…), or go on with"
                " allow_config_change=true"
            )

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Pictures to float in [-1, 1], on the device; see data/batch."""
        return to_floats(batch)

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

    def _open(self, catalog: Catalog, span: tuple[float, float], *, grading: bool) -> OpenExamples:
        return self._examples.open(catalog, span=span, filters=self._filters, grading=grading)


def _span(name: str, values: Sequence[float]) -> tuple[float, float]:
    low, high = _pair(name, values)
    if not all(isinstance(end, int | float) for end in (low, high)) or not 0 <= low < high <= 1:
        raise DataError(f"data.{name} {list(values)} must be a range within [0, 1], such as [0, 0.75]")
    return low, high


def _pair(name: str, values: Sequence[T]) -> tuple[T, T]:
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 2:
        found = "null" if values is None else values
        raise DataError(f"data.{name} must be a pair, such as [0, 1], found {found}")
    return values[0], values[1]
