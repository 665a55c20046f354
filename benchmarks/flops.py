"""The least time that networks can take: their floating-point operations at the rate of a matrix product."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from portraitgen.metrics.networks.i3d import I3D
from portraitgen.metrics.networks.inception import Inception
from portraitgen.metrics.networks.lpips import Lpips
from portraitgen.metrics.networks.syncnet import SyncNet

METHODS: Mapping[str, tuple[type[nn.Module], str]] = {
    "lips": (SyncNet, "embed_lips"),
    "sound": (SyncNet, "embed_audio"),
    "inception": (Inception, "forward"),
    "i3d": (I3D, "forward"),
    "alexnet": (Lpips, "maps"),
}
"""What the networks with weights to be fetched are asked for, each by a tensor of float32 or uint8."""
_SIDE, _TRIALS = 2048, 5


def count_calls() -> Counter[str]:
    """From now on counts the calls of `METHODS` in this process, by name, type and shape of the input."""
    calls: Counter[str] = Counter()

    def counted(name: str, work: Callable[[nn.Module, Tensor], Any]) -> Callable[[nn.Module, Tensor], Any]:
        def call(network: nn.Module, given: Tensor) -> Any:
            words = (name, str(given.dtype).removeprefix("torch."), *map(str, given.shape))
            calls[" ".join(words)] += 1
            return work(network, given)

        return call

    for name, (network, method) in METHODS.items():
        setattr(network, method, counted(name, getattr(network, method)))
    return calls


def count_flops(calls: Mapping[str, int]) -> int:
    """Floating-point operations of counted calls, on tensors without values."""
    total = 0
    for call, times in calls.items():
        name, dtype, *shape = call.split()
        network, method = METHODS[name]
        with torch.device("meta"), torch.no_grad():
            work = getattr(network().eval(), method)
            with FlopCounterMode(display=False) as counter:
                work(torch.empty([*map(int, shape)], dtype=getattr(torch, dtype)))
        total += times * counter.get_total_flops()
    return total


def matmul_rate() -> float:
    """Floating-point operations a CPU second of one core in a float32 matrix product: the best trial."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one, other = torch.rand(2, _SIDE, _SIDE)
    product = one @ other
    spent = []
    for _ in range(_TRIALS):
        before = time.process_time()
        torch.mm(one, other, out=product)
        spent.append(time.process_time() - before)
    torch.set_num_threads(threads)
    return 2 * _SIDE**3 / min(spent)
