"""Which source belongs to which shard, written down before the work begins, so that it never changes.

out/plan/{split}.json holds, for each shard, its sources with the key of their samples and what they
looked like. A shard keeps its sources whatever comes later: new ones go to new shards, and those that are
gone take nothing with them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portraitgen.data.manifest import write_json
from portraitgen.media.bounded import read_json


@dataclass(frozen=True, slots=True)
class Entry:
    """A source of a shard, as it was when the shard was planned. `stamp` is that of `Source.stamp`."""

    name: str
    key: str
    stamp: Any


def ledger_path(out: Path, split: str) -> Path:
    """Where the plan of a split lies."""
    return out / "plan" / f"{split}.json"


def read_ledger(out: Path, split: str) -> dict[int, list[Entry]]:
    """Number of the shard -> its sources; empty where nothing was planned.

    Raises:
        ValueError: the file cannot be read.
    """
    path = ledger_path(out, split)
    try:
        stored = read_json(path)
        return {
            int(number): [Entry(str(name), str(key), [*stamp]) for name, key, stamp in sources]
            for number, sources in stored["shards"].items()
        }
    except (FileNotFoundError, NotADirectoryError):
        return {}  # what is wrong with the folder is said when it is made
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): it says which source belongs to which shard. Put it back, or "
            "prepare into another out="
        ) from error


def write_ledger(out: Path, split: str, shards: Mapping[int, Iterable[Entry]]) -> None:
    """Replace the plan of a split, all of it or nothing."""
    path = ledger_path(out, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Sequence[Any]] = {
        str(number): [[entry.name, entry.key, entry.stamp] for entry in entries]
        for number, entries in sorted(shards.items())
    }
    write_json(path, {"shards": rows})
