"""The folder of a data set on a disk, where shards are made, checked and described."""

from pathlib import Path

from omegaconf import DictConfig

from portraitgen.data.remote.address import is_address, redacted


def out_folder(config: DictConfig) -> Path:
    """`config.out`.

    Raises:
        ValueError: it is an address.
    """
    if is_address(str(config.out)):
        raise ValueError(
            f"out={redacted(str(config.out))} is an address: shards are prepared, checked and described in a"
            " folder on a disk. Copy them from or to the store by its own tools; training reads them there"
            " (data.shards=s3://…)"
        )
    return Path(config.out)
