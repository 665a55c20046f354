"""What a shard's manifest and the data set's summary say, and whether a shard is done."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from portraitgen.data.index import index_path
from portraitgen.media.files import replace_file


def manifest_path(shard: Path) -> Path:
    """`root/manifests/NAME.json` for `root/shards/NAME.tar`."""
    return shard.parent.parent / "manifests" / f"{shard.stem}.json"


def read_manifest(shard: Path) -> dict[str, Any] | None:
    """The manifest of a shard; None when there is none that can be read."""
    try:
        manifest = json.loads(manifest_path(shard).read_text())
    except (OSError, ValueError):
        return None
    return (
        manifest if isinstance(manifest, dict) and {"bytes", "samples", "frames"} <= manifest.keys() else None
    )


def shard_digest(shard: Path) -> str | None:
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
        for name in ("samples", "frames", "bytes"):
            split[name] += manifest[name]
        for name in ("sizes", "fps", "codecs", "landmark_schemes", "licences"):
            content[name] |= set(manifest[name])
        version = manifest["version"]
    summary = {name: sorted(values) for name, values in content.items()}
    files = sorted((root / "aux").glob("*@*/feature.json"))
    features = {file.parent.name: json.loads(file.read_text())["identity"] for file in files}
    return {
        "schema": "portraitgen clip",
        "version": version,
        "splits": dict(splits),
        **summary,
        **({"features": features} if features else {}),
    }
