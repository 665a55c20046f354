"""A training stage: the weights a run starts from and the parameters it trains."""

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from portraitgen.nn.lora import plain_name
from portraitgen.training.bases import load_trained, require_same_bases
from portraitgen.training.learner import Learner
from portraitgen.training.sharding import on_meta
from portraitgen.training.weights import load_facts, load_weights, matches

log = logging.getLogger(__name__)


class TrainingStage(Callback):
    """Prepares the network before the optimizer is built and before any strategy wraps it.

    A stage is a run: what trains is fixed here and never changes within the run, because parameters unfrozen
    later silently differ between DDP replicas and are never updated under ZeRO. The next stage is a run of
    its own that starts from this one's weights file.

    On a resume the checkpoint is loaded after this and overrides `init_from` in all that trains. The file
    is still read, for the frozen weights, which are in no checkpoint; Learner refuses to resume if they
    have changed.

    Patterns are shell-style (`*` also spans dots) and name parameters of the network, as weights files do:
    `*.lora_[AB].single_id.*` is an adapter, `transformer.*.to_q.weight` a weight with or without adapters.

    Args:
        name: of the stage, e.g. "aniportrait/temporal"; stored in checkpoints.
        train: patterns of the parameters that train; the others are frozen, and so stay those that the
            network builds without gradient because it never runs them.
        init_from: weights file to start from, or several that hold different parts of the network; None
            starts from the network as built. Each must stand on the base that the network was filled from.
        init_command: the command that makes `init_from`, for the message when it is missing; of several files
            as many.
        expect_missing: patterns of names that `init_from` may lack, beside those that a base gives.
        expect_unexpected: patterns of names in `init_from` that the network may lack.
        init_copies: text in names of `init_from` → text in names of tensors that are not there and start as
            copies of them: {".single_id.": ".multi_id."} starts one adapter as another.
        lr_scale: pattern → factor on the optimizer's learning rate; the first match counts.
    """

    def __init__(
        self,
        name: str,
        *,
        train: Sequence[str] = ("*",),
        init_from: Path | str | Sequence[Path | str] | None = None,
        init_command: str | Sequence[str] | None = None,
        expect_missing: Sequence[str] = (),
        expect_unexpected: Sequence[str] = (),
        init_copies: Mapping[str, str] | None = None,
        lr_scale: Mapping[str, float] | None = None,
    ) -> None:
        self.name = name
        self.train = tuple(train)
        self.init_from = init_files(init_from, init_command)
        self.expect_missing = tuple(expect_missing)
        self.expect_unexpected = tuple(expect_unexpected)
        self.init_copies = dict(init_copies or {})
        self.lr_scale = dict(lr_scale or {})

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load, freeze, and hand the learning-rate factors to the module.

        Raises:
            ValueError: `init_from` is missing or does not fit, or a pattern matches no parameter (of those
                that train, for `lr_scale`).
        """
        if stage != "fit":
            return
        assert isinstance(pl_module, Learner)
        network = pl_module.network
        if self.init_from:
            self._load(pl_module)
        self.freeze(network)
        pl_module.stage = self.name
        pl_module.lr_scale = self.lr_scale

    def freeze(self, network: nn.Module) -> None:
        """Freeze all but what trains.

        Raises:
            ValueError: as `setup`, of patterns.
        """
        names = [plain_name(name) for name, _ in network.named_parameters()]
        self._require_matches("train", self.train, names)
        for name, parameter in zip(names, network.parameters(), strict=True):
            parameter.requires_grad_(parameter.requires_grad and matches(name, self.train))
        trained = [name for name in names if matches(name, self.train)]
        self._require_matches("lr_scale", self.lr_scale, trained)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show what trains.

        Raises:
            RuntimeError: a parameter that should train is in no optimizer.
        """
        assert isinstance(pl_module, Learner)
        optimized = pl_module.optimized  # a strategy may have replaced them in the trainer's optimizers
        forgotten = [n for n, p in pl_module.named_parameters() if p.requires_grad and id(p) not in optimized]
        if trainer.is_global_zero:
            if trainer.global_step:
                log.info("resumed at step %d: what trains comes from the checkpoint", trainer.global_step)
            for line in stage_table(pl_module.network, forgotten=len(forgotten)):
                log.info(line)
        if forgotten:
            raise RuntimeError(f"trained but in no optimizer: {', '.join(forgotten[:10])}")

    def _load(self, learner: Learner) -> None:
        tensors: dict[str, Tensor] = {}
        origin: dict[str, Path] = {}
        for path, command in self.init_from:
            if not path.is_file():
                advice = f"Make it with: {command} (or set stage.init_from)"
                raise ValueError(
                    f"stage {self.name!r} starts from {path}, which does not exist. "
                    + (advice if command else "Set stage.init_from to a weights file")
                )
            if on_meta(learner.network):  # the first process loads them, and sends parts
                learner.earlier_recognizers |= load_facts(path).get("recognizers", {})
                continue
            found, said = load_weights(path)
            twice = [name for name in found if name in tensors]
            if twice:
                raise ValueError(
                    f"stage.init_from: {path} and {origin[twice[0]]} both hold {twice[0]} ({len(twice)} such "
                    "tensors); each part of the network must come from one file"
                )
            require_same_bases(learner, said, source=path)
            learner.earlier_recognizers |= said.get("recognizers", {})
            tensors |= found
            origin |= dict.fromkeys(found, path)
            log.info("stage %r starts from %s (step %s)", self.name, path, said.get("step", "unknown"))
        if on_meta(learner.network):
            return
        missing = load_trained(
            learner.network,
            copied(tensors, self.init_copies),
            source=" and ".join(str(path) for path, _ in self.init_from),
            expect_missing=self.expect_missing,
            expect_unexpected=self.expect_unexpected,
        )
        if missing:
            log.info("%d tensors are not in the file and keep their initial values", len(missing))

    @staticmethod
    def _require_matches(setting: str, patterns: Iterable[str], names: list[str]) -> None:
        for pattern in patterns:
            if not any(matches(name, [pattern]) for name in names):
                close = difflib.get_close_matches(pattern, _prefixes(names), n=3, cutoff=0.4)
                hint = (
                    f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(names[:3])}, …"
                )
                raise ValueError(f"stage.{setting}: no parameter matches {pattern!r}; {hint}")


def copied(tensors: Mapping[str, Tensor], copies: Mapping[str, str]) -> dict[str, Tensor]:
    """`tensors`, and those with the texts `copies` in their names once more under the others' names.

    Raises:
        ValueError: no name has the text.
    """
    found = dict(tensors)
    for source, target in copies.items():
        names = [name for name in tensors if source in name]
        if not names:
            raise ValueError(f"stage.init_copies: no tensor of init_from has {source!r} in its name")
        found = {name.replace(source, target): tensors[name] for name in names} | found
    return found


def init_files(
    init_from: Path | str | Sequence[Path | str] | None, init_command: str | Sequence[str] | None
) -> list[tuple[Path, str | None]]:
    """The files that a stage starts from, each with the command of the same place, if there is one."""
    if init_from is None:
        return []
    files = [init_from] if isinstance(init_from, Path | str) else list(init_from)
    commands = [init_command] if isinstance(init_command, str) else list(init_command or ())
    return [(Path(file), commands[i] if i < len(commands) else None) for i, file in enumerate(files)]


def stage_table(network: nn.Module, *, forgotten: int) -> list[str]:
    """Lines of a table: for each child of the network how many parameters train and how many are frozen."""
    rows = []
    for name, module in (*network.named_children(), ("total", network)):
        counts = {True: 0, False: 0}
        for parameter in module.parameters():
            counts[parameter.requires_grad] += parameter.numel()
        rows.append((name, counts[True], counts[False]))
    width = max(len(row[0]) for row in rows)
    lines = [f"{'':{width}}  {'trains':>14}  {'frozen':>14}"]
    lines += [f"{name:{width}}  {trains:14,}  {frozen:14,}" for name, trains, frozen in rows]
    return [*lines, f"trained but in no optimizer (must be 0): {forgotten}"]


def _prefixes(names: Sequence[str]) -> list[str]:
    """Patterns one could have meant: every module path, and `*.` before every kind of submodule."""
    prefixes: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        prefixes.update(dict.fromkeys(f"{'.'.join(parts[:end])}.*" for end in range(1, len(parts))))
        prefixes.update(dict.fromkeys(f"*.{part}.*" for part in parts[1:-1]))
    return list(prefixes)
