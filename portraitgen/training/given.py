"""What a person gave, held against what a system takes: refused by name, or converted."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from portraitgen.training.inputs import PATHS, Given, Input, SystemInputs, Way

_FACE = re.compile(r"largest|left|right|0*[1-9][0-9]{0,3}")


def accept(
    system: type[SystemInputs], values: Mapping[str, Any], *, name: str, seed: int = 0, place: str = ""
) -> Given:
    """What was given for one request, as `Given` states it.

    Args:
        values: key → value as typed; None: not given.
        name: of the system.
        seed: of the request.
        place: said before each message: "requests=all.csv, line 3: ".

    Raises:
        ValueError: a key that the system does not take, keys that do not go together, one that is missing, a
            value that cannot be, or a file that is not there. Nothing but names of files is looked at.
    """
    known = {each.name: each for each in system.inputs}
    asked = {key: value for key, value in values.items() if value is not None}
    for key in asked:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{place}{key}: {name} does not take it{hint}; it takes {', '.join(known)}")
    problem = _refused(system.ways, asked, known)
    if problem:
        raise ValueError(place + problem)
    fitting = [way for way in system.ways if _fits(way, asked)]
    converted = {key: known[key].default for key in known}
    for key, value in asked.items():
        try:
            converted[key] = convert(known[key], value)
        except ValueError as error:
            raise ValueError(f"{place}{error}") from None
    return Given(max(fitting, key=lambda way: len(way.needs)), converted, seed)


def _fits(way: Way, asked: Iterable[str]) -> bool:
    return set(way.needs) <= set(asked) <= {*way.needs, *way.takes}


def _refused(ways: Sequence[Way], asked: Mapping[str, Any], known: Mapping[str, Input]) -> str | None:
    """Why no way has all that it needs and takes all that is given; None where one does."""
    if any(_fits(way, asked) for way in ways):
        return None

    def apart(way: Way) -> tuple[list[str], list[str]]:
        missing = [key for key in way.needs if key not in asked]
        return missing, [key for key in asked if key not in (*way.needs, *way.takes)]

    all_ways = "".join(f"\n  {way.usage}  ({way.meaning})" for way in ways)
    if not any(key in asked for way in ways for key in way.needs):
        return f"give one of:{all_ways}"
    nearest = min(ways, key=lambda way: (sum(map(len, apart(way))), len(apart(way)[0])))
    missing, extra = apart(nearest)
    if extra:
        others = [way.usage for way in ways if extra[0] in (*way.needs, *way.takes)]
        return (
            f"{' and '.join(extra)}: not with {nearest.usage} ({nearest.meaning}); leave it out. "
            f"{extra[0]} goes with {', or '.join(others)}"
        )
    origin = known[missing[0]].origin
    if origin:
        return f"{missing[0]}=… is missing ({known[missing[0]].meaning}): {origin}"
    return f"{' and '.join(missing)}: not given. Give one of:{all_ways}"


def convert(each: Input, value: Any) -> Any:
    """A value that was typed as `Given` holds it.

    Raises:
        ValueError: it cannot be; names the key.
    """
    wrong = f"{each.name}={value}: "
    if each.kind in PATHS:
        return _file(each, _text(each, value))
    if each.kind == "text":
        return _text(each, value)
    if each.kind == "face":
        which = _text(each, value)
        if not _FACE.fullmatch(which):
            raise ValueError(f"{wrong}give largest, left, right, or a number, 1 being on the left")
        return which
    if each.kind == "shards":
        return value if isinstance(value, str) else [str(pattern) for pattern in value]
    if each.kind == "photos":
        return _photos(each, value)
    if each.kind == "layout":
        return _layout(each, value)
    if each.kind == "shares" and _is_list(value):
        return _shares(each, value)
    if each.kind == "choice":
        if value not in each.choices:
            raise ValueError(f"{wrong}choose one of {', '.join(each.choices)}")
        return value
    if each.kind == "switch":
        if not isinstance(value, bool):
            raise ValueError(f"{wrong}give true or false")
        return value
    if each.kind == "size":
        sides = [value] * 2 if isinstance(value, int) else list(value) if _is_list(value) else []
        if len(sides) != 2 or any(not isinstance(side, int) or side < 1 for side in sides):
            raise ValueError(f"{wrong}give one number or [height,width], in pixels")
        return tuple(sides)
    return _number(each, value)


def _number(each: Input, value: Any) -> Any:
    wrong = f"{each.name}={value}: "
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{wrong}give a number")
    if each.kind == "rate":
        if value <= 0:
            raise ValueError(f"{wrong}give frames a second, such as 25")
        return Fraction(value).limit_denominator(100_000)
    if each.kind == "count" and value != int(value):
        raise ValueError(f"{wrong}give a whole number")
    low, high = each.low, each.high
    if (low is not None and value < low) or (high is not None and value > high):
        named = (("at least", low), ("at most", high))
        bounds = [f"{word} {bound:g}" for word, bound in named if bound is not None]
        raise ValueError(f"{wrong}it must be {' and '.join(bounds)}")
    return int(value) if each.kind == "count" else float(value)


def _photos(each: Input, value: Any) -> tuple[tuple[Path, ...], ...]:
    people = [[one] if not _is_list(one) else list(one) for one in (value if _is_list(value) else [value])]
    if not people or not all(people):
        raise ValueError(f"{each.name}={value}: give at least one photo of each person")
    for most, count, what in (
        (each.people, len(people), "people; a list is one photo of each, [[a.jpg,b.jpg]] two of one person"),
        (each.photos, max(map(len, people)), "photos of a person"),
    ):
        if most is not None and count > most:
            raise ValueError(f"{each.name}: {count} given, at most {most} {what}")
    return tuple(tuple(_file(each, _text(each, photo)) for photo in person) for person in people)


def _layout(each: Input, value: Any) -> tuple[Path | tuple[float, ...], ...]:
    places: list[Path | tuple[float, ...]] = []
    for place in value if _is_list(value) else [value]:
        if isinstance(place, str):
            places.append(_file(each, place))
            continue
        box = list(place) if _is_list(place) else []
        if len(box) != 4 or not all(isinstance(edge, int | float) and 0 <= edge <= 1 for edge in box):
            raise ValueError(
                f"{each.name}={place}: give for each person a picture of a mask, or [x0,y0,x1,y1] in shares "
                "of width and height"
            )
        if not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError(f"{each.name}={place}: x0 < x1 and y0 < y1 must hold")
        places.append(tuple(float(edge) for edge in box))
    if each.people is not None and len(places) > each.people:
        raise ValueError(f"{each.name}: {len(places)} places given, at most {each.people}")
    return tuple(places)


def _shares(each: Input, value: Sequence[Any]) -> tuple[tuple[float, ...], ...]:
    people = [list(one) for one in value] if value and all(map(_is_list, value)) else [list(value)]
    shares = tuple(tuple(_number(each, one) for one in person) for person in people)
    if any(sum(person) > 1 + 1e-6 for person in shares):
        raise ValueError(f"{each.name}={value}: the shares of a person are more than 1 together")
    return shares


def _file(each: Input, typed: str) -> Path:
    if "://" in typed:
        raise ValueError(f"{each.name}={typed}: an address; fetch it, and give the path of a file")
    if not Path(typed).is_file():
        raise ValueError(f"{each.name}={typed}: no such file{f': {each.origin}' if each.origin else ''}")
    return Path(typed)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _text(each: Input, value: Any) -> str:
    """Words as they are; a number, which a shell or a table may make of them, as it is written."""
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        return str(value)
    raise ValueError(f"{each.name}={value}: give text")
