"""Which systems there are, and their files of agreed names: `inputs.py` (generation), `weights.py` (convert).

A system is a package: a folder of portraitgen/systems, or one that an entry point of the group
`portraitgen.systems` names (see `targets`). The class in a weights file says which one it belongs to.
"""

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from typing import Any

from portraitgen.runs.config.targets import BUILT_IN, did_you_mean, installed_systems


def all_systems() -> dict[str, str]:
    """Name of each system -> its package, those of portraitgen first; nothing of them is imported."""
    package = importlib.import_module(BUILT_IN)
    ours = sorted(each.name for each in pkgutil.iter_modules(package.__path__) if each.ispkg)
    return installed_systems() | {name: f"{BUILT_IN}.{name}" for name in ours}


def system_of(module: str) -> str | None:
    """Name of the system that a module belongs to; None for other modules."""
    for name, package in all_systems().items():
        if f"{module}.".startswith(f"{package}."):
            return name
    return None


def system_file(system: str, file: str) -> Any:
    """The module `file` ("inputs", "weights") of a system, imported; None where it has none.

    Raises:
        ValueError: no such system.
    """
    systems = all_systems()
    if system not in systems:
        raise ValueError(
            f"system={system}: there is none{did_you_mean(system, systems)}; known: {', '.join(systems)}"
        )
    name = f"{systems[system]}.{file}"
    return None if importlib.util.find_spec(name) is None else importlib.import_module(name)


def installed_configurations() -> dict[str, Path]:
    """Name of each system of another package -> its folder `conf` of Hydra groups, where it has one."""
    folders = {}
    for name, package in installed_systems().items():
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            if (Path(place) / "conf").is_dir():
                folders[name] = Path(place) / "conf"
    return folders
