"""Whether the features on the disk are what was written, of the shards that are there."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from portraitgen.data.features.store import FeatureFacts, FeatureIndex, feature_tar, shard_sha256
from portraitgen.data.sample import DataError


def feature_problems(root: Path, shards: list[Path]) -> Iterator[tuple[Path, str]]:
    """What is wrong with the features of a data set: tar, and problem. Every byte is read."""
    for folder in sorted((root / "aux").glob("*@*")):
        for shard in shards:
            tar = feature_tar(folder, shard)
            try:
                FeatureFacts.load(folder)
                index = FeatureIndex.load(tar)
                if str(index.shard_sha256) != shard_sha256(shard):
                    raise DataError(f"was computed from another {shard.name}")
                with tar.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != str(index.tar_sha256):
                        raise DataError("has other bytes than were written")
            except DataError as error:
                yield tar, f"{folder.name}/{shard.stem}: {error}"
