"""Are precomputed latents those of the codec that trains? Looked at once, before a run learns nonsense."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from portraitgen.data.catalog import Catalog
from portraitgen.data.features.reader import FeatureReader
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import DataError
from portraitgen.media.yuv import yuv420_to_rgb

if TYPE_CHECKING:
    from portraitgen.diffusion.latents import LatentCodec

_LARGEST_ERROR = 0.05
# The same VAE in half precision is about 0.01 off, another one 0.3 and more.


def check_latents(shards: str | Sequence[str], features: Sequence[str], codec: "LatentCodec") -> None:
    """Encode one frame of the shards anew and compare it with what is stored of it.

    Args:
        shards, features: as the data module takes them; features that are no latents are not looked at.

    Raises:
        ValueError: they are not the latents of this codec.
    """
    catalog = Catalog(shards)
    for reader in (FeatureReader(catalog, name) for name in features):
        if reader.kind.batch_key == "latents":
            _compare(catalog, reader, codec)


def _compare(catalog: Catalog, latents: FeatureReader, codec: "LatentCodec") -> None:
    number = int(np.flatnonzero(latents.has_values())[0])
    starts = np.cumsum([0, *(len(index) for index in catalog.indexes)])
    shard = int(np.searchsorted(starts, number, side="right")) - 1
    row = number - int(starts[shard])
    height, width = catalog.indexes[shard].size[row].tolist()
    planes = np.empty((1, height * 3 // 2, width), np.uint8)
    ClipReader(catalog).frames(shard, row, np.array([0]), out=planes)
    expected = codec.encode(yuv420_to_rgb(torch.from_numpy(planes)))[0].float().cpu()
    # The map of the file cannot be written to.
    stored = torch.from_numpy(latents.values(shard, row, 0).astype(np.float32))
    same = stored.shape == expected.shape
    error = float((stored - expected).norm() / expected.norm()) if same else float("inf")
    if not error <= _LARGEST_ERROR:
        found = f"differ by {error:.0%}" if same else f"are {list(stored.shape)} and {list(expected.shape)}"
        raise DataError(
            f"data.examples.features: {latents.name} are not the latents of this model's codec (of"
            f" {catalog.indexes[shard].key(row)} they {found}): compute them with the same VAE,"
            " python prepare.py features …"
        )
