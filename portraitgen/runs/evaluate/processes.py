"""One evaluation in several processes, as torchrun starts them: each grades its share, all gather."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among the others: `rank` of `world_size`."""

    rank: int
    world_size: int

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Every world_size-th item: those of this process."""
        return list(items[self.rank :: self.world_size])

    def gather(self, items: list[Item]) -> list[Item]:
        """The items of all processes, each once, on all of them."""
        if self.world_size == 1:
            return items
        gathered: list[list[Item] | None] = [None] * self.world_size
        distributed.all_gather_object(gathered, items)
        return [item for share in gathered for item in share or []]


@contextmanager
def evaluation_processes() -> Iterator[Processes]:
    """The processes that torchrun started, joined in a group; this one alone if it started none."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        yield Processes(0, 1)
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
