"""What weights files say of the pretrained models that they stand on, and loading them onto the same.

A weights file lacks what equals a base; it names the base's files with their digests instead. Loading starts
from a network that has been filled from its base, makes sure that it is the same, and lays over it what was
trained.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from portraitgen.media.digests import remembered_digest
from portraitgen.nn.lora import lora_settings, plain_name
from portraitgen.nn.pretrained import Base, base_tensors, bases
from portraitgen.training.weights import load_into


def base_facts(parts: Mapping[str, Base]) -> dict[str, Any]:
    """By part: `source` (folder or hub id) and `files`, the SHA-256 of each by its name; as JSON takes it."""
    return {part: file_facts(base.source, base.files) for part, base in parts.items()}


def file_facts(source: str, files: Iterable[Path]) -> dict[str, Any]:
    """The facts of one base. A file is hashed once on a machine: a gigabyte takes a second."""
    return {"source": source, "files": {file.name: remembered_digest(file) for file in files}}


def require_same_base(
    part: str, trained_on: Mapping[str, Any], here: Mapping[str, Any], *, source: Path | str
) -> None:
    """Compare facts of one base.

    Raises:
        ValueError: the files are others; names them and says what to do.
    """
    then, now = trained_on["files"], here["files"]
    fix = "put the model it was trained on there, or point the setting to where that is"
    if then.keys() != now.keys():
        raise ValueError(
            f"{source}: its {part} stands on {', '.join(then)} of {trained_on['source']}, but in "
            f"{here['source']} there is {', '.join(now)}: {fix}"
        )
    for name, digest in then.items():
        if now[name] != digest:
            raise ValueError(
                f"{source}: its {part} stands on another {name} than that of {here['source']}: trained on "
                f"SHA-256 {digest}, here is {now[name]}: {fix}"
            )


def require_same_bases(learner: nn.Module, facts: Mapping[str, Any], *, source: Path | str) -> None:
    """Make sure of what names and shapes of tensors do not show: the bases, and the strength of adapters.

    Args:
        learner: whose `network` is to get the tensors of the weights file `source`.
        facts: of that file.

    Raises:
        ValueError: the file stands on another base, or its adapters have another alpha.
    """
    found = bases(learner)
    for part, trained_on in facts.get("bases", {}).items():
        if part in found:
            require_same_base(part, trained_on, base_facts({part: found[part]})[part], source=source)
        elif part.startswith("network"):
            raise ValueError(
                f"{source}: its {part} stands on {trained_on['source']}, which this network does not load: "
                "set the network's base in the model's settings"
            )
    ours = lora_settings(learner)
    for adapter, theirs in facts.get("lora", {}).items():
        if adapter in ours and ours[adapter]["alpha"] != theirs["alpha"]:
            raise ValueError(
                f"{source}: its adapter {adapter!r} was trained with alpha {theirs['alpha']:g}, here it has "
                f"{ours[adapter]['alpha']:g}, which is another strength: set network.lora.{adapter}.alpha to "
                f"{theirs['alpha']:g}"
            )


def load_trained(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: Path | str,
    expect_missing: Sequence[str] = (),
    expect_unexpected: Sequence[str] = (),
) -> list[str]:
    """As `load_into`, but what `network` still has from its base is not missing in `tensors`."""
    return load_into(
        network,
        tensors,
        source=source,
        expect_missing=expect_missing,
        expect_unexpected=expect_unexpected,
        given={plain_name(name) for name in base_tensors(network)},
    )
