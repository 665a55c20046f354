"""The requests file of a published protocol: every person, or all pairs, with all of its prompts."""

import csv
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig

from portraitgen.media.files import replacing
from portraitgen.runs.config.check import check_config
from portraitgen.runs.config.schema import PathsConfig

log = logging.getLogger(__name__)

COLUMNS = ("photo", "word")


@dataclass
class ProtocolRequestsConfig:
    """What `generate.py requests` reads."""

    protocol: Any = MISSING
    """`num_people` that it was published with, how many are drawn `together`, `num_samples`, `prompts`."""
    people: str = MISSING
    """A .csv with the columns photo and word."""
    out: str = MISSING
    """The .jsonl to write."""
    paths: PathsConfig = field(default_factory=PathsConfig)


ConfigStore.instance().store(name="generate_requests_schema", node=ProtocolRequestsConfig)


class Person(NamedTuple):
    """One identity of a protocol."""

    name: str
    photo: Path
    word: str


def write_requests(config: DictConfig) -> None:
    """Write `config.out`, a row for each group of people and prompt.

    Raises:
        ValueError: the list of people cannot be read, or there are too few.
    """
    check_config(config)
    out, protocol = Path(config.out), config.protocol
    if out.suffix != ".jsonl":
        raise ValueError(f"out={out}: give a file whose name ends in .jsonl")
    people = read_people(Path(config.people))
    if len(people) < protocol.together:
        raise ValueError(f"people={config.people}: {len(people)} people, but {protocol.together} are drawn")
    if len(people) != protocol.num_people:
        log.warning(
            "people=%s: %d people, the protocol has %d: figures do not compare with published ones",
            *(config.people, len(people), protocol.num_people),
        )
    rows = [*protocol_rows(people, protocol)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    log.info("%s: %d requests, %d pictures", out, len(rows), len(rows) * protocol.num_samples)


def protocol_rows(people: Sequence[Person], protocol: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows as generate.py takes them: groups in the order of the people, each with all prompts."""
    digits = len(str(len(protocol["prompts"]) - 1))
    for group in combinations(people, protocol["together"]):
        words = " and ".join(f"a {person.word}" for person in group)
        for number, prompt in enumerate(protocol["prompts"]):
            yield {
                "key": f"{'_'.join(person.name for person in group)}-{number:0{digits}d}",
                "reference": [str(person.photo.resolve()) for person in group],
                "prompt": prompt.format(people=words),
                "num_samples": protocol["num_samples"],
            }


def read_people(path: Path) -> list[Person]:
    """People of a CSV, named after their photos; relative paths lie beside it.

    Raises:
        ValueError: it cannot be read, a column or photo is missing, or two photos have one name.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = [*csv.DictReader(file, strict=True)]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"people={path}: cannot be read as CSV ({error})") from error
    people: list[Person] = []
    for number, row in enumerate(table, start=2):
        cells = {name: (row.get(name) or "").strip() for name in COLUMNS}
        for name, cell in cells.items():
            if not cell:
                raise ValueError(f"people={path}, line {number}: no {name}; give {' and '.join(COLUMNS)}")
        photo = path.parent / cells["photo"]
        if not photo.is_file():
            raise ValueError(f"people={path}, line {number}: {photo}: no such file")
        people.append(Person(re.sub(r"\W", "-", photo.stem), photo, cells["word"]))
    names = [person.name for person in people]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"people={path}: two photos are called {twice}: rename one, for results are named so"
        )
    return people
