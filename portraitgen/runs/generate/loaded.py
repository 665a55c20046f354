"""A system with its weights, ready to draw: once (generate.py), often (demo.py), or while it trains.

This knows no system: what one takes, and what it makes of it, stands in the system's `inputs.py`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from portraitgen.media.interpolation import Between, key_positions
from portraitgen.runs.config.bounds import sampling_problems
from portraitgen.runs.config.check import ConfigError, check_config
from portraitgen.runs.config.systems import system_file
from portraitgen.runs.generate.draw import draw_frames
from portraitgen.runs.generate.formats import wanted_formats, write_formats
from portraitgen.runs.generate.given import Wanted, check_settings, is_of_shards, of_share, sample_names
from portraitgen.runs.generate.released import with_released
from portraitgen.runs.generate.result_files import write_result
from portraitgen.runs.generate.result_list import ResultList
from portraitgen.runs.generate.rows import describe_sample
from portraitgen.runs.generate.stored_clips import ShardClips
from portraitgen.runs.secrets import without_secrets
from portraitgen.runs.system import Description, build, choose_device, describe_system, load_learner
from portraitgen.training.generator import Generator
from portraitgen.training.inputs import Given, Resources, SystemInputs
from portraitgen.training.request import Request

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""See `Resources.progress`."""

Chunks = Iterable[tuple[Tensor, Mapping[str, Tensor]]]
"""Generated frames and what is shown beside them; see `draw_frames`."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What draws, checked; no weights are read.

    Attributes:
        config: of generate.py, with the files of released weights.
        described: the system.
        inputs: what it takes.
        between: makes frames between those that are drawn; None: all are drawn.
    """

    config: DictConfig
    described: Description
    inputs: type[SystemInputs]
    between: Between | None


def choose(config: DictConfig) -> Chosen:
    """What `config` of generate.py says of how to draw.

    Raises:
        ValueError: a setting or the weights cannot be used.
    """
    config = with_released(config)
    check_config(config)
    check_settings(config)
    wanted_formats(config.out, config.formats)
    described = describe_system(Path(config.weights), changes=_changes(config), models=config.paths.models)
    described.require_generator()
    drawing: Any = OmegaConf.to_container(described.config, resolve=True)
    if problems := [*sampling_problems(drawing.get("sampling") or {}, "sampling")]:
        raise ConfigError(problems)
    between = instantiate(config.interpolation.between, _convert_="all")
    if config.interpolation.every > 1 and between is None:
        raise ValueError(
            "interpolation.every is above 1: choose what makes the frames between (interpolation=flow)"
        )
    return Chosen(config, described, inputs_of(described.system), between)


def load(chosen: Chosen) -> "Loaded":
    """The system that was chosen, with its weights, on its device and in its precision.

    Raises:
        ValueError: the weights cannot be used.
    """
    config = chosen.config
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
        torch.use_deterministic_algorithms(True)
    system = build(chosen.described, device=choose_device(config.device))
    assert isinstance(system, Generator)
    system.cast(getattr(torch, config.precision))
    return Loaded(chosen, system)


class Loaded:
    """A system with weights, as `load` gives it, or one that is being trained.

    Args:
        chosen: what draws.
        system: in eval mode, on its device.
    """

    def __init__(self, chosen: Chosen, system: Generator) -> None:
        self.chosen = chosen
        self.system = system
        self.device = torch.device(system.device)

    def write(
        self,
        wanted: list[Wanted],
        results: ResultList,
        *,
        progress: Progress,
        watch: Callable[[Request, Chunks], Chunks] = lambda request, drawn: drawn,
        sampling: Mapping[str, Any] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Draw and write what is wanted, one sample after the other; yields the row of each.

        Args:
            sampling: settings of it to draw with, in the place of those that it was loaded with.
            progress: shows how far a long step is.
            watch: is handed the chunks of each request on their way into the files.

        Raises:
            ValueError: what was given cannot be used.
        """
        others = dict(sampling or {})
        config = self.chosen.config.copy()
        with open_dict(config):
            config.sampling.update(others)
        with self.system.sampled_with(**others):
            yield from self._written(wanted, results, config, progress=progress, watch=watch)

    def _written(
        self,
        wanted: list[Wanted],
        results: ResultList,
        config: DictConfig,
        *,
        progress: Progress,
        watch: Callable[[Request, Chunks], Chunks],
    ) -> Iterator[dict[str, Any]]:
        facts = self.chosen.described.facts
        settings: Any = OmegaConf.to_container(config, resolve=True)
        saved = results.save_config(without_secrets(settings))
        kinds = {each.name: each.kind for each in self.chosen.inputs.inputs}
        formats = wanted_formats(config.out, config.formats)
        names: set[str] = set()
        for name, request, given in _requests(wanted, self._maker(progress), config):
            if name in names:
                raise ValueError(
                    f"{name} would be written twice: give its requests a `key` each (requests=…)"
                )
            if request.length is None and config.interpolation.every > 1:
                raise ValueError(
                    f"{name} is a picture, and has no frames to make between others: leave interpolation out"
                )
            names.add(name)
            row = describe_sample(config, request, given, facts, kinds=kinds, device=self.device)
            key = results.key_for(name, row)
            with progress(f"{key}: denoising") as on_step:
                positions = key_positions(request.count, config.interpolation.every)
                drawn = draw_frames(
                    self.system, request, positions, self.chosen.between, seed=given.seed, on_step=on_step
                )
                files = write_result(results.folder, key, request, watch(request, drawn))
            write_formats(results.folder, files, formats)
            row = {"key": key, **files, **row, "config": saved}
            results.add(row)
            yield row

    def _maker(self, progress: Progress) -> SystemInputs:
        config = self.chosen.config
        return self.chosen.inputs(
            Resources(
                system=self.system,
                facts=self.chosen.described.facts,
                faces=lambda: instantiate(config.faces, _convert_="all"),
                load=lambda path: load_learner(
                    path, changes={}, models=config.paths.models, device=self.device
                )[0],
                progress=progress,
            )
        )


def inputs_of(system: str) -> type[SystemInputs]:
    """What a system takes, as its `inputs.py` states it.

    Raises:
        ValueError: it has none.
    """
    module = system_file(system, "inputs")
    if module is None:
        raise ValueError(f"{system} has no inputs.py, so generate.py cannot use it")
    declared: type[SystemInputs] = module.Inputs
    return declared


def _requests(
    wanted: list[Wanted], maker: SystemInputs, config: DictConfig
) -> Iterator[tuple[str, Request, Given]]:
    """Each request with the name of its results and what was given for it."""
    for each in wanted:
        if is_of_shards(each.samples[0]):
            yield from _of_shards(each, maker, config)
            continue
        made: dict[str, list[tuple[Request, Given]]] = {}
        # A request of each sample, since what moves a face may be drawn from the seed, too.
        for given in each.samples:
            for request in maker.requests(given):
                made.setdefault(request.key, []).append((request, given))
        for key, samples in made.items():
            names = sample_names(each.called(key, alone=len(made) == 1), len(samples))
            for name, (request, given) in zip(names, samples, strict=True):
                yield name, request, given


def _of_shards(
    wanted: Wanted, maker: SystemInputs, config: DictConfig
) -> Iterator[tuple[str, Request, Given]]:
    """The requests of prepared clips, one clip in memory at a time."""
    clips = ShardClips(wanted.samples[0]["shards"])
    # Rows were shared out before; of shards it is the clips, whose frames are read when they are drawn.
    share = config.share if config.requests is None else None
    for whole in of_share(islice(clips.clips(config.span), config.limit), share):
        clip = replace(whole, frames=whole.frames[: config.frames])
        names = sample_names(wanted.called(clip.key, alone=False), len(wanted.samples))
        for name, given in zip(names, wanted.samples, strict=True):
            request = maker.of_clip(clip, given)
            if request is not None:
                yield name, request, given


def _changes(config: DictConfig) -> dict[str, Any]:
    """Settings that replace those in the weights file: `model`, and those of `sampling` that are not null."""
    sampling = {name: value for name, value in config.sampling.items() if value is not None}
    others = {"sampling": sampling} if sampling else {}
    changes = OmegaConf.to_container(OmegaConf.merge(others, config.model), resolve=True)
    assert isinstance(changes, dict)
    return {str(name): value for name, value in changes.items()}
