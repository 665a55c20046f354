"""Which sources make which shard, and which shards are finished already.

A shard is the unit of work: it is made of a fixed list of sources, whichever process makes it and however
often the preparation is interrupted. Videos and photos never share a shard: clips are all of one size, photos
are not.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from portraitgen.data.index import index_path
from portraitgen.data.manifest import is_done, manifest_path, read_manifest
from portraitgen.data.prepare.sources import Source
from portraitgen.data.shards import shard_path
from portraitgen.media.decode import stated_frames

# To be raised when the same sources and settings begin to give other samples: old shards are then made anew.
_VERSION = 2


@dataclass(frozen=True, slots=True)
class ShardJob:
    """One shard to make of `sources`; `fingerprint` changes with them and with every setting.

    `frames` says how long each source is, for the progress alone; see `with_lengths`.
    """

    path: Path
    split: str
    number: int
    sources: tuple[Source, ...]
    fingerprint: str
    frames: tuple[float, ...] = ()

    def with_lengths(self, fps: Fraction | None) -> "ShardJob":
        """The job with the frames of its sources at `fps` (None: their own rate), as their headers say."""
        return replace(
            self,
            frames=tuple(
                stated_frames(source.path, fps=fps) if source.is_video else 1.0 for source in self.sources
            ),
        )

    def is_finished(self) -> bool:
        """Whether the shard was made of these very sources and is still there, or has no sample at all."""
        manifest = read_manifest(self.path)
        if manifest is None or manifest.get("config", {}).get("fingerprint") != self.fingerprint:
            return False
        return manifest["samples"] == 0 or is_done(self.path)


def plan_shards(
    sources: Sequence[Source],
    out: Path,
    split: str,
    *,
    videos_per_shard: int,
    photos_per_shard: int,
    config: Mapping[str, Any],
) -> list[ShardJob]:
    """Deal the sources out to shards, in their order.

    Args:
        out: folder of the data set.
        split: of the clips; photos go to "{split}_photos".
        config: everything that shapes the samples, as JSON takes it.
    """
    jobs = []
    for is_video, name, per_shard in (
        (True, split, videos_per_shard),
        (False, f"{split}_photos", photos_per_shard),
    ):
        kind = [source for source in sources if source.is_video == is_video]
        for number, start in enumerate(range(0, len(kind), per_shard)):
            chosen = tuple(kind[start : start + per_shard])
            jobs.append(
                ShardJob(shard_path(out, name, number), name, number, chosen, _fingerprint(chosen, config))
            )
    return jobs


def discard_shard(path: Path) -> None:
    """Remove what there is of a shard; its manifest first, which says that it is done."""
    for part in (manifest_path(path), index_path(path), path):
        part.unlink(missing_ok=True)
        discard_unfinished(part)


def discard_unfinished(path: Path) -> None:
    """Remove what a killed process left while it wrote `path`."""
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def clear_superfluous(
    jobs: Sequence[ShardJob], out: Path, split: str, *, config: Mapping[str, Any]
) -> list[str]:
    """Remove the shards that an earlier run with the same settings made and the present sources do not.

    Returns:
        Their names.

    Raises:
        ValueError: a shard of this split was made with other settings, or not by a preparation.
    """
    wanted = {job.path for job in jobs}
    present: set[Path] = set()
    for name in (split, f"{split}_photos"):
        present |= set((out / "shards").glob(f"{name}-*.tar"))
        manifests = (out / "manifests").glob(f"{name}-*.json")
        present |= {out / "shards" / f"{manifest.stem}.tar" for manifest in manifests}
    if present and not (out / "manifests").is_dir():
        raise ValueError(f"out={out} holds shards that were not prepared here: choose another out=")
    for shard in sorted(present):
        manifest = read_manifest(shard)
        stored = {"fingerprint": None, **(manifest or {}).get("config", config)}
        changed = [
            f"{key} was {stored.get(key)!r} and is {config.get(key)!r}"
            for key in sorted((stored.keys() | config.keys()) - {"fingerprint"})
            if stored.get(key) != config.get(key)
        ]
        if changed:
            raise ValueError(
                f"out={out} holds shard {shard.stem}, which was prepared in another way "
                f"({'; '.join(changed)}): choose another out= or split=, or delete that folder"
            )
    superfluous = sorted(present - wanted)
    for shard in superfluous:
        discard_shard(shard)
    return [shard.name for shard in superfluous]


def _fingerprint(sources: Sequence[Source], config: Mapping[str, Any]) -> str:
    content = json.dumps([_VERSION, config, [source.stamp() for source in sources]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
