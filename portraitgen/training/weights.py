"""Weights files: safetensors that carry their network's configuration, and how they get into a module.

Generation, evaluation and later stages read only these, never a training checkpoint. Names are those of the
network without adapters (`portraitgen.nn.lora.plain_name`), so that adapters can be added to what is trained.
"""

import difflib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from portraitgen.media.files import replacing
from portraitgen.nn.lora import plain_name
from portraitgen.training.weights_header import check_header, parse_facts

_METADATA_KEY = "portraitgen"
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_SHOWN = 8


def save_weights(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    *,
    config: Mapping[str, Any],
    step: int,
    system: str,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write `tensors` to `path`, atomically.

    Args:
        tensors: by name, e.g. `network.state_dict()`.
        config: what builds the network they belong to; plain JSON values.
        step: optimizer steps they were trained for.
        system: name of the system, e.g. "aniportrait".
        provenance: more facts for the reader, e.g. the commit; plain JSON values.

    Raises:
        ValueError: a tensor is not finite; the file that is there stays.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    broken = [name for name, tensor in stored.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(
            f"{len(broken)} tensors are not finite at step {step}, {broken[0]} among them: {path} is not "
            "written. Go on from an earlier file with a lower optimizer.lr"
        )
    facts = {"system": system, "step": step, "config": config, **(provenance or {})}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(stored, temporary, metadata={_METADATA_KEY: json.dumps(facts)})


def load_weights(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a safetensors file by name, on the CPU, and its facts (`system`, `step`, `config`, …).

    The facts are empty for a file that portraitgen did not write.

    Raises:
        ValueError: no such file, or not a whole safetensors file.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return tensors, parse_facts(metadata.get(_METADATA_KEY, ""), path=Path(path))


def load_facts(path: Path | str) -> dict[str, Any]:
    """The facts of `load_weights` alone: no tensor is read.

    Raises:
        ValueError: as `load_weights`.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
    return parse_facts(metadata.get(_METADATA_KEY, ""), path=Path(path))


@contextmanager
def _opened(path: Path | str) -> Iterator[Any]:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no weights file {path}")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is no .safetensors file: make one of it with python convert.py (--help)")
    check_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}): copy or export it again"
        ) from error


def load_into(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: Path | str,
    expect_missing: Sequence[str] = (),
    expect_unexpected: Sequence[str] = (),
    given: Collection[str] = (),
) -> list[str]:
    """Copy `tensors` into the parameters and persistent buffers of `module`, all of them or none.

    Args:
        source: where they come from, for the message.
        expect_missing: patterns (`*`, `?`) of names that `tensors` may lack; they keep their values.
        expect_unexpected: patterns of names in `tensors` that `module` may lack; they are ignored.
        given: names that `module` has the right values of, so that `tensors` may lack them.

    Returns:
        The names of `module` that `tensors` lacks, and that are not `given`.

    Raises:
        ValueError: any other difference in names, or one in shapes; lists them.
    """
    own_names = {plain_name(name): name for name in module.state_dict()}
    own = plain_state(module)
    missing = require_fit(
        own,
        tensors,
        source=source,
        target=type(module).__name__,
        expect_missing=expect_missing,
        expect_unexpected=expect_unexpected,
        given=given,
    )
    module.load_state_dict({own_names[name]: tensors[name] for name in own if name in tensors}, strict=False)
    return missing


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of `module` by the names that weights files use."""
    return {plain_name(name): tensor for name, tensor in module.state_dict().items()}


def require_fit(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    *,
    source: Path | str,
    target: str,
    expect_missing: Sequence[str] = (),
    expect_unexpected: Sequence[str] = (),
    given: Collection[str] = (),
) -> list[str]:
    """Compare `tensors` with the state `own` of a `target`, on any device: `load_into` before it loads."""
    missing = [name for name in own if name not in tensors and name not in given]
    lost = [name for name in missing if not matches(name, expect_missing)]
    surplus = [name for name in tensors if name not in own and not matches(name, expect_unexpected)]
    reshaped = [
        f"{name}: {list(tensors[name].shape)} in the file, {list(own[name].shape)} here"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    strange = [
        f"{name}: {_said(tensors[name].dtype)} in the file, {_said(own[name].dtype)} here"
        for name in own
        if name in tensors and not _same_kind(tensors[name].dtype, own[name].dtype)
    ]
    problems = [
        *_listed("not in the file", _with_hints(lost, surplus)),
        *_listed("in the file only", surplus),
        *_listed("of another shape", reshaped),
        *_listed("of another kind of number", strange),
    ]
    if problems:
        raise ValueError("\n  ".join([f"{source} does not fit {target}:", *problems]))
    return missing


def _same_kind(theirs: torch.dtype, ours: torch.dtype) -> bool:
    """Whether weights may be cast from one to the other: between usual floats, or not at all."""
    return theirs == ours or (theirs in _FLOATS and ours in _FLOATS)


def _said(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether `name` matches one of the shell-style `patterns`; `*` also spans dots."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _with_hints(names: list[str], candidates: list[str]) -> list[str]:
    """The first few names, each with the candidate that looks like it: renamed layers show at once."""
    hinted = []
    for name in names[:_SHOWN]:
        close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.8)
        hinted.append(f"{name} (the file has {close[0]})" if close else name)
    return hinted + names[_SHOWN:]


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = [f"  … and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return [f"{len(names)} {what}:", *(f"  {name}" for name in names[:_SHOWN]), *more]
