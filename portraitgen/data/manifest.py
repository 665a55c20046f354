"""What a shard's manifest and the data set's summary say, and whether a shard is done."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from portraitgen.data.archive import Shard
from portraitgen.data.index import AnyPath, index_path
from portraitgen.data.remote.address import Address
from portraitgen.data.remote.opened import source_of
from portraitgen.data.remote.store import Missing, Refused, StoreError
from portraitgen.media.bounded import read_json
from portraitgen.media.files import replace_file

_COUNTS = ("samples", "frames", "bytes")
_CONTENT = ("sizes", "fps", "codecs", "landmark_schemes", "licences")
_ERROR = ("source", "stage", "type", "message")


def manifest_path(shard: AnyPath) -> AnyPath:
    """`root/manifests/NAME.json` for `root/shards/NAME.tar`."""
    return shard.parent.parent / "manifests" / f"{shard.stem}.json"


def read_manifest(shard: Shard) -> dict[str, Any] | None:
    """The manifest of a shard; None when there is none that can be read, or what it says is no manifest's.

    Raises:
        DataError: a store does not answer, or refuses.
    """
    try:
        if isinstance(shard, Address) and shard.is_pipe:
            return None
        manifest = read_json(source_of(manifest_path(shard)))
    except Missing:
        return None
    except Refused:
        if isinstance(shard, Address) and shard.is_signed:
            return None  # the signature is the shard's own
        raise
    except StoreError:
        raise  # whether there is one is not known
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and _is_sound(manifest) else None


def _is_sound(manifest: dict[str, Any]) -> bool:
    """Whether its entries are of the kinds that are written; those of a stranger's file may be any."""
    config, errors = manifest.get("config", {}), manifest.get("errors", [])
    if not isinstance(config, dict) or not isinstance(errors, list):
        return False
    sources = config.get("sources", {})
    return (
        all(type(manifest.get(name)) is int and manifest[name] >= 0 for name in _COUNTS)
        and type(manifest.get("version", 0)) is int
        and isinstance(manifest.get("sha256", ""), str)
        and all(_are_texts(manifest.get(name, [])) for name in _CONTENT)
        and all(isinstance(error, dict) and _are_texts(map(error.get, _ERROR)) for error in errors)
        and isinstance(sources, dict)
        and all(isinstance(digest, str | None) for digest in sources.values())
    )


def _are_texts(values: Any) -> bool:
    return isinstance(values, Iterable) and all(isinstance(each, str) for each in values)


def shard_digest(shard: Shard) -> str | None:
    """SHA-256 of a shard as its manifest states it; None where none does."""
    return (read_manifest(shard) or {}).get("sha256")


def is_done(shard: Path) -> bool:
    """Whether a shard was finished and is still whole: index, manifest, and the size that this states."""
    manifest = read_manifest(shard)
    return (
        manifest is not None
        and index_path(shard).is_file()
        and shard.is_file()
        and shard.stat().st_size == manifest["bytes"]
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Readable, sorted, atomic."""
    replace_file(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def _identity(feature: Path) -> Any:
    try:
        return read_json(feature)["identity"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{feature} cannot be read ({error}): remove its folder, and compute these features again"
        ) from error


def update_dataset(root: Path) -> None:
    """Write `root/dataset.json`, see `summarize_dataset`."""
    write_json(root / "dataset.json", summarize_dataset(root))


def summarize_dataset(root: Path) -> dict[str, Any]:
    """What all finished shards of `root` together hold, summed up from their manifests."""
    splits: dict[str, dict[str, int]] = defaultdict(
        lambda: {"shards": 0, "samples": 0, "frames": 0, "bytes": 0}
    )
    content: dict[str, set[str]] = defaultdict(set)
    version = 0
    for shard in sorted((root / "shards").glob("*.tar")):
        manifest = read_manifest(shard)
        if manifest is None or not is_done(shard):
            continue
        split = splits[shard.stem.rpartition("-")[0]]
        split["shards"] += 1
        for name in _COUNTS:
            split[name] += manifest[name]
        for name in _CONTENT:
            content[name] |= set(manifest.get(name, []))
        version = manifest.get("version", 0)
    summary = {name: sorted(values) for name, values in content.items()}
    files = sorted((root / "aux").glob("*@*/feature.json"))
    features = {file.parent.name: _identity(file) for file in files}
    return {
        "schema": "portraitgen clip",
        "version": version,
        "splits": dict(splits),
        **summary,
        **({"features": features} if features else {}),
    }
