"""Normalisation that only scales and shifts what a convolution gives, put into the convolution."""

from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def fuse_norms(network: Network) -> Network:
    """A frozen network in evaluation mode without the batch normalisations that follow a convolution.

    Each would write a map of its own, and reading and writing those takes as long as the sums. What comes
    out is the same but for rounding.
    """
    for module in [*network.modules()]:
        for (name, convolution), (after, norm) in pairwise([*module.named_children()]):
            if isinstance(convolution, nn.Conv2d | nn.Conv3d) and isinstance(norm, _BatchNorm):
                assert not norm.training, "statistics of a batch cannot be put into weights"
                fused = fuse_conv_bn_eval(convolution, norm).requires_grad_(False)
                module.set_submodule(name, fused)
                module.set_submodule(after, nn.Identity())
    return network
