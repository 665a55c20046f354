"""Weights that others have published, found by path and loaded strictly into our modules."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)

_SHOWN = 4


@dataclass(frozen=True, slots=True)
class PublicFile:
    """A file that others published, described well enough to get it.

    Attributes:
        name: usual name of the file.
        source: who published it and where.
        licence: under which it may be used.
    """

    name: str
    source: str
    licence: str

    def __str__(self) -> str:
        return f"{self.name} from {self.source} (licence: {self.licence})"


def find_public_file(path: Path | str, public: PublicFile) -> Path:
    """The path with `~` resolved.

    Raises:
        ValueError: there is no such file; with what to fetch.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"no weights file {path}: fetch {public}")
    return path


def read_public_tensors(path: Path | str, public: PublicFile) -> dict[str, Tensor]:
    """Tensors by name of a file written by `torch.save` or safetensors, on the CPU. No code in it is run.

    Raises:
        ValueError: no such file, or one that holds something other than named tensors.
    """
    path = find_public_file(path, public)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as a file of tensors; fetch {public}") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path} holds something other than named tensors; fetch {public}")
    return tensors


def fill_strictly(
    network: Network, tensors: dict[str, Tensor], *, path: Path | str, public: PublicFile
) -> Network:
    """Fill every parameter and buffer of `network`, and freeze it.

    `num_batches_tracked` may be absent: files older than it exist, and it does nothing in evaluation.

    Returns:
        `network`, frozen and in evaluation mode.

    Raises:
        ValueError: other names or shapes than the network's.
    """
    own = network.state_dict()
    counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    tensors = {**counters, **tensors}
    wrong = sorted(own.keys() ^ tensors.keys())
    wrong += [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ValueError(
            f"{path} does not fit {type(network).__name__}: names or shapes differ at "
            f"{', '.join(wrong[:_SHOWN])}{more}; fetch {public}"
        )
    network.load_state_dict(tensors)
    return network.requires_grad_(False).eval()


def load_public_weights(
    network: Network,
    path: Path | str,
    public: PublicFile,
    *,
    rename: Callable[[str], str] | None = None,
) -> Network:
    """Fill every parameter and buffer of `network` from a file of tensors, and freeze it.

    Args:
        path: a state dict written by `torch.save`, or safetensors.
        public: the file expected, for the message.
        rename: from the file's names to the network's.

    Returns:
        `network`, frozen and in evaluation mode.

    Raises:
        ValueError: as `read_public_tensors` and `fill_strictly`.
    """
    tensors = read_public_tensors(path, public)
    if rename is not None:
        tensors = {rename(name): tensor for name, tensor in tensors.items()}
    return fill_strictly(network, tensors, path=path, public=public)


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file in hex: what tells two weights files of one name apart."""
    path = Path(path).expanduser()
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@cache
def _digest(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
