"""While training, clips are drawn as by generate.py and graded as by evaluate.py, of weights in no file."""

import logging
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra.utils import instantiate
from lightning.pytorch import LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf

from portraitgen.faces.backend import FaceBackend
from portraitgen.media.files import temporary_path
from portraitgen.metrics.checks import Check
from portraitgen.metrics.grader import SetGrader
from portraitgen.metrics.protocol import VideoFacts
from portraitgen.metrics.results import Results, aggregate
from portraitgen.metrics.scores import GENERATED, METHODS, MetricInfo, Row
from portraitgen.runs.config.schema import GenerateConfig
from portraitgen.runs.evaluate.engine import grade_videos, protocol_of
from portraitgen.runs.evaluate.graders import build_graders, figures_of, refuse_own_judges
from portraitgen.runs.evaluate.processes import Processes
from portraitgen.runs.evaluate.sources.samples import SAMPLES, GeneratedSamples, of_share, share_name
from portraitgen.runs.generate.given import what_is_wanted
from portraitgen.runs.generate.loaded import Chosen, Loaded, inputs_of
from portraitgen.runs.generate.result_list import FOLDERS, ResultList
from portraitgen.runs.system import Description
from portraitgen.training.drawing import drawing
from portraitgen.training.export import WeightsExport
from portraitgen.training.generator import Generator
from portraitgen.training.grading import Grading, control_checks
from portraitgen.training.sharding import weights_are_shared
from portraitgen.training.trainer_state import find_callback, positive

log = logging.getLogger(__name__)

Clip = TypeVar("Clip")
PLACE = "callbacks.grading.metrics.graders"


@dataclass(frozen=True, slots=True)
class GradedClips:
    """Which clips are graded: of these shards, the share of each that training leaves out."""

    shards: str | Sequence[str]
    span: Sequence[float]


class ClipGrading(Grading):
    """Grades clips of the validation shards: the first ones that show a person, from their first frame on.

    Several processes share the clips out, unless each of them has but a part of the weights. Controls and
    truth, which no weights change, are graded once a start.

    Args:
        folder, every_steps, best, stop_by, patience: see `Grading`.
        num_clips: at most.
        frames: of each clip, at most.
        num_steps: denoising steps; None: those of `sampling`.
        seed: of the noise, the same every time.
        metrics: an option of conf/metrics: `graders`, and `checks` beside those of all controls.
        faces: an option of conf/faces, which finds the faces.
        clips: those to grade.
        model: the settings of the module.
        models: folder of the pretrained weights.

    Raises:
        ValueError: a setting is out of range, or no grader gives a figure that it names.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        every_steps: int,
        metrics: Mapping[str, Any],
        faces: Mapping[str, Any],
        clips: GradedClips,
        model: Mapping[str, Any],
        models: str,
        num_clips: int = 4,
        frames: int = 16,
        num_steps: int | None = None,
        seed: int = 0,
        best: Sequence[str] = (),
        stop_by: str | None = None,
        patience: int = 5,
    ) -> None:
        for name, value in (("num_clips", num_clips), ("frames", frames), ("num_steps", num_steps)):
            if value is not None:
                positive(f"callbacks.grading.{name}", value)
        graders, self.skipped = build_graders(DictConfig(metrics["graders"]), strict=False, place=PLACE)
        for name in [name for name, grader in graders.items() if isinstance(grader, SetGrader)]:
            self.skipped[name] = "it takes figures of a whole set, of which so few clips say nothing"
            log.info("skipped %s while training: %s; evaluate.py takes it", name, self.skipped[name])
            del graders[name]
        self.graders = graders
        figures = figures_of(graders, place=PLACE)
        super().__init__(
            folder, metrics=figures, every_steps=every_steps, best=best, stop_by=stop_by, patience=patience
        )
        self.checks = _checks(metrics["checks"], figures)
        self.backend: FaceBackend = instantiate(faces, _convert_="all")
        self._config = _generation(
            {
                "shards": clips.shards,
                "span": list(clips.span),
                "limit": num_clips,
                "frames": frames,
                "sampling": {"num_steps": num_steps},
                "seed": seed,
                "faces": faces,
                "paths": {"runs": "", "models": models},
            }
        )
        self._changed = {} if num_steps is None else {"num_steps": num_steps}
        self._model = model
        self._controls: dict[str, tuple[Row, ...]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before the run begins: is there something to grade, and do these graders judge this model?

        Raises:
            ValueError: the system draws no prepared clips, or not in `num_steps`; or a grader looks with a
                network that a loss or a condition of this model looks with.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        assert isinstance(pl_module, Generator)
        refuse_own_judges(self.graders, pl_module.recognizers, self.backend, place=PLACE)
        chosen = self._chosen(trainer, pl_module)
        name = chosen.described.system
        what_is_wanted(chosen.config, chosen.inputs, chosen.described.facts, name=name)
        with pl_module.sampled_with(**self._changed):
            pass  # it refuses what it cannot draw with, which the first round would be late for

    def grade(self, trainer: Trainer, module: Generator, folder: Path) -> Results:
        """See `Grading.grade`.

        Raises:
            ValueError: of no clip of the shards can anything be drawn.
        """
        processes = Processes(trainer.global_rank, trainer.world_size)
        share, place = self._share(processes, module, folder)
        try:
            with (
                drawing(trainer, module, seed=int(self._config.seed)),
                module.sampled_with(**self._changed),
            ):
                self._draw(trainer, module, place, share)
            return self._results(trainer, processes, place, folder, shared=share is not None)
        finally:
            if not place.is_relative_to(folder):
                shutil.rmtree(place, ignore_errors=True)

    def drop_clips(self, folder: Path) -> None:
        """See `Grading.drop_clips`."""
        (folder / SAMPLES).unlink(missing_ok=True)
        for each in (*FOLDERS, "share-*"):
            for path in folder.glob(each):
                shutil.rmtree(path)

    def _share(self, processes: Processes, module: Generator, folder: Path) -> tuple[list[int] | None, Path]:
        """Which clips this process draws, and into which folder."""
        if processes.world_size == 1:
            return None, folder
        if weights_are_shared(module.network):
            # To draw takes all processes at once, so that each draws all clips; those of the first stay.
            return None, folder if not processes.rank else temporary_path(folder, owner=processes.rank)
        name = share_name(processes.rank, processes.world_size)
        return [processes.rank, processes.world_size], folder / name

    def _draw(self, trainer: Trainer, module: Generator, folder: Path, share: list[int] | None) -> None:
        chosen = self._chosen(trainer, module, out=str(folder), share=share)
        name = chosen.described.system
        wanted = what_is_wanted(chosen.config, chosen.inputs, chosen.described.facts, name=name)
        loaded = Loaded(chosen, module)
        drawn = loaded.write(wanted, ResultList(folder), progress=lambda _: nullcontext(lambda *_: None))
        for _ in self._minding_signals(trainer, drawn, of=1 if share is None else trainer.world_size):
            pass

    def _minding_signals(self, trainer: Trainer, clips: Iterable[Clip], *, of: int) -> Iterator[Clip]:
        """The clips, which `of` processes share out; a signal gives up the round behind each.

        A process that has fewer of them asks as often as the others.
        """
        asked = 0
        for clip in clips:
            yield clip
            self.mind_signals(trainer)
            asked += 1
        for _ in range(asked, math.ceil(self._config.limit / of)):
            self.mind_signals(trainer)

    def _results(
        self, trainer: Trainer, processes: Processes, place: Path, folder: Path, *, shared: bool
    ) -> Results:
        """Grade what this process has drawn, and put it together with what the others have."""
        source = GeneratedSamples(place) if (place / SAMPLES).is_file() else None
        keys: Sequence[str] = () if source is None else source.keys
        mine = keys if shared else processes.share(keys)
        rows: list[Row] = []
        facts: list[VideoFacts] = []
        for key in self._minding_signals(trainer, mine, of=processes.world_size):
            assert source is not None
            known = self._controls.get(key, ())
            methods = [GENERATED] if known else [*METHODS]
            (video,) = grade_videos(source, [key], self.graders, self.backend, methods=methods)
            rows += video.rows
            facts.append(video.facts)
            if video.rows[0].failure is not None:
                continue  # it is missing for the controls, too
            rows += known
            if not known:
                self._controls[key] = tuple(row for row in video.rows if row.method != GENERATED)
        samples = [source.samples[key] for key in keys] if source is not None else []
        if shared:
            samples = processes.gather([of_share(place.name, row) for row in samples])
        rows, facts = processes.gather(rows), processes.gather(facts)
        if not rows:
            raise ValueError(
                "callbacks.grading: of no validation clip can anything be drawn: look at data.val_shards, "
                "data.val_span and callbacks.grading.frames"
            )
        return aggregate(
            rows,
            metrics=self.metrics,
            protocol=protocol_of(GeneratedSamples(folder, samples), facts, self.graders, self.backend),
            skipped=self.skipped,
            checks=self.checks,
        )

    def _chosen(self, trainer: Trainer, module: Generator, **settings: Any) -> Chosen:
        """As generate.py chooses, of the weights as they are now."""
        exported = find_callback(trainer, WeightsExport)
        assert exported is not None, "the settings are checked"
        facts = {
            "system": exported.system,
            "step": trainer.global_step,
            "config": self._model,
            **exported.facts(module),
        }
        changes = {"weights": str(exported.folder), "out": "", **settings}
        config = OmegaConf.merge(self._config, DictConfig(changes))
        assert isinstance(config, DictConfig)
        described = Description(
            exported.folder, facts, DictConfig(self._model), exported.system, type(module)
        )
        return Chosen(config, described, inputs_of(exported.system), None)


def _checks(settings: Sequence[Mapping[str, Any]], figures: Mapping[str, MetricInfo]) -> list[Check]:
    """The checks of the configuration, and those against all controls; in training each is only reported."""
    own: list[Check] = [instantiate(check) for check in settings]
    for check in own:
        if check.metric not in figures:
            log.info("not checked while training: %s, which no grader gives", check.metric)
    own = [check for check in own if check.metric in figures]
    asked = {(check.metric, check.against) for check in own if check.margin == 0}
    return [*own, *(each for each in control_checks(figures) if (each.metric, each.against) not in asked)]


def _generation(settings: Mapping[str, Any]) -> DictConfig:
    """The settings of generate.py that nobody changes here, and these."""
    plain = {
        "inputs": {},
        "num_samples": 1,
        "device": "auto",
        "interpolation": {"every": 1, "between": None},
        "precision": "float32",
        "model": {},
    }
    merged = OmegaConf.merge(OmegaConf.structured(GenerateConfig), plain, settings)
    assert isinstance(merged, DictConfig)
    return merged
