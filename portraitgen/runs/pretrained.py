"""Pretrained models that settings point to: which they are, whether they are here, where else they lie."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

_SCHEDULER = "scheduler_config.json"
_PATH_KEYS = ("pretrained_model_name_or_path", "path", "folder")


def pretrained_nodes(node: Any, place: str) -> Iterator[tuple[str, Any, list[str]]]:
    """Place, node and keys of the paths of all that is filled from a pretrained model, below `node`.

    It is what a class's `from_pretrained` loads, and the `base` of a network.
    """
    if OmegaConf.is_list(node):
        for index, each in enumerate(node):
            yield from pretrained_nodes(each, f"{place}[{index}]")
    if not OmegaConf.is_dict(node):
        return
    for key, each in node.items():
        yield from pretrained_nodes(each, f"{place}.{key}")
    if str(node.get("_target_")).endswith(".from_pretrained"):
        yield (
            place,
            node,
            [str(key) for key, each in node.items() if key != "_target_" and isinstance(each, str)],
        )
    elif place.endswith(".base") and isinstance(node.get("path"), str):
        yield place, node, ["path"]


def missing_models(node: Any, place: str, *, models: str) -> Iterator[str]:
    """A line for each model that is to be filled from, below `node`, and is not on this machine.

    Args:
        place: of the node, for the message.
        models: the folder `paths.models`. A name that is no path may be a hub id, and is not judged.
    """
    for here, settings, keys in pretrained_nodes(node, place):
        for key in keys:
            path = settings[key]
            if _is_path(path, models) and not Path(path).expanduser().exists():
                fetch = f"fetch {settings['source']}" if settings.get("source") else "put it there"
                yield f"{here}.{key}: there is no model in {path}; {fetch}, or set this to where it is"


def library_bases(model: Any) -> dict[str, Any]:
    """Facts, as `portraitgen.training.bases` has them, of what `from_pretrained` loads for settings `model`.

    Of a scheduler they are of its settings, since it has no weights.

    Raises:
        ValueError: the files of a model cannot be found.
    """
    from portraitgen.nn.pretrained import model_folder, weight_files
    from portraitgen.training.bases import file_facts

    facts = {}
    for place, node, _ in pretrained_nodes(model, "model"):
        source = next((node[key] for key in _PATH_KEYS if key in node), None)
        if "_target_" in node and source is not None:
            # Text encoders call the subfolder of the model their own.
            subfolder = (
                node.get("text_encoder", "text_encoder") if "folder" in node else node.get("subfolder")
            )
            file = Path(source).expanduser()
            if not file.is_file():
                folder = model_folder(source, subfolder, section=place)
                file = folder / _SCHEDULER
            files = (file,) if file.is_file() else weight_files(folder, node.get("variant"))
            facts[place] = file_facts(source, files)
    return facts


def find_moved(model: Any, named: Mapping[str, Mapping[str, Any]], *, models: str) -> None:
    """Point settings of another machine to the models of this one, in place.

    A path that leads nowhere is looked for below `models` by its last names. Only models whose digest the
    weights file states are (`named`): whether it is the same one is checked once it is loaded.
    """
    sources = [str(base["source"]) for base in named.values()]
    for _, node, keys in pretrained_nodes(model, "model"):
        for key in keys:
            path = Path(node[key])
            known = any(source == str(path) or source.startswith(f"{path}/") for source in sources)
            if known and not path.expanduser().exists():
                tails = [Path(models, *path.parts[start:]) for start in range(1, len(path.parts))]
                found = next((tail for tail in tails if tail.exists()), None)
                if found is not None:
                    node[key] = str(found)


def foreign_models(node: Any, stated: Any, place: str, *, models: str) -> Iterator[str]:
    """A line for each path that a weights file itself names and that does not lie in `paths.models`.

    A file of somebody else could name any file of this machine, or a model of a hub that nobody asked for.

    Args:
        node: the settings as they are used; what the user changed in them is the user's.
        stated: the settings as the file states them.
    """
    folder = Path(models).expanduser()
    pretrained = {f"{here}.{key}" for here, _, keys in pretrained_nodes(node, place) for key in keys}
    for here, value in _texts(stated, place):
        key = here.rpartition(".")[2]
        leads_out = value.startswith(("/", "~")) or ".." in Path(value).parts
        names_model = here in pretrained and key in _PATH_KEYS
        if not (leads_out or names_model) or _at(node, here.removeprefix(place)) != value:
            continue
        if key in _PATH_KEYS:
            path = Path(value).expanduser()
            if _is_path(value, models) and not path.exists():
                continue  # which is another mistake, see `missing_models`
            leads_out = not path.resolve().is_relative_to(folder.resolve())
        if leads_out:
            yield (
                f"{here}: the file names {value}, which does not lie in paths.models ({models}); if you want "
                f"it, say so: +{here}={value}"
            )


def _texts(node: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield place, node
    elif isinstance(node, Mapping):
        for key, each in node.items():
            yield from _texts(each, f"{place}.{key}")
    elif isinstance(node, list):
        for index, each in enumerate(node):
            yield from _texts(each, f"{place}[{index}]")


def _at(node: Any, place: str) -> Any:
    """What settings hold at `.a.b[0]`; None where they hold nothing."""
    for part in filter(None, re.split(r"[.\[\]]+", place)):
        if OmegaConf.is_dict(node):
            node = node.get(part)
        elif OmegaConf.is_list(node) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return None
    return node


def _is_path(name: str, models: str) -> bool:
    return name.startswith((f"{models}/", "/", "./", "../", "~/"))
