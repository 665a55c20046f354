"""Digests of large files, computed once and remembered on this machine: a gigabyte takes a second to hash."""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from portraitgen.media.files import replace_file
from portraitgen.media.public_weights import file_digest

log = logging.getLogger(__name__)


def remembered_digest(path: Path | str) -> str:
    """SHA-256 of a file in hex; computed anew when its path, size or time of change is another.

    Each file has an entry of its own in `$XDG_CACHE_HOME/portraitgen/digests` (`~/.cache` where that is not
    set), written whole: any number of processes may ask at the same time. Where nothing can be written, the
    file is hashed once a process.
    """
    path = Path(path).expanduser().resolve()
    status = path.stat()
    facts = {"path": str(path), "size": status.st_size, "changed": status.st_mtime_ns}
    entry = _entry(path)
    known = _read(entry)
    if {key: known.get(key) for key in facts} == facts and isinstance(known.get("sha256"), str):
        return str(known["sha256"])
    digest = file_digest(path)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        replace_file(entry, json.dumps(facts | {"sha256": digest}).encode())
    except OSError as error:
        log.info("the digest of %s is not remembered: %s", path, error)
    return digest


def _entry(path: Path) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home, "portraitgen/digests", hashlib.sha256(os.fsencode(path)).hexdigest()[:32] + ".json")


def _read(entry: Path) -> dict[str, Any]:
    try:
        content = json.loads(entry.read_bytes())
    except (OSError, ValueError):  # not there yet, or damaged: it is written again
        return {}
    return content if isinstance(content, dict) else {}
