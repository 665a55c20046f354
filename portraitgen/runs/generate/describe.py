"""What systems take, in words: `python generate.py --help`, with `weights=…` that of one system."""

from collections.abc import Sequence
from pathlib import Path

from portraitgen.runs.config.systems import all_systems, system_file, system_of
from portraitgen.training.inputs import Input, SystemInputs
from portraitgen.training.weights import load_facts


def describe_inputs(words: Sequence[str]) -> str:
    """What the system of `weights=…` takes; of all systems where none is given or the file is not there."""
    files = [Path(word.removeprefix("weights=")) for word in words if word.startswith("weights=")]
    names = [*all_systems()]
    if files and (system := str(files[-1]).removeprefix("released:")) in names:
        names = [system]
    elif files and files[-1].is_file():
        try:
            target = str(load_facts(files[-1]).get("config", {}).get("_target_"))
        except ValueError as error:
            return str(error)
        names = [name for name in [system_of(target)] if name is not None] or names
    modules = {name: system_file(name, "inputs") for name in names}
    return "\n\n".join(describe(name, module.Inputs) for name, module in modules.items() if module)


def describe(name: str, system: type[SystemInputs]) -> str:
    """What the system called `name` takes."""
    lines = [f"{name} takes one of:"]
    for way in system.ways:
        more = f"  [{' '.join(f'{key}=…' for key in way.takes)}]" if way.takes else ""
        lines += [f"  {way.usage}{more}", f"      {way.meaning}"]
    lines.append("where:")
    known = [*system.inputs, *system.sampling]
    width = max(len(each.name) for each in known)
    lines += [f"  {each.name:{width}}  {_meaning(each)}" for each in known]
    return "\n".join(lines)


def _meaning(each: Input) -> str:
    """What an input means, what values it may have, and what it is where nothing is given."""
    notes = [*each.choices]
    if each.low is not None or each.high is not None:
        low, high = ("" if bound is None else f"{bound:g}" for bound in (each.low, each.high))
        notes.append(f"{low} … {high}".strip())
    if each.kind == "photos" and (each.people != 1 or each.photos != 1):
        people = "any number of people" if each.people is None else f"at most {each.people} people"
        photos = "any number of photos" if each.photos is None else f"at most {each.photos} photos"
        notes.append(f"{people}, {photos} of each")
    if each.default is not None:
        notes.append(f"default {each.default}")
    return f"{each.meaning} ({each.kind}{': ' if notes else ''}{', '.join(notes)})"
