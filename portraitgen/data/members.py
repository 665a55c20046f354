"""A sample as the members of a tar, and back (schema v1). No pickles; equal samples give equal bytes.

    mp4 | jpg        the clip (closed GOP, no audio) or the photo
    wav              16 kHz mono s16
    tracks.npz       box f32[T,N,R,4], conf f32[T,N,R], kps f32[T,N,5,2], valid bool[T,N,R],
                     affine f32[T,2,3], embedding f32[N,D] when there is one; R regions, named in the json:
                     the face alone, or face, head and person (NaN for those that a track has not)
    lmk.npz          lmk f32[T,N,K,2]; uncompressed, so that single frames can be read in place
    masks.npz        packed u8[], off i64[T*M+1], size i32[2] (height, width); M masks a frame, ids in the
                     json; bytes off[i] to off[i+1] are `pack_runs` of mask i: single ones are read in place
    face.{id}_{k}.jpg  k-th best crop of person id (from 1)
    txt              caption
    json             all the rest. Always the last member: a sample whose json is there is complete.

Landmarks are float32 because float16 rounds to a quarter of a pixel from pixel 256 on.
"""

import io
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from portraitgen.data.description import SCHEMA_VERSION, read_description
from portraitgen.data.sample import DAMAGE, REGIONS, ClipMasks, ClipRegion, ClipSample, ClipTrack, DataError
from portraitgen.media.bounded import parse_rate, read_arrays
from portraitgen.media.masks import pack_runs, unpack_runs


def valid_runs(valid: np.ndarray) -> list[list[int]]:
    """Maximal runs of True in bool [T] as half-open ranges [start, end)."""
    edges = np.flatnonzero(np.diff(valid.astype(np.int8), prepend=0, append=0))
    return edges.reshape(-1, 2).tolist()


def sample_members(sample: ClipSample, *, codec: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Extension and bytes of each member, in their fixed order; `codec` holds "codec" and "gop"."""
    if sample.video is not None:
        yield "mp4", sample.video
    if sample.image is not None:
        yield "jpg", sample.image
    if sample.audio is not None:
        yield "wav", sample.audio
    yield "tracks.npz", _npz(**_track_arrays(sample))
    yield "lmk.npz", _npz(lmk=np.stack([track.landmarks for track in sample.tracks], axis=1))
    if sample.masks is not None:
        yield "masks.npz", _npz(**_packed_masks(sample, sample.masks))
    for person, track in enumerate(sample.tracks, start=1):
        for rank, crop in enumerate(track.faces):
            yield f"face.{person}_{rank}.jpg", crop
    if sample.caption is not None:
        yield "txt", sample.caption.encode()
    yield "json", json.dumps(_description(sample, codec), sort_keys=True, allow_nan=False).encode()


def sample_from_members(members: Mapping[str, bytes | memoryview]) -> ClipSample:
    """Inverse of `sample_members`, from all members of one sample by extension.

    Raises:
        DataError: a member is missing or damaged, or of another schema.
    """
    try:
        return _parsed(members)
    except DataError:
        raise
    except DAMAGE as error:
        raise DataError(f"members are damaged ({type(error).__name__}: {error})") from error


def _parsed(members: Mapping[str, bytes | memoryview]) -> ClipSample:
    about = read_description(members["json"])
    arrays = read_arrays(members["tracks.npz"])
    landmarks = read_arrays(members["lmk.npz"])["lmk"]
    masks = None
    if "masks.npz" in members:
        stored = read_arrays(members["masks.npz"])
        runs = [unpack_runs(stored["packed"][slice(*cut)].tobytes()) for cut in pairwise(stored["off"])]
        offsets = np.cumsum([0, *map(len, runs)], dtype=np.int64)
        joined = np.concatenate([np.zeros(0, np.uint32), *runs])
        masks = ClipMasks(joined, offsets, tuple(about["mask_ids"]), about["mask_source"])

    def optional(name: str) -> bytes | None:
        return bytes(members[name]) if name in members else None

    def region(person: int, name: str) -> ClipRegion | None:
        if name not in about["tracks"][str(person)]:
            return None
        place = np.s_[:, person - 1, about["regions"].index(name)]
        return ClipRegion(
            boxes=arrays["box"][place], scores=arrays["conf"][place], valid=arrays["valid"][place]
        )

    def per_region(person: int, entry: str) -> dict[str, int]:
        regions = about["tracks"][str(person)].items()
        return {name: facts[entry] for name, facts in regions if entry in facts}

    def crops(person: int) -> tuple[bytes, ...]:
        count = sum(name.startswith(f"face.{person}_") for name in members)
        return tuple(bytes(members[f"face.{person}_{rank}.jpg"]) for rank in range(count))

    return ClipSample(
        key=about["key"],
        num_frames=about["video"]["n"],
        fps=parse_rate(about["video"]["fps"]),
        width=about["video"]["w"],
        height=about["video"]["h"],
        tracks=tuple(
            ClipTrack(
                boxes=arrays["box"][:, i, 0],
                scores=arrays["conf"][:, i, 0],
                keypoints=arrays["kps"][:, i],
                landmarks=landmarks[:, i],
                valid=arrays["valid"][:, i, 0],
                embedding=arrays["embedding"][i] if "embedding" in arrays else None,
                identity_name=(about.get("identities") or {}).get(str(i + 1)),
                faces=crops(i + 1),
                head=region(i + 1, "head"),
                person=region(i + 1, "person"),
                mask_ids=per_region(i + 1, "mask_id"),
                control_frames=per_region(i + 1, "control_frame"),
            )
            for i in range(landmarks.shape[1])
        ),
        landmark_scheme=about["landmarks"]["scheme"],
        affine=arrays["affine"],
        source=about["source"],
        video=optional("mp4"),
        image=optional("jpg"),
        audio=optional("wav"),
        masks=masks,
        scores=about["scores"],
        caption=bytes(members["txt"]).decode() if "txt" in members else None,
    )


def _packed_masks(sample: ClipSample, masks: ClipMasks) -> dict[str, np.ndarray]:
    packed = [pack_runs(masks.runs[slice(*cut)]) for cut in pairwise(masks.offsets)]
    return {
        "packed": np.frombuffer(b"".join(packed), np.uint8),
        "off": np.cumsum([0, *map(len, packed)], dtype=np.int64),
        "size": np.array([sample.height, sample.width], dtype=np.int32),
    }


def _track_arrays(sample: ClipSample) -> dict[str, np.ndarray]:
    tracks, names = sample.tracks, _region_names(sample)
    shape = (sample.num_frames, len(tracks), len(names))
    boxes = np.full((*shape, 4), np.nan, np.float32)
    scores = np.full(shape, np.nan, np.float32)
    valid = np.zeros(shape, bool)
    for person, track in enumerate(tracks):
        for name, region in track.regions().items():
            place = np.s_[:, person, names.index(name)]
            boxes[place], scores[place], valid[place] = region.boxes, region.scores, region.valid
    arrays = {
        "box": boxes,
        "conf": scores,
        "kps": np.stack([track.keypoints for track in tracks], axis=1),
        "valid": valid,
        "affine": np.broadcast_to(sample.affine, (sample.num_frames, 2, 3)).astype(np.float32),
    }
    embeddings = [track.embedding for track in tracks if track.embedding is not None]
    if embeddings and len(embeddings) < len(tracks):
        raise DataError(
            f"sample {sample.key}: only {len(embeddings)} of {len(tracks)} tracks have an embedding"
        )
    if embeddings:
        arrays["embedding"] = np.stack(embeddings).astype(np.float32)
    return arrays


def _region_names(sample: ClipSample) -> list[str]:
    found = {name for track in sample.tracks for name in track.regions()}
    return list(REGIONS) if len(found) > 1 else ["face"]


def _region_facts(track: ClipTrack) -> dict[str, Any]:
    """What the json says of each region of a track: mask, frame it was followed from, valid frames."""
    facts: dict[str, Any] = {}
    for name, region in track.regions().items():
        facts[name] = {"valid": valid_runs(region.valid)}
        if name in track.mask_ids:
            facts[name]["mask_id"] = track.mask_ids[name]
        if name in track.control_frames:
            facts[name]["control_frame"] = track.control_frames[name]
    return facts


def _description(sample: ClipSample, codec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "v": SCHEMA_VERSION,
        "key": sample.key,
        "source": dict(sample.source),
        "video": {
            "n": sample.num_frames,
            "fps": str(sample.fps),
            "w": sample.width,
            "h": sample.height,
            **codec,
        },
        "landmarks": {"scheme": sample.landmark_scheme, "num": sample.tracks[0].landmarks.shape[1]},
        "regions": _region_names(sample),
        "tracks": {str(person): _region_facts(track) for person, track in enumerate(sample.tracks, start=1)},
        "identities": {
            str(person): track.identity_name
            for person, track in enumerate(sample.tracks, start=1)
            if track.identity_name is not None
        },
        "mask_ids": None if sample.masks is None else sample.masks.ids,
        "mask_source": None if sample.masks is None else sample.masks.source,
        "scores": {name: float(value) for name, value in sample.scores.items()},
    }


def _npz(**arrays: np.ndarray) -> bytes:
    # numpy gives every member the date 1980-01-01, so that equal arrays give equal bytes.
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
