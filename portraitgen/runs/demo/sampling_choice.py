"""What a visitor may choose of how a system draws: what it declares, with the values of its weights."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from portraitgen.runs.config.bounds import between, sampling_problems
from portraitgen.runs.generate.loaded import Chosen
from portraitgen.training.inputs import Input

_PLACE = "sampling."


class SamplingChoice:
    """Settings of the sampling that can be chosen.

    Attributes:
        inputs: those that the pipeline has; the default is what it was loaded with.
    """

    def __init__(self, chosen: Chosen) -> None:
        settings: Any = OmegaConf.to_container(chosen.described.config, resolve=True)
        self._stated: Mapping[str, Any] = settings.get("sampling") or {}
        self._listed = chosen.config.sampling
        self.inputs = tuple(
            _with_default(each, self._stated[each.name.removeprefix(_PLACE)])
            for each in chosen.inputs.sampling
            if self._stated.get(each.name.removeprefix(_PLACE)) is not None
        )

    def of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the values that are of the sampling: `num_steps` → 10."""
        return {name.removeprefix(_PLACE): value for name, value in values.items() if name.startswith(_PLACE)}

    def problems(self, values: Mapping[str, Any]) -> Iterator[str]:
        """What of them cannot be."""
        for each in self.inputs:
            assert each.low is not None
            assert each.high is not None
            yield from between(each.name, values.get(each.name), each.low, each.high)
        yield from sampling_problems({**self._stated, **self.of(values)}, "sampling")

    def typed(self, name: str) -> str:
        """A key as generate.py takes it: settings that its configuration does not list begin with a +."""
        unlisted = name.startswith(_PLACE) and name.removeprefix(_PLACE) not in self._listed
        return f"+{name}" if unlisted else name


def _with_default(each: Input, stated: float) -> Input:
    assert each.low is not None
    assert each.high is not None
    return replace(each, default=stated, low=min(each.low, stated), high=max(each.high, stated))
