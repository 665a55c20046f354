"""What samples.jsonl says of a sample beside its files: all that made it, and what it is graded by."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from portraitgen.media.digests import remembered_digest
from portraitgen.training.inputs import Given
from portraitgen.training.request import Request


def describe_sample(
    config: DictConfig,
    request: Request,
    given: Given,
    facts: Mapping[str, Any],
    *,
    kinds: Mapping[str, str],
    device: torch.device,
) -> dict[str, Any]:
    """The row of one sample, plain JSON.

    Args:
        config: of generate.py.
        given: what the request was made of.
        facts: of the weights file.
        kinds: of the keys of `given`; see `training.inputs.Input`.
    """
    span = _train_span(request, facts)
    low, high = (round(share * request.source.get("num_frames", 0)) for share in span or (0, 0))
    numbers = request.numbers
    sampling = OmegaConf.to_container(config.sampling, resolve=True)
    assert isinstance(sampling, dict)
    texts = {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
    return {
        "fps": None if request.fps is None else str(request.fps),
        "frames": numbers.tolist(),
        **request.source,
        "references": [[str(photo.resolve()) for photo in person] for person in request.references],
        **texts,
        "asked": {key: _plain(given.values.get(key)) for key in ("size", "fps", "length")},
        "inputs": {key: _plain(value) for key, value in given.values.items() if key.startswith("inputs.")},
        "train_span": span,
        "frames_trained_on": int(((numbers >= low) & (numbers < high)).sum()),
        "system": facts["system"],
        "weights": str(config.weights),
        "step": facts["step"],
        "commit": facts.get("commit"),
        "recognizers": facts.get("recognizers", {}),
        "seed": given.seed,
        "digests": _digests(
            [config.weights, *(given.values[key] for key in kinds if kinds[key] == "weights")]
        ),
        "device": device.type,
        "precision": config.precision,
        "deterministic": config.deterministic,
        "faces": OmegaConf.to_container(config.faces, resolve=True),
        "model": OmegaConf.to_container(config.model, resolve=True),
        "sampling": {name: value for name, value in sampling.items() if value is not None},
        "interpolation": OmegaConf.to_container(config.interpolation, resolve=True),
    }


def _digests(paths: Iterable[Any]) -> dict[str, str]:
    """SHA-256 of weights files by path; of a folder those of its weights."""
    files: list[Path] = []
    for path in (Path(path) for path in paths if path is not None):
        files += sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return {str(file): remembered_digest(file) for file in files if file.is_file()}


def _plain(value: Any) -> Any:
    """A value of `Given` as JSON has it."""
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _train_span(request: Request, facts: Mapping[str, Any]) -> list[float] | None:
    """The share of this clip that the weights were trained on, [0, 0] if none; None if that is not known.

    Shards are told apart by the digest in their manifests, so that moved or copied data are recognised.
    """
    if "shard" not in request.source:
        return [0.0, 0.0]
    digest = request.source["shard_sha256"]
    trained_on = facts.get("shards", [None])
    if digest is None or None in trained_on:
        return None
    return list(facts["data"].get("train_span", (0.0, 1.0))) if digest in trained_on else [0.0, 0.0]
