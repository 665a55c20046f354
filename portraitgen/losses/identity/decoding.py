"""Pictures of the latents that matter, a few at a time, so that memory does not grow with their number."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from portraitgen.losses.loss import ForwardPass


def choose_span(seen: ForwardPass, latents: int | None) -> tuple[int, int] | None:
    """Which latents of a clip to look at: neighbours from a random one on, the same ones of all samples.

    The choice is drawn on the CPU, from the random numbers of the step.

    Args:
        latents: how many; None: all of them.

    Returns:
        The first and the one after the last; None of pictures, which have no time.
    """
    clean = seen.noised.clean
    if clean.ndim != 5:
        return None
    count = clean.shape[1] if latents is None else min(latents, clean.shape[1])
    start = int(torch.randint(clean.shape[1] - count + 1, ()))
    return start, start + count


def decode_rows(
    seen: ForwardPass,
    latents: Tensor,
    span: tuple[int, int] | None,
    *,
    at_once: int,
    recompute: bool,
    context: int | None = None,
) -> Tensor:
    """Pictures [R, n, 3, H, W] of samples [R, …], of clips those that a span of their latents stands for.

    Args:
        at_once: samples that the decoder sees together.
        recompute: keep nothing of the decoder, and run it again for the gradient (gradient checkpointing).
        context: see `ForwardPass.decode_span`.
    """

    def decode(some: Tensor) -> Tensor:
        if span is None:
            return seen.decode(some).unsqueeze(1)
        return seen.decode_span(some, *span, context)

    run: Callable[[Tensor], Tensor] = decode
    if recompute and latents.requires_grad and torch.is_grad_enabled():

        def run(some: Tensor) -> Tensor:
            # The decoder draws no random numbers.
            pictures = checkpoint(decode, some, use_reentrant=False, preserve_rng_state=False)
            assert isinstance(pictures, Tensor)
            return pictures

    return torch.cat([run(some) for some in latents.split(at_once)])


def region_of(pictures: Tensor, region: tuple[float, float, float, float] | None) -> Tensor:
    """The part of pictures [..., H, W] between shares [left, top, right, bottom] of their sides."""
    if region is None:
        return pictures
    height, width = pictures.shape[-2:]
    left, top, right, bottom = (
        round(share * size) for share, size in zip(region, (width, height, width, height), strict=True)
    )
    return pictures[..., top:bottom, left:right]
