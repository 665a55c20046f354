"""Weights that others have published for their grading networks, loaded by path into our modules."""

from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)

_SHOWN = 4


def load_public_weights(network: Network, path: Path | str, *, published_as: str) -> Network:
    """Fill every parameter and buffer of `network` from a file of tensors, and freeze it for grading.

    Only tensors are read, no code is run. `num_batches_tracked` may be absent: files older than it exist, and
    it does nothing in evaluation.

    Args:
        path: a file written by `torch.save` that holds a state dict.
        published_as: the file expected, where it comes from and its licence, for the message.

    Returns:
        `network`, frozen and in evaluation mode.

    Raises:
        ValueError: no such file, something other than a state dict, or other names or shapes.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no weights file {path}: fetch {published_as}")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a file of tensors; fetch {published_as}") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path} holds something other than named tensors; fetch {published_as}")

    own = network.state_dict()
    counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    tensors = {**counters, **tensors}
    wrong = sorted(own.keys() ^ tensors.keys())
    wrong += [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ValueError(
            f"{path} does not fit {type(network).__name__}: names or shapes differ at "
            f"{', '.join(wrong[:_SHOWN])}{more}; fetch {published_as}"
        )
    network.load_state_dict(tensors)
    return network.requires_grad_(False).eval()
