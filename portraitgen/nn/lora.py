"""Low-rank adapters (LoRA, arXiv:2106.09685) by peft, as a node of a network's configuration.

A network takes `lora: {adapter: {rank, alpha, targets}}` and calls `add_lora(self, lora)` at the end of its
`__init__`, so that whoever builds it from its configuration has the same adapters. What of it trains is for
the stage to say. Heavy imports wait until there is an adapter.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from portraitgen.nn.options import reject_unknown

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_OPTIONS = ("rank", "alpha", "targets", "dropout", "init")
_WRAPPED = ".base_layer."


def add_lora(
    module: nn.Module, adapters: Mapping[str, Mapping[str, Any]] | None, *, section: str = "lora"
) -> None:
    """Put adapters on layers of `module`, in place. The output stays what it was, bit for bit.

    All adapters are on at scale 1 (see `set_lora`). Their weights are float32, whatever the layer's precision
    is, and have gradients; the gradients of all others stay as they are.

    Args:
        adapters: by name, see `_lora_config` for what each holds; None or empty: nothing is done.
        section: where they stand in the network's configuration, for messages.

    Raises:
        ValueError: an option is unknown or out of range, or a target matches no layer; names all of them.
    """
    if not adapters:
        return
    layers = _layers(module)
    problems: list[str] = []
    targets: dict[str, list[str]] = {}
    for name, options in adapters.items():
        try:
            if not name.isidentifier():
                raise ValueError(f"{section}: adapter {name!r}: a name is letters, digits and underscores")
            _check_options(f"{section}.{name}", options)
            targets[name] = _match(f"{section}.{name}.targets", options["targets"], layers)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))

    from peft import inject_adapter_in_model

    # peft freezes everything but adapters; a network may have other parts that train beside them.
    with_gradient = {parameter: parameter.requires_grad for parameter in module.parameters()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several are meant
        for name, options in adapters.items():
            inject_adapter_in_model(_lora_config(targets[name], **options), module, name)
    for layer in _lora_layers(module):
        # peft gives them the layer's precision, in which small updates would be lost.
        layer.lora_A.float()
        layer.lora_B.float()
    for parameter in module.parameters():
        parameter.requires_grad_(with_gradient.get(parameter, True))
    set_lora(module, dict.fromkeys(adapters, 1.0))


def set_lora(module: nn.Module, scales: Mapping[str, float]) -> None:
    """Say which adapters of `module` work: 1 is the strength it was trained with, 0 or not named is off.

    Gradients are not touched: an adapter that trains must be on, and only a stage says what trains.

    Raises:
        ValueError: there is no such adapter.
    """
    known = lora_settings(module)
    reject_unknown("lora", scales, known)
    active = [name for name in known if scales.get(name, 0.0) != 0]
    for layer in _lora_layers(module):
        _activate(layer, active)
        for name in active:
            layer.set_scale(name, scales[name])


@contextmanager
def merged_lora(module: nn.Module, scales: Mapping[str, float]) -> Iterator[None]:
    """Inside the block these adapters are part of the weights of their layers, so that they cost nothing.

    For sampling: weights are put back as they were, bit for bit, and then no adapter works until `set_lora`.
    Layers whose weights are not whole in this process (sharded) run their adapters as ever.

    Raises:
        ValueError: there is no such adapter.
    """
    set_lora(module, scales)
    replaced: list[tuple[Tensor, Tensor]] = []
    merged = []
    try:
        for layer in _lora_layers(module):
            base, names = layer.get_base_layer(), layer.active_adapters
            if not names or not isinstance(base, nn.Linear) or not _is_whole(base):
                continue
            with torch.no_grad():
                update = sum(layer.get_delta_weight(name).float() for name in names)
                weight = (base.weight.float() + update).to(base.weight.dtype)
            replaced.append((base.weight, base.weight.data))
            base.weight.data = weight
            merged.append(layer)
        for layer in merged:
            _activate(layer, [])
        yield
    finally:
        for parameter, data in replaced:
            parameter.data = data
        set_lora(module, {})


def lora_settings(module: nn.Module) -> dict[str, dict[str, float]]:
    """`rank` and `alpha` of each adapter in `module`, by its name; without adapters empty.

    No tensor shows alpha: weights files state it, because another alpha is another network.
    """
    return {
        name: {"rank": layer.r[name], "alpha": layer.lora_alpha[name]}
        for layer in _lora_layers(module)
        for name in layer.lora_A
    }


def plain_name(name: str) -> str:
    """Name of a parameter of a network with adapters as it is without: peft renames the layers it wraps.

    Weights files and the patterns of stages use these, so that adapters change no name of the network.
    """
    return name.replace(_WRAPPED, ".")


def _activate(layer: Any, names: Sequence[str]) -> None:
    """peft changes gradients with the adapters that work; here they stay."""
    with_gradient = [parameter.requires_grad for parameter in layer.parameters()]
    layer.set_adapter(list(names), inference_mode=True)
    for parameter, flag in zip(layer.parameters(), with_gradient, strict=True):
        parameter.requires_grad_(flag)


def _is_whole(layer: nn.Linear) -> bool:
    weight = layer.weight.data
    return type(weight) is Tensor and weight.shape == (layer.out_features, layer.in_features)


def _layers(module: nn.Module) -> list[str]:
    """Names of the layers that can have adapters."""
    # Attention by torch reads the weights of its layers itself, and would never run an adapter on them.
    inside = tuple(f"{n}." for n, m in module.named_modules() if isinstance(m, nn.MultiheadAttention))
    named = [name for name, layer in module.named_modules() if isinstance(layer, _LAYERS)]
    assert not any(_WRAPPED in f".{name}." for name in named), "adapters are added once, all together"
    return [name for name in named if not name.startswith(inside)]


def _match(setting: str, patterns: Sequence[str], layers: Sequence[str]) -> list[str]:
    """The layers that match any of the shell-style `patterns` (`*` also spans dots), in their order."""
    lost = [pattern for pattern in patterns if not any(fnmatchcase(layer, pattern) for layer in layers)]
    if lost:
        # Layers of one kind differ in their numbers only: hints show each kind once.
        kinds = list(dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", layer) for layer in layers))
        hints = []
        for pattern in lost:
            close = get_close_matches(pattern, kinds, n=3, cutoff=0.4) or kinds[:3]
            hints.append(f"{setting}: no layer matches {pattern!r}; did you mean {', '.join(close)}?")
        raise ValueError("\n".join(hints))
    return [layer for layer in layers if any(fnmatchcase(layer, pattern) for pattern in patterns)]


def _check_options(section: str, options: Mapping[str, Any]) -> None:
    reject_unknown(section, options, _OPTIONS)
    for name in ("rank", "alpha", "targets"):
        if name not in options:
            raise ValueError(f"{section}.{name}: not set")
    rank, alpha, targets = options["rank"], options["alpha"], options["targets"]
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"{section}.rank={rank!r}: a whole number from 1")
    if not isinstance(alpha, int | float) or not alpha > 0:
        raise ValueError(f"{section}.alpha={alpha!r}: a number above 0; equal to rank, the scale is 1")
    if isinstance(targets, str) or not targets:
        raise ValueError(f"{section}.targets={targets!r}: a list of patterns of layer names")
    if not 0 <= options.get("dropout", 0.0) < 1:
        raise ValueError(f"{section}.dropout={options['dropout']!r}: a number in [0, 1)")
    if options.get("init", "kaiming") not in ("kaiming", "gaussian"):
        raise ValueError(f"{section}.init={options['init']!r}: kaiming or gaussian")


def _lora_config(
    layers: Sequence[str],
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    dropout: float = 0.0,
    init: Literal["kaiming", "gaussian"] = "kaiming",
) -> Any:
    """peft's configuration of one adapter; the arguments are what `lora.<adapter>` may hold.

    Args:
        layers: what `targets` matched.
        rank: r; the update of a weight is (alpha / r) · B · A.
        alpha: scale times rank.
        targets: patterns of layer names, each of which matches something.
        dropout: probability with which an input of A is zeroed in training.
        init: of A; B starts at zero. "kaiming" is the paper's authors' and peft's, "gaussian" N(0, 1/r²) is
            diffusers'.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # any number works
        # Names in a list would also match as endings: proj_out in transformer_blocks.0.proj_out.
        target_modules="|".join(map(re.escape, layers)),
        lora_dropout=dropout,
        init_lora_weights="gaussian" if init == "gaussian" else True,
    )


def _lora_layers(module: nn.Module) -> Iterator[Any]:
    """peft's layers in `module`, found without importing peft."""
    return (each for each in module.modules() if hasattr(each, "lora_A") and hasattr(each, "set_adapter"))
