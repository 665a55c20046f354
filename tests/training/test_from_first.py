"""What the first process tells the others, where it alone has built the network."""

import pickle
from types import SimpleNamespace
from typing import Any

import torch
from torch import distributed, nn

from portraitgen.training.from_first import take_from_first


class WithText(nn.Module):
    """A network of few weights beside a text encoder of many."""

    frozen_facts: tuple[str, dict[str, str]] = ("", {})

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.BatchNorm1d(4)
        self.text_encoder = nn.Linear(400, 300)


def test_frozen_parts_are_sent_tensor_by_tensor(monkeypatch):
    """They were one pickled object, which every process had in its memory beside its own."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    objects: list[int] = []
    tensors: list[tuple[int, ...]] = []

    def broadcast(given: Any) -> Any:
        objects.append(len(pickle.dumps(given)))
        return given

    monkeypatch.setattr(distributed, "broadcast", lambda tensor, src: tensors.append(tuple(tensor.shape)))
    strategy: Any = SimpleNamespace(global_rank=0, root_device=torch.device("cpu"), broadcast=broadcast)
    learner = WithText()
    given = take_from_first(strategy, learner)
    assert sorted(given.buffers) == ["num_batches_tracked", "running_mean", "running_var"]
    assert tensors == [(300, 400), (300,)]
    assert sum(objects) < 10_000
