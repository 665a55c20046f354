"""What a training step costs, found out by running it on tensors without memory.

PyTorch's fake tensors have a device, shapes and precisions, and no values: every operation of the forward and
the backward pass is called, and its floating-point operations and the sizes of what it makes are counted.
Networks of billions of parameters take a minute and no memory.
"""

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten
_COUNTS = {
    **flop_registry,
    # The attention of CPUs, on which tensors without memory are, is not among them.
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        _ATEN._scaled_dot_product_flash_attention
    ],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """Of a batch, as the network sees it.

    Attributes:
        batch: samples.
        frames: latents along the time of a clip; 1 for pictures.
        height, width: of the latents.
        people: places for people in a picture.
        words: tokens of a prompt; None: as many as the network's base was trained with.
    """

    batch: int
    frames: int
    height: int
    width: int
    people: int = 1
    words: int | None = None


@dataclass(frozen=True)
class PassCost:
    """Of one forward and backward pass.

    Attributes:
        flops: floating-point operations of matrix products, convolutions and attention.
        kept: bytes that the forward pass keeps for the backward one.
        peak: most bytes that are there at once beside weights and gradients.
        peak_with_gradients: the same with the gradients that are there by then.
    """

    flops: float
    kept: int
    peak: int
    peak_with_gradients: int


class StepCounter(TorchDispatchMode):
    """Counts inside the block floating-point operations, and the bytes of what they make as long as it lives.

    PyTorch's own `FlopCounterMode` follows modules too, by hooks that keep recomputed activations alive.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.live = 0
        self.held = 0
        """Bytes of gradients, which are counted apart."""
        self.peak = 0
        self.peak_with_held = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        count = _COUNTS.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=made)
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return made

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """These are counted elsewhere, and what shares their memory."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = 0

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known[key] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        self.peak_with_held = max(self.peak_with_held, self.live + self.held)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)


@contextlib.contextmanager
def without_memory(network: nn.Module) -> Iterator[None]:
    """Inside the block, what is made has no memory, and `network`, built on the meta device, can be run."""
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        # By which memory a cache would know again what it was made of: there is none here.
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        network.to_empty(device="cpu")
        yield


def cost_of_pass(
    network: nn.Module, run: Callable[[], Tensor], *, autocast: torch.dtype | None = None
) -> PassCost:
    """Of a forward pass `run`, whose result gets a loss, and of the backward pass.

    Args:
        network: whose parameters are not counted, and whose gradients are counted apart.
        autocast: precision of the computation, where that is not the weights'.
    """
    counter = StepCounter()
    counter.ignore([*network.parameters(), *network.buffers()])
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def keep(parameter: Tensor) -> None:
        assert parameter.grad is not None
        counter.held += parameter.grad.untyped_storage().nbytes()
        parameter.grad = None

    hooks = [parameter.register_post_accumulate_grad_hook(keep) for parameter in trained]
    compute = torch.autocast(
        "cpu", autocast or torch.bfloat16, enabled=autocast is not None, cache_enabled=False
    )
    network.train()
    with counter:
        with compute:
            prediction = run()
        loss = torch.nn.functional.mse_loss(prediction.float(), torch.zeros_like(prediction))
        kept = counter.live
        loss.backward()
    for hook in hooks:
        hook.remove()
    return PassCost(float(counter.flops), kept, counter.peak, counter.peak_with_held)
