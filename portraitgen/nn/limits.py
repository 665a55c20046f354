"""A limit on how many parts a network may have, so that settings cannot ask for endless building."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

MAX_MODULES = 20_000
"""Of a network: layers, and parts of layers."""


@contextmanager
def limited_modules(limit: int = MAX_MODULES) -> Iterator[None]:
    """Inside the block at most `limit` modules can be made.

    Raises:
        ValueError: more were asked for.
    """
    initialise = nn.Module.__init__
    made = 0

    def counted(module: nn.Module, *arguments: Any, **options: Any) -> None:
        nonlocal made
        made += 1
        if made > limit:
            raise ValueError(f"the network would have more than {limit} layers and parts of layers")
        initialise(module, *arguments, **options)

    nn.Module.__init__ = counted  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.__init__ = initialise  # type: ignore[method-assign]
