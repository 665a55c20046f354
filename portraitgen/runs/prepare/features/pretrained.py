"""Where the models of features come from, and on which device they run."""

from pathlib import Path
from typing import Any, TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def load_pretrained(kind: type[Model], model: str, *, setting: str, device: str, **options: Any) -> Model:
    """A model of diffusers or transformers, frozen, in eval mode and on the device ("auto": a GPU if any).

    Args:
        model: a folder, or a hub id where the hub can be reached.
        setting: that names it, for the message.

    Raises:
        ValueError: it cannot be had.
    """
    try:
        loaded: Model = kind.from_pretrained(model_source(model), use_safetensors=True, **options)  # type: ignore[attr-defined]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{setting}={model}: no {kind.__name__} there, neither as a folder nor on the hub"
            f" ({str(error).splitlines()[0]})"
        ) from error
    return loaded.requires_grad_(False).eval().to(chosen_device(device))


def model_source(model: str) -> str:
    """`model` as `from_pretrained` takes it: a folder with `~` spelt out, or a hub id."""
    folder = Path(model).expanduser()
    return str(folder) if folder.is_dir() else model


def chosen_device(device: str) -> str:
    """`device` itself; for "auto" a GPU where there is one."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
