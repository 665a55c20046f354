"""Commands that can do several things: `prepare.py source=… out=…`, `prepare.py verify out=…`, and so on.

The first word of the command line, when it is neither an override (`key=value`) nor an option (`--help`),
chooses what is done and which configuration the overrides change.
"""

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from portraitgen.media.allocator import return_freed_memory
from portraitgen.runs.config.command import command
from portraitgen.runs.config.help import settings_help
from portraitgen.runs.config.targets import did_you_mean


@dataclass(frozen=True, slots=True)
class SubCommand:
    """One thing that a command does.

    task         dotted name of a function that takes the configuration; its module registers the schema, and
                 is imported only when this is chosen
    config_name  of conf/<config_name>.yaml
    example      the overrides that a user gives at least
    summary      for --help
    details      dotted name of a function that takes the words of the command line and gives what --help says
                 beside the settings; "" for nothing
    """

    task: str
    config_name: str
    example: str
    summary: str
    details: str = ""

    def load(self) -> Callable[[DictConfig], Any]:
        task: Callable[[DictConfig], Any] = _imported(self.task)
        return task

    def explain(self, words: Sequence[str]) -> str:
        """What --help says beside the settings."""
        return str(_imported(self.details)(words)) if self.details else ""


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


TRAIN: dict[str, SubCommand] = {
    "": SubCommand(
        "portraitgen.runs.train.train.train",
        "train",
        "experiment=aniportrait/stage1 data.shards=…",
        "train one stage",
        details="portraitgen.runs.config.help.experiments_help",
    ),
}
"""What train.py does."""


PREPARE: dict[str, SubCommand] = {
    "": SubCommand(
        "portraitgen.runs.prepare.prepare.prepare",
        "prepare",
        "source=videos/ out=shards/mine",
        "turn videos and photos into shards",
    ),
    "verify": SubCommand(
        "portraitgen.runs.prepare.verify_shards.verify",
        "prepare_verify",
        "out=shards/mine",
        "read every shard to its last byte and say what is wrong",
    ),
    "inspect": SubCommand(
        "portraitgen.runs.prepare.inspect_shards.inspect",
        "prepare_inspect",
        "out=shards/mine",
        "say what the shards, or with key=… one sample, hold; with sheet=… draw them",
    ),
    "features": SubCommand(
        "portraitgen.runs.prepare.compute_features.compute_features",
        "prepare_features",
        "out=shards/mine 'features=[vae]' features.vae.model=…",
        "compute latents, embeddings and the like of prepared samples",
    ),
    "import_consisid": SubCommand(
        "portraitgen.runs.prepare.consisid.import_consisid",
        "prepare_import_consisid",
        "source=demo_train_data/ out=shards/demo",
        "turn ConsisID's training folders into shards",
    ),
    "export_consisid": SubCommand(
        "portraitgen.runs.prepare.consisid.export_consisid",
        "prepare_export_consisid",
        "shards='shards/demo/shards/train-*.tar' out=consisid/demo",
        "write clips of shards as ConsisID's training folders",
    ),
}
"""What prepare.py does, by its first word; without one it prepares."""


GENERATE: dict[str, SubCommand] = {
    "": SubCommand(
        "portraitgen.runs.generate.generate.generate",
        "generate",
        "weights=last.safetensors reference=face.jpg driving=talk.mp4 out=out/",
        "generate clips and pictures with trained weights",
        details="portraitgen.runs.generate.describe.describe_inputs",
    ),
    "landmarks": SubCommand(
        "portraitgen.runs.generate.landmarks.find_landmarks",
        "generate_landmarks",
        "driving=talk.mp4 out=out/",
        "find the face of a video or picture, write its landmarks, and draw them",
    ),
    "ipvg": SubCommand(
        "portraitgen.runs.generate.ipvg.write_ipvg",
        "generate_ipvg",
        "people=faces/ prompts=prompts.txt out=ipvg.jsonl",
        "write a requests file of people times prompts, as IPVG has them",
    ),
    "requests": SubCommand(
        "portraitgen.runs.generate.protocol_requests.write_requests",
        "generate_requests",
        "protocol=fastcomposer_two people=people.csv out=two.jsonl",
        "write the requests file of a published protocol",
    ),
}
"""What generate.py does, by its first word; without one it generates."""


DEMO: dict[str, SubCommand] = {
    "": SubCommand(
        "portraitgen.runs.demo.demo.demo",
        "demo",
        "weights=last.safetensors",
        "serve a page to try trained weights",
    ),
}
"""What demo.py does."""


CONVERT: dict[str, SubCommand] = {
    "": SubCommand(
        "portraitgen.runs.convert.convert",
        "convert",
        "kind=… source=… out=…",
        "turn weights that others published into weights files of ours, and back",
        details="portraitgen.runs.convert.describe_kinds",
    ),
}
"""What convert.py does."""


EVALUATE: dict[str, SubCommand] = {
    "": SubCommand(
        "portraitgen.runs.evaluate.evaluate.evaluate",
        "evaluate",
        "generated=out/",
        "grade generated clips",
    ),
    "selftest": SubCommand(
        "portraitgen.runs.evaluate.selftest.selftest",
        "evaluate_selftest",
        "",
        "hold every metric against the goldens of its reference implementation",
    ),
    "compare": SubCommand(
        "portraitgen.runs.evaluate.compare.compare_results",
        "evaluate_compare",
        "results=[a/report,b/report] out=comparison/",
        "put results side by side that were taken by one protocol",
    ),
    "history": SubCommand(
        "portraitgen.runs.evaluate.history.show_history",
        "evaluate_history",
        "run=runs/quickstart/stage1",
        "show the figures of a run that was graded while it trained, and its best weights beside the last",
    ),
    "sensitivity": SubCommand(
        "portraitgen.runs.evaluate.sensitivity.sensitivity",
        "evaluate_sensitivity",
        "clips=[a.mp4,b.mp4] out=sensitivity/",
        "show what each figure says of real clips made worse in one known way",
    ),
    "sweep": SubCommand(
        "portraitgen.runs.evaluate.sweep.sweep_trial",
        "evaluate_sweep",
        "weights=a.safetensors,b.safetensors shards='shards/*.tar' out=sweep/",
        "generate and grade for every combination of settings, and compare",
    ),
}
"""What evaluate.py does, by its first word; without one it grades."""


def run_subcommand(
    script: str, subcommands: Mapping[str, SubCommand], *, returns_memory: bool = False
) -> None:
    """Run what the command line asks `script` ("prepare.py") for; the word is taken out of `sys.argv`.

    Args:
        returns_memory: large arrays are given back as soon as they are freed (`return_freed_memory`).
    """
    words = sys.argv[1:]
    if words:  # `eval=selftest` says the same as `selftest`, `mode=landmarks` as `landmarks`
        words[0] = words[0].removeprefix("eval=").removeprefix("mode=")
    word = words[0] if words and re.fullmatch(r"[^-+~=][^=]*", words[0]) else ""
    if word not in subcommands:
        print(f"error: {_unknown(script, word, subcommands)}", file=sys.stderr)
        sys.exit(1)
    if {"--help", "-h"} & set(words):
        if not word and len(subcommands) > 1:
            print(_overview(script, subcommands))
        details = subcommands[word].explain(words)
        if details:
            print(f"{details}\n")
        print(settings_help(subcommands[word].config_name))
        return
    if word:
        del sys.argv[1]
    if returns_memory:
        return_freed_memory()
    command(subcommands[word].load(), config_name=subcommands[word].config_name)


def _unknown(script: str, word: str, subcommands: Mapping[str, SubCommand]) -> str:
    known = [each for each in subcommands if each]
    if Path(word).exists():
        setting = subcommands[""].example.partition("=")[0]
        return f"{word!r} is a path: write what it is, as in {setting}={word}"
    guess = did_you_mean(word, known)
    words = f"{', '.join(known)}, or settings alone" if known else "settings alone"
    return f"{script} has no {word!r}{guess}; it takes {words}: key=value …"


def _overview(script: str, subcommands: Mapping[str, SubCommand]) -> str:
    lines = [f"python {script} [what] key=value …\n"]
    for word, each in subcommands.items():
        call = f"python {script} {word} {each.example}".replace("  ", " ")
        lines.append(f"  {call}\n      {each.summary}; settings: conf/{each.config_name}.yaml")
    return "\n".join([*lines, f"\nThe settings of a word are shown by: python {script} <word> --help\n"])
