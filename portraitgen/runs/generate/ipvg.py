"""`generate.py ipvg`: the requests of identity-preserving video generation, people times prompts, as a
file.
"""

import csv
import json
import logging
import os
import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig

from portraitgen.media.files import replace_file
from portraitgen.runs.config.check import check_config

log = logging.getLogger(__name__)

_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_SLOT = "{class_token}"
_ANYBODY = "person"


@dataclass(kw_only=True)
class IpvgConfig:
    """What `generate.py ipvg` reads."""

    people: str = MISSING
    prompts: str = MISSING
    out: str = MISSING
    identities: int | None = None
    prompts_each: int = MISSING
    photos_each: int = MISSING
    classes: str | None = None
    seed: int = MISSING


ConfigStore.instance().store(name="generate_ipvg_schema", node=IpvgConfig)


def write_ipvg(config: DictConfig) -> None:
    """Write a requests file for `generate.py requests=…`: some prompts for each person.

    The same settings give the same file, and a person the same prompts whoever else is there.

    Raises:
        ValueError: a setting cannot be, or there are fewer people, photos or prompts than asked for.
    """
    check_config(config)
    for name in ("identities", "prompts_each", "photos_each"):
        if config[name] is not None and config[name] < 1:
            raise ValueError(f"{name}={config[name]}: give at least 1")
    out = Path(config.out)
    if out.suffix != ".jsonl":
        raise ValueError(f"out={out}: give a .jsonl file")
    people = _people(Path(config.people))
    count = len(people) if config.identities is None else config.identities
    if count > len(people):
        raise ValueError(f"identities={count}: people={config.people} holds {len(people)}")
    prompts = _prompts(Path(config.prompts))
    if config.prompts_each > len(prompts):
        raise ValueError(f"prompts_each={config.prompts_each}: prompts={config.prompts} has {len(prompts)}")
    classes = {} if config.classes is None else _classes(Path(config.classes))
    rows = []
    for person in sorted(people)[:count]:
        photos = people[person]
        if len(photos) < config.photos_each:
            raise ValueError(f"photos_each={config.photos_each}: there are {len(photos)} of {person}")
        shown = [os.path.relpath(photo, out.parent) for photo in photos[: config.photos_each]]
        rng = random.Random(zlib.crc32(f"{config.seed} {person}".encode()))
        for number in sorted(rng.sample(range(len(prompts)), config.prompts_each)):
            rows.append(
                {
                    "key": f"{person}-{number}",
                    "reference": shown[0] if len(shown) == 1 else [shown],
                    "prompt": _said(prompts[number], classes.get(person, _ANYBODY)),
                    "seed": config.seed,
                }
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode())
    log.info(f"{out}: {len(rows)} requests, {count} people with {config.prompts_each} prompts each")


def _people(folder: Path) -> dict[str, list[Path]]:
    """Name -> photos: of each subfolder, or of pictures whose names begin alike up to "_", as ConsisID's
    are.
    """
    if not folder.is_dir():
        raise ValueError(f"people={folder}: no such folder")
    people: dict[str, list[Path]] = {}
    for photo in sorted(folder.rglob("*")):
        if photo.suffix.lower() in _PICTURES:
            inside = photo.relative_to(folder).parts
            name = inside[0] if len(inside) > 1 else photo.stem.partition("_")[0]
            people.setdefault(name, []).append(photo)
    if not people:
        raise ValueError(f"people={folder}: no pictures; give a folder of each person, or files N_….png")
    return people


def _prompts(file: Path) -> list[Mapping[str, str]]:
    """Class -> text of each prompt; of plain ones "" -> text."""
    if file.suffix == ".txt":
        lines = [line.strip() for line in _read(file, "prompts").splitlines()]
        return [{"": line} for line in lines if line]
    if file.suffix != ".csv":
        raise ValueError(f"prompts={file}: give a .txt with one a line, or ConsisID's .csv")
    table = csv.DictReader(_read(file, "prompts").splitlines())
    if "Original_Prompt" not in (table.fieldnames or ()):
        raise ValueError(
            f"prompts={file}: no column Original_Prompt, and perhaps Refined_man and Refined_woman"
        )
    found: list[Mapping[str, str]] = []
    for row in table:
        refined = {name.removeprefix("Refined_"): text for name, text in row.items() if name and text}
        found.append({"": row["Original_Prompt"], **refined})
    return found


def _classes(file: Path) -> dict[str, str]:
    """What somebody is called in prompts, by name."""
    table = csv.DictReader(_read(file, "classes").splitlines())
    if not {"person", "class"} <= set(table.fieldnames or ()):
        raise ValueError(f"classes={file}: must be a CSV with the columns person and class (man, woman, …)")
    return {row["person"]: row["class"] for row in table}


def _said(prompt: Mapping[str, str], called: str) -> str:
    """The prompt for somebody, in the words for people of this class where there are some."""
    return prompt.get(called, prompt[""]).replace(_SLOT, called)


def _read(file: Path, setting: str) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{setting}={file}: cannot be read ({error})") from error
