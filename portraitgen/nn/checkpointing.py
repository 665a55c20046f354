"""Gradient checkpointing of one module call."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def run(module: nn.Module, *args: Any, recompute: bool, **kwargs: Any) -> Any:
    """Call ``module(*args, **kwargs)``; with `recompute`, compute its activations again for the gradient.

    The non-reentrant form is used: it also works where no input needs a gradient, under DDP and in a compiled
    graph. Nothing is recomputed where no gradient is wanted.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(module, *args, use_reentrant=False, **kwargs)
    return module(*args, **kwargs)
