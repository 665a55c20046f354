"""Inputs as a system declares them, as parts of a Gradio page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.base import Component

from portraitgen.media.decode import VIDEO_SUFFIXES
from portraitgen.media.photo import PHOTO_SUFFIXES
from portraitgen.runs.demo.given_files import Uploaded
from portraitgen.training.inputs import Input

MOST_PEOPLE = 4
"""People of whom a page takes photos, where a system takes any number."""

_UNSET = ("as the weights say", "")

_SUFFIXES = {
    "photos": [*sorted(PHOTO_SUFFIXES)],
    "video": [*sorted(VIDEO_SUFFIXES | PHOTO_SUFFIXES), ".npz"],
}


@dataclass(frozen=True, slots=True)
class Field:
    """One input on the page.

    Attributes:
        input: what is given.
        group: all that belongs to it; hidden where a way does not take it.
        parts: that hold its value.
        read: values of `parts` → what a person would type (lists of `Uploaded` for files); None: not given.
        problem: where messages about it stand.
        seen: one for each part that takes files: what the files show.
        folded: what has to be open for all this to be seen.
    """

    input: Input
    group: gr.Column
    parts: tuple[Component, ...]
    read: Callable[..., Any]
    problem: gr.HTML
    seen: tuple[gr.HTML, ...] = ()
    folded: gr.Accordion | None = None


def make_field(each: Input, *, needed: bool, folded: gr.Accordion | None = None) -> Field:
    """The part of the page for one input, in the place where it is called."""
    label = f"{label_of(each)}{'' if needed else ' (optional)'}"
    with gr.Column(elem_classes="pg-field", min_width=0) as group:
        parts, read, seen = _MAKERS[each.kind](each, label)
        problem = gr.HTML(visible=False)
    return Field(each, group, parts, read, problem, seen, folded)


def label_of(each: Input) -> str:
    """`inputs.face_scale` as "Face scale"."""
    return each.name.rpartition(".")[2].replace("_", " ").capitalize()


_Made = tuple[tuple[Component, ...], Callable[..., Any], tuple[gr.HTML, ...]]


def _photos(each: Input, label: str) -> _Made:
    people = MOST_PEOPLE if each.people is None else each.people
    several = each.photos != 1
    parts: list[gr.File | gr.Audio] = []
    seen: list[gr.HTML] = []
    _explain(each)
    for number in range(people):
        name = label if people == 1 else f"{label}: person {number + 1}"
        count: Any = "multiple" if several else "single"
        parts.append(gr.File(label=name, file_count=count, file_types=_SUFFIXES["photos"], height=140))
        seen.append(gr.HTML(visible=False))

    def read(*given: list[Uploaded]) -> Any:
        shown = [files if several else files[0] for files in given if files]
        return (shown if people > 1 or several else shown[0]) if shown else None

    return tuple(map(_as_it_came, parts)), read, tuple(seen)


def _file(each: Input, label: str) -> _Made:
    _explain(each)
    part = gr.File(label=label, file_types=_SUFFIXES.get(each.kind), height=140)
    return (_as_it_came(part),), _first, (gr.HTML(visible=False),)


def _sound(each: Input, label: str) -> _Made:
    _explain(each)
    part = gr.Audio(
        label=label,
        sources=["upload", "microphone"],
        type="filepath",
        editable=False,
        buttons=["download"],  # and none that publishes it
    )
    return (_as_it_came(part),), _first, (gr.HTML(visible=False),)


def _text(each: Input, label: str) -> _Made:
    lines = 3 if each.name == "prompt" else 1
    part = gr.Textbox(label=label, info=meaning_of(each), lines=lines, max_lines=8, max_length=4000)
    return (part,), lambda text: " ".join(text.split()) or None if text else None, ()


def _face(each: Input, label: str) -> _Made:
    part = gr.Dropdown(
        ["largest", "left", "right"], value=each.default, label=label, info=meaning_of(each), interactive=True
    )
    return (part,), lambda which: None if which == each.default else which, ()


def _choice(each: Input, label: str) -> _Made:
    unset = [] if each.default in each.choices else [_UNSET]
    about: dict[str, Any] = {"label": label, "info": meaning_of(each), "interactive": True}
    part = gr.Dropdown([*unset, *each.choices], value=each.default or "", **about)
    return (part,), lambda chosen: None if chosen in (each.default, "", None) else chosen, ()


def _switch(each: Input, label: str) -> _Made:
    options = {"true": True, "false": False}
    unset = [_UNSET] if each.default is None else []
    value = "" if each.default is None else str(each.default).lower()
    part = gr.Radio([*unset, *options], value=value, label=label, info=meaning_of(each))
    return (part,), lambda chosen: None if chosen in (value, None) else options[chosen], ()


def _size(each: Input, label: str) -> _Made:
    example = "512, or height and width: 512, 384"
    part = gr.Textbox(label=label, info=each.meaning, placeholder=example, max_length=20)

    def read(text: str) -> Any:
        words = (text or "").replace(",", " ").replace("×", " ").split()
        if not all(word.isdecimal() for word in words) or len(words) > 2:
            raise ValueError(f"{each.name}: give one number, or height and width, in pixels")
        sides = [int(word) for word in words]
        return None if not sides else sides[0] if len(sides) == 1 else sides

    return (part,), read, ()


def _layout(each: Input, label: str) -> _Made:
    _explain(each)
    target = f"pg-layout-{each.name.replace('.', '-')}"
    gr.HTML(f"<div class='pg-boxes' data-target='{target}' aria-hidden='true'></div>")
    part = gr.Textbox(
        label=label,
        info="a line for each person: left, top, right, bottom, in shares of width and height (0 to 1)",
        lines=2,
        max_lines=8,
        max_length=1000,
        elem_id=target,
    )

    def read(text: str) -> Any:
        lines = [line.replace(",", " ").split() for line in (text or "").splitlines() if line.strip()]
        try:
            return [[float(edge) for edge in line] for line in lines] or None
        except ValueError:
            raise ValueError(f"{each.name}: give four numbers a line, such as 0.1, 0.2, 0.5, 0.9") from None

    return (part,), read, ()


def _number(each: Input, label: str) -> _Made:
    whole = each.kind == "count"
    bounds: dict[str, Any] = {"minimum": each.low, "maximum": each.high}
    about: dict[str, Any] = {"label": label, "info": meaning_of(each)}
    part: Component
    if each.default is not None and each.low is not None and each.high is not None:
        part = gr.Slider(value=each.default, step=1 if whole else 0.05, **bounds, **about)
        return (part,), lambda value: None if value in (None, each.default) else value, ()
    # A number that need not be given: an empty gr.Number shows, and gives, 0.
    default = "" if each.default is None else f"{each.default:g}"
    what = "whole number" if whole else "number"
    part = gr.Textbox(value=default, placeholder=f"a {what}", max_length=20, **about)

    def read(text: str) -> Any:
        if not (text or "").strip() or text.strip() == default:
            return None
        try:
            return int(text) if whole or text.strip().isdecimal() else float(text)
        except ValueError:
            raise ValueError(f"{each.name}: give a {what}") from None

    return (part,), read, ()


def _shares(each: Input, label: str) -> _Made:
    part = gr.Textbox(
        label=label,
        info=f"{meaning_of(each)}; a line for each person",
        lines=2,
        max_lines=8,
        max_length=200,
        placeholder="0.3, or of each photo: 0.2, 0.1",
    )

    def read(text: str) -> Any:
        try:
            shares = [
                [float(word) for word in line.replace(",", " ").split()] for line in (text or "").splitlines()
            ]
        except ValueError:
            raise ValueError(f"{each.name}: give numbers, a line for each person") from None
        if not any(shares):
            return None
        return shares[0][0] if sum(map(len, shares)) == 1 else shares

    return (part,), read, ()


_MAKERS: dict[str, Callable[[Input, str], _Made]] = {
    "photos": _photos,
    "video": _file,
    "file": _file,
    "sound": _sound,
    "text": _text,
    "face": _face,
    "choice": _choice,
    "switch": _switch,
    "number": _number,
    "count": _number,
    "rate": _number,
    "shares": _shares,
    "size": _size,
    "layout": _layout,
}


def meaning_of(each: Input) -> str:
    """What an input means, and its range."""
    low, high = each.low, each.high
    if low is not None and high is not None:
        return f"{each.meaning} ({low:g} to {high:g})"
    bound = f" (from {low:g})" if low is not None else f" (up to {high:g})" if high is not None else ""
    return each.meaning + bound


def _explain(each: Input) -> None:
    gr.HTML(f"<p class='pg-about'>{escape(each.meaning)}</p>")


def _as_it_came(part: gr.File | gr.Audio) -> Component:
    """The part giving files with the names that they had: it converts none, and leaves no copy."""
    part.preprocess = _uploaded  # type: ignore
    return part


def _first(files: Sequence[Uploaded]) -> Uploaded | None:
    return files[0] if files else None


def _uploaded(payload: Any) -> list[Uploaded]:
    if payload is None:
        return []
    files = payload.root if hasattr(payload, "root") else [payload]
    return [Uploaded(Path(file.path), file.orig_name or Path(file.path).name) for file in files]
