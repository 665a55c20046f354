"""Approximate sampling: at some steps what all blocks added last time is added again (TeaCache,
arXiv:2411.19108).

Which steps these are follows from the embeddings of the time alone, so it is known before the first step.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def skipped_steps(embeddings: Tensor, *, threshold: float, rescale: Sequence[float]) -> list[bool]:
    """Which of N steps are skipped: those up to which the blocks' output will have changed but little.

    First and last step are not. The one copy from the device is that of the result.

    Args:
        embeddings: of the steps' times [N, D], as the blocks get them.
        threshold: the change since the last step that was computed, summed up over the steps, below which one
            is skipped.
        rescale: coefficients, the highest power first, of the polynomial that makes of the relative change of
            an embedding that of the blocks' output.
    """
    before, after = embeddings[:-1].float(), embeddings[1:].float()
    relative = (after - before).abs().mean(dim=1) / before.abs().mean(dim=1)
    change = torch.zeros_like(relative)
    for coefficient in rescale:
        change = change * relative + coefficient
    skipped, gathered = [False], 0.0
    for value in change[:-1].tolist():
        gathered += value
        skipped.append(gathered < threshold)
        if not skipped[-1]:
            gathered = 0.0
    return [*skipped, False][: len(embeddings)]


class BlockMemory(ABC):
    """What all blocks of a transformer added at the last step that ran them. For one video, without gradient.

    Args:
        transformer: of diffusers.
        blocks: its attribute with the blocks.
        end: whose input is what the last of them gave.
    """

    def __init__(self, transformer: Any, *, blocks: str, end: nn.Module) -> None:
        self._transformer, self._name, self._end = transformer, blocks, end
        self._stand_in = nn.ModuleList([_AddedAgain(self)])
        self.added: Tensor | None = None

    @abstractmethod
    def joined(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Of a block's inputs those that blocks change, as one tensor, as `end` is given them."""

    @abstractmethod
    def parted(self, total: Tensor, *inputs: Tensor, **named: Tensor) -> Any:
        """What a block gives, of what `joined` would make of it."""

    @contextmanager
    def step(self, *, skip: bool) -> Iterator[None]:
        """Inside, the transformer makes one prediction, with its blocks or without."""
        with self._skipping() if skip else self._watching():
            yield

    @contextmanager
    def _skipping(self) -> Iterator[None]:
        assert self.added is not None, "the first step runs the blocks"
        blocks = getattr(self._transformer, self._name)
        setattr(self._transformer, self._name, self._stand_in)
        try:
            yield
        finally:
            setattr(self._transformer, self._name, blocks)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        first = getattr(self._transformer, self._name)[0]

        def begin(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            self.added = self.joined(*inputs, **named)

        def end(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert self.added is not None
            self.added = inputs[0].to(self.added.dtype) - self.added

        hooks = [
            first.register_forward_pre_hook(begin, with_kwargs=True),
            self._end.register_forward_pre_hook(end),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class _AddedAgain(nn.Module):
    """In the place of all blocks."""

    def __init__(self, memory: BlockMemory) -> None:
        super().__init__()
        self._memory = memory

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        memory = self._memory
        assert memory.added is not None
        return memory.parted(memory.joined(*inputs, **named) + memory.added, *inputs, **named)
