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
from pathlib import Path
from typing import Any

from portraitgen.data.index import index_path
from portraitgen.data.manifest import is_done, manifest_path, read_manifest
from portraitgen.data.prepare.ledger import Entry, ledger_path, read_ledger, write_ledger
from portraitgen.data.prepare.sources import KEY_LENGTH, Source
from portraitgen.data.shards import shard_path

# To be raised when the same sources and settings begin to give other samples: old shards are then made anew.
_VERSION = 4


@dataclass(frozen=True, slots=True)
class ShardJob:
    """One shard to make of `sources`; `fingerprint` changes with them and with every setting.

    `weights` are shares of the work, for the progress alone: the sizes of the sources in MB. `gone` names
    those sources of a finished shard that are no longer there: it is kept as it is. `renamed` are names that
    sources had, and keep here, with those that they have.
    """

    path: Path
    split: str
    number: int
    sources: tuple[Source, ...]
    fingerprint: str
    weights: tuple[float, ...] = ()
    gone: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()

    def weighed(self) -> "ShardJob":
        """The job with its weights."""
        sizes = (source.path.stat().st_size if source.path.is_file() else 0 for source in self.sources)
        return replace(self, weights=tuple(size / 1e6 for size in sizes))

    def is_finished(self) -> bool:
        """Whether the shard was made of these very sources and is still there, or has no sample at all."""
        manifest = read_manifest(self.path)
        if manifest is None:
            return False
        if not self.gone and manifest.get("config", {}).get("fingerprint") != self.fingerprint:
            return False
        return manifest["samples"] == 0 or is_done(self.path)

    def entries(self) -> list[Entry]:
        """What the ledger keeps of it."""
        return [Entry(source.name, source.key, stamp_of(source)) for source in self.sources]


def plan_shards(
    sources: Sequence[Source],
    out: Path,
    split: str,
    *,
    videos_per_shard: int,
    photos_per_shard: int,
    config: Mapping[str, Any],
    prune: bool = False,
) -> list[ShardJob]:
    """Deal the sources out to shards: those that were dealt out before stay, new ones go to new shards.

    A source that was only touched, copied or renamed, its content being the same, is the one that it was. A
    finished shard of which a source is gone stays as it is.

    Args:
        out: folder of the data set.
        split: of the clips; photos go to "{split}_photos".
        config: everything that shapes the samples, as JSON takes it.
        prune: make shards of which sources are gone anew without them, and remove those that lose all.

    Raises:
        ValueError: an earlier plan cannot be read.
    """
    jobs = []
    for is_video, name, per_shard in (
        (True, split, videos_per_shard),
        (False, f"{split}_photos", photos_per_shard),
    ):
        waiting = {source.name: source for source in sources if source.is_video == is_video}
        ledger = read_ledger(out, name)
        renamed = _renamed(ledger, waiting, out, name)
        for old, source in renamed.items():
            waiting[old] = replace(waiting.pop(source.name), name=old)
        for number, entries in ledger.items():
            names = tuple((each.name, renamed[each.name].name) for each in entries if each.name in renamed)
            present = [(entry, waiting.pop(entry.name)) for entry in entries if entry.name in waiting]
            gone = tuple(
                entry.name for entry in entries if entry.name not in {one.name for _, one in present}
            )
            path = shard_path(out, name, number)
            manifest = read_manifest(path)
            if gone and not prune and manifest is not None and (not manifest["samples"] or is_done(path)):
                kept = tuple(Source(Path(each.name), each.name, each.key, is_video) for each in entries)
                kept = tuple(
                    replace(one, known_stamp=each.stamp) for one, each in zip(kept, entries, strict=True)
                )
                jobs.append(ShardJob(path, name, number, kept, "", gone=gone, renamed=names))
                continue
            digests = (manifest or {}).get("config", {}).get("sources", {})
            chosen = tuple(_as_known(source, entry, digests.get(entry.name)) for entry, source in present)
            if chosen:
                fingerprint = _fingerprint(chosen, config)
                jobs.append(ShardJob(path, name, number, chosen, fingerprint, renamed=names))
        taken = {entry.key for entries in ledger.values() for entry in entries}
        fresh = [_with_free_key(source, taken) for source in waiting.values()]
        first = max(ledger, default=-1) + 1
        for number, start in enumerate(range(0, len(fresh), per_shard), start=first):
            new = tuple(fresh[start : start + per_shard])
            jobs.append(ShardJob(shard_path(out, name, number), name, number, new, _fingerprint(new, config)))
    return jobs


def write_plan(jobs: Sequence[ShardJob], out: Path, split: str) -> None:
    """Write down which source belongs to which shard, before the first is made."""
    for name in (split, f"{split}_photos"):
        shards = {job.number: job.entries() for job in jobs if job.split == name}
        if shards or read_ledger(out, name):
            write_ledger(out, name, shards)


def _renamed(
    ledger: Mapping[int, Sequence[Entry]], sources: Mapping[str, Source], out: Path, split: str
) -> dict[str, Source]:
    """Name of a source of a finished shard that is gone -> the new source that holds what it held."""
    known = {entry.name for entries in ledger.values() for entry in entries}
    fresh: dict[int, list[Source]] = {}
    for source in sources.values():
        if source.name not in known and type(source) is Source:
            fresh.setdefault(source.stamp()[-2], []).append(source)
    found: dict[str, Source] = {}
    for number, entries in ledger.items() if fresh else ():
        gone = [entry for entry in entries if entry.name not in sources and _size(entry) in fresh]
        manifest = read_manifest(shard_path(out, split, number)) if gone else None
        digests = (manifest or {}).get("config", {}).get("sources", {})
        for entry in gone:
            same = fresh[_size(entry)]
            digest = digests.get(entry.name)
            match = next((one for one in same if digest is not None and one.sha256() == digest), None)
            if match is not None:
                same.remove(match)
                found[entry.name] = match
    return found


def _size(entry: Entry) -> Any:
    """Bytes of a source when it was planned; None for one of another kind."""
    is_file = isinstance(entry.stamp, list) and len(entry.stamp) > 1 and isinstance(entry.stamp[-2], int)
    return entry.stamp[-2] if is_file else None


def _as_known(source: Source, entry: Entry, sha256: str | None) -> Source:
    """The source under the key that it had, and as what it was if its content is the same."""
    if source.key != entry.key:
        source = replace(source, key=entry.key)
    now = _as_json(source.stamp())
    touched = type(source) is Source and now[:-1] == entry.stamp[:-1] and now != entry.stamp
    if touched and sha256 is not None and source.sha256() == sha256:
        return replace(source, known_stamp=entry.stamp)
    return source


def _with_free_key(source: Source, taken: set[str]) -> Source:
    if source.key not in taken:
        return source
    suffix = hashlib.sha256(source.name.encode()).hexdigest()[:8]
    return replace(source, key=f"{source.key[: KEY_LENGTH - 9]}-{suffix}")


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
    """Remove the shards that an earlier run with the same settings planned and the present plan does not.

    Returns:
        Their names.

    Raises:
        ValueError: a shard of this split was made with other settings, by an earlier version, or not by a
            preparation.
    """
    wanted = {job.path for job in jobs}
    present: set[Path] = set()
    for name in (split, f"{split}_photos"):
        found = set((out / "shards").glob(f"{name}-*.tar"))
        manifests = (out / "manifests").glob(f"{name}-*.json")
        found |= {out / "shards" / f"{manifest.stem}.tar" for manifest in manifests}
        if found and (out / "manifests").is_dir() and not ledger_path(out, name).is_file():
            raise ValueError(
                f"out={out} holds shards of {name} that another version prepared, which did not write down "
                "what they were made of: choose another out= or split="
            )
        present |= found
    if present and not (out / "manifests").is_dir():
        raise ValueError(f"out={out} holds shards that were not prepared here: choose another out=")
    for shard in sorted(present):
        manifest = read_manifest(shard)
        stored = {"fingerprint": None, **(manifest or {}).get("config", config)}
        changed = [
            f"{key} was {stored.get(key)!r} and is {config.get(key)!r}"
            for key in sorted((stored.keys() | config.keys()) - {"fingerprint", "sources"})
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


def _as_json(stamp: Any) -> Any:
    return json.loads(json.dumps(stamp))


def stamp_of(source: Source) -> Any:
    """What a source is known as: see `Source.stamp`."""
    return _as_json(source.stamp()) if source.known_stamp is None else source.known_stamp


def _fingerprint(sources: Sequence[Source], config: Mapping[str, Any]) -> str:
    content = json.dumps([_VERSION, config, [stamp_of(source) for source in sources]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
