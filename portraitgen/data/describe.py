"""What a data set, or one sample of it, holds, in lines for the eye."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from portraitgen.data.archive import Archive
from portraitgen.data.description import read_description
from portraitgen.data.features.store import FeatureFacts
from portraitgen.data.index import ShardIndex
from portraitgen.data.manifest import read_manifest
from portraitgen.data.members import valid_runs
from portraitgen.data.prepare.outcome import count
from portraitgen.data.sample import ClipSample
from portraitgen.media.audio import decode_wav
from portraitgen.media.bounded import parse_rate

_ERRORS_SHOWN = 5
_MOST = 6


def describe_shards(root: Path, shards: Sequence[Path], indexes: Sequence[ShardIndex]) -> Iterator[str]:
    """Lines on some shards of the data set `root`, with their indexes."""
    about = [each for shard, index in zip(shards, indexes, strict=True) for each in _jsons(shard, index)]
    clips = [each for each in about if each["video"]["codec"] != "jpeg"]
    frames = sum(each["video"]["n"] for each in clips)
    seconds = sum(each["video"]["n"] / parse_rate(each["video"]["fps"]) for each in clips)
    size = sum(shard.stat().st_size for shard in shards)
    yield (
        f"{count(len(shards), 'shard')}, {size / 1e6:.1f} MB: {count(len(clips), 'clip')} of"
        f" {count(frames, 'frame')} ({timedelta(seconds=round(float(seconds)))}),"
        f" {count(len(about) - len(clips), 'photo')}"
    )
    yield _line("schema", (f"v{each['v']}" for each in about))
    yield _line("shards", (shard.stem.rpartition("-")[0] for shard in shards))
    yield _line("size", (f"{each['video']['w']}x{each['video']['h']}" for each in about))
    if clips:
        yield _line("fps", (each["video"]["fps"] for each in clips))
        lengths = np.array([each["video"]["n"] for each in clips])
        yield f"  {'frames':11}{lengths.min()} to {lengths.max()} a clip, median {np.median(lengths):.0f}"
    yield _line("codec", (f"{each['video']['codec']}, group of {each['video']['gop']}" for each in about))
    yield _line("landmarks", (f"{each['landmarks']['num']} {each['landmarks']['scheme']}" for each in about))
    yield _line("faces", (f"{len(each['tracks'])} a sample" for each in about))
    yield _line("masks", (each["mask_source"] or "none" for each in about))
    names = [name for each in about for name in each.get("identities", {}).values()]
    yield _line("identities", names) if names else f"  {'identities':11}none named"
    yield _line("sources", (each["source"]["uri"] for each in about))
    yield _line("licences", (each["source"].get("licence") or "unknown" for each in about))
    yield from _features(root, shards)
    yield from _scores([each["scores"] for each in about])
    yield from _errors(shards)


def describe_sample(sample: ClipSample, *, shard: Path, sizes: dict[str, int]) -> Iterator[str]:
    """Lines on one sample; `sizes` are the bytes of its members."""
    yield f"{sample.key} in {shard}"
    source = sample.source
    span = f", {source['t0']:.2f} to {source['t1']:.2f} s" if source.get("t1") else ""
    yield f"  {'source':11}{source['uri']}{span}, licence {source.get('licence') or 'unknown'}"
    rate = f" at {sample.fps} a second" if sample.fps else ""
    yield f"  {'picture':11}{sample.num_frames} frames of {sample.width}x{sample.height}{rate}"
    if sample.audio is not None:
        heard, sample_rate = decode_wav(sample.audio)
        yield f"  {'sound':11}{len(heard) / sample_rate:.2f} s at {sample_rate} Hz"
    yield f"  {'landmarks':11}{sample.tracks[0].landmarks.shape[1]} {sample.landmark_scheme}"
    for person, track in enumerate(sample.tracks, start=1):
        runs = ", ".join(f"{start} to {end - 1}" for start, end in valid_runs(track.valid)) or "none"
        embedding = "none" if track.embedding is None else f"{len(track.embedding)} values"
        yield (
            f"  {f'face {person}':11}valid frames {runs}; identity {track.identity_name or 'not named'},"
            f" embedding {embedding}, {len(track.faces)} crops, regions {', '.join(track.regions())}"
        )
    if sample.masks is not None:
        yield f"  {'masks':11}{len(sample.masks.ids)} a frame, {sample.masks.source}"
    if sample.caption is not None:
        yield f"  {'caption':11}{sample.caption}"
    for name, value in sample.scores.items():
        yield f"  {name:15}{value:.4g}"
    yield f"  {'members':11}" + ", ".join(f"{name} {size} B" for name, size in sizes.items())


def _jsons(shard: Path, index: ShardIndex) -> Iterator[dict[str, Any]]:
    archive = Archive(shard)
    for row in range(len(index)):
        yield read_description(archive.read(index.members(row)["json"]))


def _line(name: str, values: Iterable[str]) -> str:
    """The values and how often each is there, the most frequent first."""
    counts = Counter(values).most_common()
    if counts and counts[0][1] == 1 and len(counts) > 1:
        return (
            f"  {name:11}{len(counts)} different, such as {', '.join(value for value, _ in counts[:_MOST])}"
        )
    shown = ", ".join(value if len(counts) == 1 else f"{value} ({times})" for value, times in counts[:_MOST])
    more = f" and {len(counts) - _MOST} more" if len(counts) > _MOST else ""
    return f"  {name:11}{shown}{more}"


def _features(root: Path, shards: Sequence[Path]) -> Iterator[str]:
    folders = sorted(path.parent for path in (root / "aux").glob("*/feature.json"))
    for folder in folders:
        facts = FeatureFacts.load(folder)
        done = sum((folder / f"{shard.stem}.idx.npz").is_file() for shard in shards)
        yield f"  {'feature':11}{facts.folder_name}: {done} of {len(shards)} shards"
    if not folders:
        yield f"  {'features':11}none"


def _scores(scores: Sequence[dict[str, float]]) -> Iterator[str]:
    """A table of quantiles."""
    yield f"  {'score':15}{'samples':>8}{'min':>10}{'25 %':>10}{'median':>10}{'75 %':>10}{'max':>10}"
    for name in sorted({name for each in scores for name in each}):
        values = np.array([each[name] for each in scores if name in each])
        quantiles = "".join(f"{value:10.4g}" for value in np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
        yield f"  {name:15}{len(values):8d}{quantiles}"


def _errors(shards: Sequence[Path]) -> Iterator[str]:
    errors = [error for shard in shards for error in (read_manifest(shard) or {}).get("errors", [])]
    yield f"  {'left out':11}{len(errors)}" + (":" if errors else "")
    yield from (f"    {error['message']}" for error in errors[:_ERRORS_SHOWN])
    if len(errors) > _ERRORS_SHOWN:
        yield f"    … and {len(errors) - _ERRORS_SHOWN} more: see manifests/"
