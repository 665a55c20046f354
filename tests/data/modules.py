"""The data module over examples of a kind, from settings of both in one heap."""

import inspect
from typing import Any

from portraitgen.data.clip_examples import ClipExamples
from portraitgen.data.datamodule import ShardDataModule
from portraitgen.data.pair_examples import PairExamples
from portraitgen.data.photo_examples import PhotoExamples


def clip_module(shards: str | list[str], **settings: Any) -> ShardDataModule:
    return _module(ClipExamples, shards, settings)


def photo_module(shards: str | list[str], **settings: Any) -> ShardDataModule:
    return _module(PhotoExamples, shards, settings)


def pair_module(shards: str | list[str], **settings: Any) -> ShardDataModule:
    return _module(PairExamples, shards, settings)


def _module(kind: type, shards: str | list[str], settings: dict[str, Any]) -> ShardDataModule:
    names = inspect.signature(kind).parameters.keys() & settings.keys()
    examples = kind(**{name: settings.pop(name) for name in names})
    return ShardDataModule(shards, examples=examples, **settings)
