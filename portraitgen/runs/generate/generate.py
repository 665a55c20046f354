"""Generate with trained weights, and write the results where evaluate.py finds them.

This knows no system: what one takes, and what it makes of it, stands in the system's `inputs.py`.
"""

import logging
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from portraitgen.media.interpolation import key_positions
from portraitgen.runs.config.bounds import sampling_problems
from portraitgen.runs.config.check import ConfigError, check_config
from portraitgen.runs.config.systems import system_file
from portraitgen.runs.generate.draw import draw_frames
from portraitgen.runs.generate.formats import (
    result_folder,
    wanted_formats,
    write_formats,
    write_single_file,
)
from portraitgen.runs.generate.given import (
    Wanted,
    check_settings,
    is_of_shards,
    of_share,
    sample_names,
    what_is_wanted,
)
from portraitgen.runs.generate.released import with_released
from portraitgen.runs.generate.result_files import write_result
from portraitgen.runs.generate.result_list import ResultList
from portraitgen.runs.generate.rows import describe_sample
from portraitgen.runs.generate.stored_clips import ShardClips
from portraitgen.runs.progress import progress
from portraitgen.runs.secrets import without_secrets
from portraitgen.runs.system import build, choose_device, describe_system, load_learner
from portraitgen.training.generator import Generator
from portraitgen.training.inputs import Given, Resources, SystemInputs
from portraitgen.training.request import Request

log = logging.getLogger(__name__)


def generate(config: DictConfig) -> None:
    """Write into `config.out` each clip or picture, for clips a comparison video, and a contact sheet.

    `samples.jsonl` has a row for each, with all that made it and that it takes to grade it. Results that lie
    there already stay: one of the same name that was made otherwise gets a name of its own.

    Raises:
        ValueError: a setting, the weights, or what was given cannot be used. What the system does not take is
            refused before the weights are read.
    """
    config = with_released(config)
    check_config(config)
    check_settings(config)
    formats = wanted_formats(config.out, config.formats)
    described = describe_system(Path(config.weights), changes=_changes(config), models=config.paths.models)
    described.require_generator()
    drawing: Any = OmegaConf.to_container(described.config, resolve=True)
    if problems := [*sampling_problems(drawing.get("sampling") or {}, "sampling")]:
        raise ConfigError(problems)
    inputs = inputs_of(described.system)
    wanted = what_is_wanted(config, inputs, described.facts, name=described.system)
    between = instantiate(config.interpolation.between, _convert_="all")
    if config.interpolation.every > 1 and between is None:
        raise ValueError(
            "interpolation.every is above 1: choose what makes the frames between (interpolation=flow)"
        )
    results = ResultList(result_folder(config.out))
    out = results.folder
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
        torch.use_deterministic_algorithms(True)
    device = choose_device(config.device)
    system = build(described, device=device)
    assert isinstance(system, Generator)
    system.cast(getattr(torch, config.precision))
    maker = inputs(
        Resources(
            system=system,
            facts=described.facts,
            faces=lambda: instantiate(config.faces, _convert_="all"),
            load=lambda path: load_learner(path, changes={}, models=config.paths.models, device=device)[0],
            progress=progress,
        )
    )
    settings: Any = OmegaConf.to_container(config, resolve=True)
    saved = results.save_config(without_secrets(settings))
    kinds = {each.name: each.kind for each in inputs.inputs}
    names: set[str] = set()
    for name, request, given in _requests(wanted, maker, config):
        if name in names:
            raise ValueError(f"{name} would be written twice: give its requests a `key` each (requests=…)")
        if request.length is None and config.interpolation.every > 1:
            raise ValueError(
                f"{name} is a picture, and has no frames to make between others: leave interpolation out"
            )
        names.add(name)
        facts = describe_sample(config, request, given, described.facts, kinds=kinds, device=device)
        key = results.key_for(name, facts)
        begin = time.perf_counter()
        with progress(f"{key}: denoising") as on_step:
            positions = key_positions(request.count, config.interpolation.every)
            drawn = draw_frames(system, request, positions, between, seed=given.seed, on_step=on_step)
            files = write_result(out, key, request, drawn)
        write_formats(out, files, formats)
        results.add({"key": key, **files, **facts, "config": saved})
        seconds = time.perf_counter() - begin
        place = out / str(files.get("video") or files["image"])
        log.info("%s: %d frame(s) in %.1f s: %s", key, request.count, seconds, place)
    if not names and config.share is not None:
        log.info(
            "share=%s: nothing to generate, there are fewer clips or rows than shares", list(config.share)
        )
        return
    if not names:
        raise ValueError(f"no clip of {config.shards} shows a face within {list(config.span)} of its frames")
    if (path := write_single_file(config.out, results)) is not None:
        log.info("written: %s", path)
    log.info("%d sample(s) listed in %s", len(results), results.path)


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
    for clip in of_share(islice(clips.clips(config.span), config.limit), share):
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
