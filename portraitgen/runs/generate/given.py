"""What generate.py was given, on the command line and in a file, checked before weights are read."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from portraitgen.data.catalog import find_all_shards
from portraitgen.runs.config.bounds import generation_problems
from portraitgen.runs.config.check import ConfigError
from portraitgen.runs.generate.requests_file import read_requests
from portraitgen.training.given import accept
from portraitgen.training.inputs import COMMON, Given, SystemInputs

T = TypeVar("T")

PRECISIONS = ("float32", "float16", "bfloat16")

OF_A_ROW = ("key", "seed", "num_samples")
"""What a row of a requests file may say beside what the system takes."""

_NAME = re.compile(r"[^\W.][\w .,=+@-]*")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One thing that is asked for, in one or several samples.

    Attributes:
        name: that a row gives itself; None: it has none.
        samples: what was given, once for each sample, with the seed of the sample.
        number: of its row; "" outside of a requests file.
    """

    name: str | None
    samples: tuple[Given, ...]
    number: str = ""

    def called(self, key: str, *, alone: bool) -> str:
        """What the results of a request are called: `key` outside of a requests file.

        Args:
            key: of the request.
            alone: whether it is the only one of this row.
        """
        if self.name is not None:
            return self.name if alone else f"{self.name}-{key}"
        # What rows are made of may be the same.
        return f"{self.number}-{key}" if self.number else key


def check_settings(config: DictConfig) -> None:
    """Raise a ValueError that names the first general setting that cannot be."""
    if config.weights is None:
        raise ValueError(
            "give weights=<a weights/*.safetensors of a run>, which says what generates, or released:<system>"
        )
    if config.precision not in PRECISIONS:
        raise ValueError(f"precision={config.precision}: choose one of {', '.join(PRECISIONS)}")
    settings: Any = OmegaConf.to_container(config, resolve=True)
    if problems := [*generation_problems(settings)]:
        raise ConfigError(problems)
    if config.limit is not None and config.limit < 1:
        raise ValueError(f"limit={config.limit}: give a number of clips, or null for all")
    if config.frames is not None and config.frames < 1:
        raise ValueError(f"frames={config.frames}: give a number of frames, or null for all")
    if config.interpolation.every < 1:
        raise ValueError(f"interpolation.every={config.interpolation.every}: give 1 for every frame, or more")
    if len(config.span) != 2 or not 0 <= config.span[0] < config.span[1] <= 1:
        raise ValueError(f"span={list(config.span)}: give a share of each clip, such as [0.75,1.0]")
    share = config.share
    if share is not None and (len(share) != 2 or not 0 <= share[0] < share[1]):
        raise ValueError(f"share={list(share)}: give [number,count], the number from 0, such as [0,8]")
    if share is not None and config.requests is None and config.shards is None:
        raise ValueError(f"share={list(share)}: it divides up requests=… or shards=…; leave it out")


def what_is_wanted(
    config: DictConfig, inputs: type[SystemInputs], facts: Mapping[str, Any], *, name: str
) -> list[Wanted]:
    """All that `config` (generate.yaml) asks of the system called `name`, in its order.

    Rows of a requests file take what they do not say from the command line.

    Raises:
        ValueError: names what the system does not take, what is missing, or what cannot be.
    """
    line = {key: config[key] for key in (*COMMON, "seed", "num_samples")}
    line |= {f"inputs.{key}": value for key, value in config.inputs.items()}
    line = {key: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v for key, v in line.items()}
    if config.requests is None:
        wanted = [want(line, inputs, facts, name=name)]
    else:
        wanted = _rows(config.requests, line, inputs, facts, name=name)
    if not any(is_of_shards(each.samples[0]) for each in wanted):
        for setting, unset in (("span", [0.0, 1.0]), ("limit", None), ("frames", None)):
            if config[setting] != unset:
                raise ValueError(
                    f"{setting}={config[setting]}: it is for prepared clips (shards=…); leave it out"
                )
    return of_share(wanted, config.share) if config.requests is not None else wanted


def of_share(items: Iterable[T], share: Sequence[int] | None) -> list[T]:
    """Every n-th item from the i-th on, of a share [i, n]; all without one."""
    return list(items) if share is None else list(islice(items, share[0], None, share[1]))


def _rows(
    file: str, line: Mapping[str, Any], inputs: type[SystemInputs], facts: Mapping[str, Any], *, name: str
) -> list[Wanted]:
    """What the rows of a requests file ask for; `line` is what the command line says."""
    rows = read_requests(file, {each.name: each for each in inputs.inputs}, OF_A_ROW)
    wanted = [
        want({**line, **row}, inputs, facts, name=name, place=f"requests={file}, {place}: ")
        for place, row in rows
    ]
    names = [each.name for each in wanted if each.name is not None]
    for key in names:
        if names.count(key) > 1:
            raise ValueError(f"requests={file}: key {key!r} stands in two rows; rename one")
    digits = len(str(len(wanted)))
    return [replace(each, number=f"{number:0{digits}d}") for number, each in enumerate(wanted, start=1)]


def want(
    values: Mapping[str, Any],
    inputs: type[SystemInputs],
    facts: Mapping[str, Any],
    *,
    name: str,
    place: str = "",
) -> Wanted:
    """What these values ask of the system called `name`.

    Args:
        values: key → value as typed, `seed` and `num_samples` among them; None: not given.
        place: said before each message.

    Raises:
        ValueError: names what the system does not take, what is missing, or what cannot be.
    """
    own = {key: value for key, value in values.items() if key not in OF_A_ROW}
    key, seed, count = values.get("key"), values["seed"], values["num_samples"]
    for setting, number, low in (("seed", seed, 0), ("num_samples", count, 1)):
        if not isinstance(number, int) or isinstance(number, bool) or number < low:
            raise ValueError(f"{place}{setting}={number}: give a whole number of at least {low}")
    if key is not None and not _NAME.fullmatch(str(key)):
        raise ValueError(f"{place}key={key}: it names files; use letters, digits, '_' and '-'")
    given = accept(inputs, own, name=name, seed=seed, place=place)
    inputs.check(given, facts)
    if is_of_shards(given):
        find_all_shards(given["shards"])
    samples = (Given(given.way, given.values, seed + number) for number in range(count))
    return Wanted(None if key is None else str(key), tuple(samples))


def is_of_shards(given: Given) -> bool:
    """Whether it is prepared clips that are asked for."""
    return "shards" in given.way.needs


def sample_names(name: str, count: int) -> Iterator[str]:
    """The name of each of `count` samples: `name` of one, `name-1`, `name-2` … of several."""
    if count == 1:
        yield name
    else:
        yield from (f"{name}-{number}" for number in range(1, count + 1))
