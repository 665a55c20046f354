"""The json of a sample, which says what its other members hold: read and judged in one place.

Whoever wrote it may have claimed anything, so each entry that somebody reads is checked for type and bounds.
What it says of other members is compared with their bytes where these are read (`data/scan.py`).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from portraitgen.data.sample import REGIONS, DataError
from portraitgen.media.bounded import parse_rate, read_json

SCHEMA_VERSION = 1

MAX_FRAMES = 10_000_000
MAX_SIDE = 16_384
MAX_PEOPLE = 1000
MAX_LANDMARKS = 10_000
_MAX_TEXT = 10_000


def read_description(data: bytes | memoryview) -> dict[str, Any]:
    """The json of a sample, judged.

    Raises:
        DataError: damaged, of another schema, or it claims what cannot be; names the first such entry.
    """
    try:
        about = read_json(data)
    except ValueError as error:
        raise DataError(f"its json is damaged ({error})") from error
    if not isinstance(about, dict):
        raise DataError("its json is no mapping")
    if about.get("v") != SCHEMA_VERSION:
        raise DataError(f"is of schema v{about.get('v')}, this program reads v{SCHEMA_VERSION}")
    for place, problem in _problems(about):
        raise DataError(f"its json claims what cannot be: {place} {problem}")
    return about


def _problems(about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kinds = {"key": str, "source": dict, "video": dict, "landmarks": dict, "tracks": dict, "scores": dict}
    yield from _types(about, "", kinds)
    yield from _types(about["source"], "source.", {"uri": str})
    regions = about.get("regions", ["face"])
    if not isinstance(regions, list) or any(name not in REGIONS for name in regions):
        yield "regions", f"must be some of {', '.join(REGIONS)}"
    video = about["video"]
    yield from _types(video, "video.", {"codec": str})
    yield from _whole(video, "video.", {"n": MAX_FRAMES, "w": MAX_SIDE, "h": MAX_SIDE})
    try:
        parse_rate(video.get("fps"))
    except ValueError as error:
        yield "video.fps", f"is {error}"
    yield from _types(about["landmarks"], "landmarks.", {"scheme": str})
    yield from _whole(about["landmarks"], "landmarks.", {"num": MAX_LANDMARKS}, least=0)
    yield from _tracks(about["tracks"], video["n"])
    identities = about.get("identities") or {}
    if not isinstance(identities, dict) or not all(_is_text(name) and name for name in identities.values()):
        yield "identities", "must be person → name"
    mask_ids = about.get("mask_ids")
    if mask_ids is not None and not (isinstance(mask_ids, list) and all(map(_is_whole, mask_ids))):
        yield "mask_ids", "must be a list of whole numbers"
    if mask_ids and not _is_text(about.get("mask_source")):
        yield "mask_source", "must be a text"
    for name, value in about["scores"].items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or abs(value) > 1e30:
            yield f"scores.{name}", f"is {str(value)[:40]!r}, no finite number"


def _tracks(tracks: Mapping[str, Any], num_frames: int) -> Iterator[tuple[str, str]]:
    if not 1 <= len(tracks) <= MAX_PEOPLE or sorted(tracks) != sorted(map(str, range(1, len(tracks) + 1))):
        yield "tracks", f"must be 1 to {MAX_PEOPLE} people, numbered from 1"
        return
    for person, regions in tracks.items():
        if not isinstance(regions, dict) or "face" not in regions or not regions.keys() <= {*REGIONS}:
            yield f"tracks.{person}", f"must be regions of {', '.join(REGIONS)}, the face among them"
            return
        for name, facts in regions.items():
            place = f"tracks.{person}.{name}"
            runs = facts.get("valid") if isinstance(facts, dict) else None
            if not isinstance(runs, list) or not all(_is_run(run, num_frames) for run in runs):
                yield f"{place}.valid", f"must be ranges [start, end) within {num_frames} frames"
                return
            for entry in ("mask_id", "control_frame"):
                if entry in facts and not _is_whole(facts[entry]):
                    yield f"{place}.{entry}", "must be a whole number"


def _types(content: Mapping[str, Any], place: str, kinds: Mapping[str, type]) -> Iterator[tuple[str, str]]:
    for name, kind in kinds.items():
        value = content.get(name)
        if not isinstance(value, kind) or (isinstance(value, str) and len(value) > _MAX_TEXT):
            yield f"{place}{name}", f"must be {'a text' if kind is str else 'a mapping'}"


def _whole(
    content: Mapping[str, Any], place: str, limits: Mapping[str, int], *, least: int = 1
) -> Iterator[tuple[str, str]]:
    for name, limit in limits.items():
        if not _is_whole(content.get(name)) or not least <= content[name] <= limit:
            yield f"{place}{name}", f"must be a whole number from {least} to {limit}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_TEXT


def _is_run(run: Any, num_frames: int) -> bool:
    whole = isinstance(run, list) and len(run) == 2 and all(map(_is_whole, run))
    return whole and 0 <= run[0] < run[1] <= num_frames
