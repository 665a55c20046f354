"""A system on offer: with its weights, what of its inputs a visitor gives, and a job of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from portraitgen.data.prepare.picture import encode_jpeg
from portraitgen.metrics.report.panels import panel_frames
from portraitgen.runs.config.bounds import generation_problems
from portraitgen.runs.config.check import ConfigError
from portraitgen.runs.demo.desk import Job
from portraitgen.runs.demo.given_files import GivenFiles
from portraitgen.runs.demo.limits import Limits
from portraitgen.runs.demo.result import Result
from portraitgen.runs.demo.sampling_choice import SamplingChoice
from portraitgen.runs.demo.typed_command import typed_command
from portraitgen.runs.generate.given import Wanted, want
from portraitgen.runs.generate.loaded import Chunks, Loaded
from portraitgen.runs.generate.result_list import ResultList
from portraitgen.training.inputs import Input, Way
from portraitgen.training.request import Request

OF_THE_HOUSE = ("shards", "weights")
"""Kinds of inputs that lie on this machine: no visitor gives them."""

_LIVE_HEIGHT = 256


@dataclass(frozen=True)
class Offer:
    """One weights file of the page.

    Attributes:
        loaded: its system.
        title: of its tab.
        weights: as it was typed.
        carried: settings that it was loaded with, as typed; they belong into the command.
        fixed: inputs that were set as the page was started.
        limits: of what may be asked for.
    """

    loaded: Loaded
    title: str
    weights: str
    carried: Sequence[str]
    fixed: Mapping[str, Any]
    limits: Limits

    @property
    def ways(self) -> list[Way]:
        """Those that a visitor can go: all that they need, a visitor gives or the page was started with."""
        kinds = {each.name: each.kind for each in self.loaded.chosen.inputs.inputs}
        return [
            way
            for way in self.loaded.chosen.inputs.ways
            if all(kinds[name] not in OF_THE_HOUSE or name in self.fixed for name in way.needs)
        ]

    @property
    def inputs(self) -> list[Input]:
        """What a visitor gives, in the order in which the system declares it."""
        names = {name for way in self.ways for name in (*way.needs, *way.takes)}
        return [
            each
            for each in self.loaded.chosen.inputs.inputs
            if each.name in names and each.kind not in OF_THE_HOUSE and each.name not in self.fixed
        ]

    @cached_property
    def sampling(self) -> SamplingChoice:
        """What of how it draws a visitor may choose."""
        return SamplingChoice(self.loaded.chosen)

    def wanted(self, way: Way, values: Mapping[str, Any], *, seed: int) -> Wanted:
        """What a visitor asks for, checked; no file is read.

        Args:
            values: key → value as typed, of what was given.

        Raises:
            ValueError: names the input that cannot be.
        """
        kinds = {each.name: each for each in self.inputs}
        for name in way.needs:
            if name in kinds and name not in values:
                raise ValueError(f"{name}: not given; it takes {kinds[name].meaning}")
        fixed = {name: value for name, value in self.fixed.items() if name in (*way.needs, *way.takes)}
        known = {each.name for each in self.sampling.inputs}
        given = {name: value for name, value in values.items() if name not in known}
        asked = {**given, **fixed, "seed": seed, "num_samples": 1}
        bounded = dict.fromkeys(("size", "fps", "length")) | asked
        if problems := [*generation_problems(bounded), *self.sampling.problems(values)]:
            raise ConfigError(problems)
        self.limits.check_wanted(values)
        described = self.loaded.chosen.described
        return want(asked, self.loaded.chosen.inputs, described.facts, name=described.system)

    def draw(
        self, wanted: Wanted, values: Mapping[str, Any], files: GivenFiles, folder: Path, job: Job
    ) -> Result:
        """Draw what is wanted into `folder`; the job sees how far it is.

        Args:
            values: what a visitor gave, as typed, with paths in `files`.

        Raises:
            ValueError: a file cannot be used.
            Cancelled: see `Job.check`.
        """

        def watch(request: Request, drawn: Chunks) -> Chunks:
            self._check_length(request)
            done = 0
            for generated, shown in drawn:
                if not done:
                    on_frame = job.begin("drawing frames")
                done += len(generated)
                job.picture = _picture(generated, shown)
                on_frame(done, request.count)
                yield generated, shown

        results = ResultList(folder / "result")
        sampling = self.sampling.of(values)
        (row,) = self.loaded.write([wanted], results, progress=job.progress, watch=watch, sampling=sampling)
        notes = [files.readable(note) for note in dict.fromkeys(job.notes)]
        return self._result(row, wanted, values, files, folder, notes)

    def _check_length(self, request: Request) -> None:
        if request.count > self.limits.frames:
            raise ValueError(
                f"length: this makes {request.count} frames, and this page draws up to {self.limits.frames}"
            )

    def _result(
        self,
        row: Mapping[str, Any],
        wanted: Wanted,
        values: Mapping[str, Any],
        files: GivenFiles,
        folder: Path,
        notes: Sequence[str],
    ) -> Result:
        key, seed = row["key"], wanted.samples[0].seed
        main = f"{key}{'.mp4' if 'video' in row else '.png'}"
        panel = f"{key}-beside.mp4" if "panel" in row else None
        settings = f"{key}-settings.yaml"
        way = wanted.samples[0].way
        fixed = {name: value for name, value in self.fixed.items() if name in (*way.needs, *way.takes)}
        named = {**files.named(values), **fixed}
        typed = {self.sampling.typed(name): value for name, value in named.items()}
        carried = [word for word in self.carried if word.partition("=")[0].lstrip("+") not in named]
        command = typed_command(self.weights, carried, typed, seed=seed, out=main)
        stated = {
            "command": command,
            "system": row["system"],
            "weights": {"file": self.weights, "step": row["step"], "sha256": [*row["digests"].values()]},
            "given": named,
            "seed": seed,
            **{name: row[name] for name in ("device", "precision", "sampling", "commit")},
            "torch": str(torch.__version__),
        }
        (folder / settings).write_text(yaml.safe_dump(stated, sort_keys=False, allow_unicode=True))
        paths = {main: folder / "result" / str(row.get("video") or row["image"]), settings: folder / settings}
        if panel:
            paths[panel] = folder / "result" / row["panel"]
        return Result(folder, key, paths, main, panel, settings, command, notes)


def _picture(generated: torch.Tensor, shown: Mapping[str, torch.Tensor]) -> bytes:
    """The last frame of a chunk beside what is shown of it."""
    columns = {
        label: pictures[-1:] if pictures.ndim == 4 else pictures[None] for label, pictures in shown.items()
    }
    columns["generated"] = generated[-1:]
    panel: np.ndarray = next(panel_frames(columns, cell_height=_LIVE_HEIGHT))
    return encode_jpeg(panel)
