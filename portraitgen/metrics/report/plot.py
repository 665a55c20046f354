"""Plots as inline SVG: no script, no network, coloured by the style sheet of the page they stand on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

_WIDTH, _HEIGHT = 860, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 14, 44


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One line of a plot.

    Attributes:
        label: what it shows, said when a point is pointed at.
        style: class of the style sheet that gives its colour and dashes.
        values: float64 [T]; NaN leaves a gap.
    """

    label: str
    style: str
    values: np.ndarray


def line_plot(
    x: Sequence[int], lines: Sequence[Line], *, title: str, x_label: str, y_label: str, digits: int
) -> str:
    """An SVG element with the lines, each of whose points says its value when it is pointed at.

    Args:
        x: [T], increasing.
        lines: drawn in this order, the last on top.
        title: read aloud instead of the picture.
        digits: decimals of the values said.

    Returns:
        The `<svg>` element, labels escaped.
    """
    present = np.concatenate([line.values[np.isfinite(line.values)] for line in lines])
    ticks = _ticks(float(present.min()), float(present.max())) if len(present) else [0.0, 1.0]
    low, high = ticks[0], ticks[-1]
    span = max(x[-1] - x[0], 1)

    def place(at: float, value: float) -> tuple[float, float]:
        across = _LEFT + (at - x[0]) / span * (_WIDTH - _LEFT - _RIGHT)
        return across, _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}" class="plot">',
    ]
    for tick in ticks:
        _, y = place(x[0], tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(x[0], x[-1]):
        if tick == int(tick) and x[0] <= tick <= x[-1]:
            across, _ = place(tick, low)
            parts.append(f'<text x="{across:.1f}" y="{_HEIGHT - 24}" text-anchor="middle">{tick:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(
        f'<text transform="translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    for line in lines:
        values = [float(value) for value in line.values]
        drawn = [place(at, value) for at, value in zip(x, values, strict=True)]
        here = [math.isfinite(value) for value in values]
        parts.append(f'<g class="{escape(line.style)}"><path d="{_path(drawn, here)}"/>')
        for index, (across, down) in enumerate(drawn):
            if here[index]:
                lone = not any(here[max(index - 1, 0) : index] + here[index + 1 : index + 2])
                said = escape(f"{line.label}, {x_label} {x[index]}: {values[index]:.{digits}f}")
                style = ' class="lone" r="3"' if lone else ' r="5"'
                parts.append(
                    f'<circle{style} cx="{across:.1f}" cy="{down:.1f}"><title>{said}</title></circle>'
                )
        parts.append("</g>")
    parts.append("</svg>")
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class Bar:
    """A mean with its interval; NaN bounds leave the mean alone, a NaN mean leaves an empty line."""

    label: str
    style: str
    mean: float
    interval: tuple[float, float]


def interval_plot(bars: Sequence[Bar], *, title: str, digits: int) -> str:
    """An SVG element with a mean and an interval for each bar, one below the other on one scale.

    Args:
        bars: from above; one mean at least is finite.
        title: read aloud instead of the picture.
        digits: decimals of the values said.
    """
    width, line, left, right, below = 420, 26, 12, 14, 24
    height = len(bars) * line + below
    values = [value for bar in bars for value in (bar.mean, *bar.interval) if math.isfinite(value)]
    ticks = _ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" class="intervals">'
    ]
    for tick in ticks[:: max(1, len(ticks) // 4)]:
        x = across(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - below}"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 6}" text-anchor="middle">{tick:g}</text>')
    for index, bar in enumerate(bars):
        y = (index + 0.5) * line
        if not math.isfinite(bar.mean):
            continue
        said = f"{bar.label}: {bar.mean:.{digits}f}"
        parts.append(f'<g class="{escape(bar.style)}">')
        if math.isfinite(bar.interval[0]):
            x1, x2 = (across(bound) for bound in bar.interval)
            parts.append(f'<path class="whisker" d="M{x1:.1f} {y:.1f}H{x2:.1f}"/>')
            said += f" ({bar.interval[0]:.{digits}f} to {bar.interval[1]:.{digits}f})"
        parts.append(
            f'<circle class="lone" r="5.5" cx="{across(bar.mean):.1f}" cy="{y:.1f}">'
            f"<title>{escape(said)}</title></circle></g>"
        )
    parts.append("</svg>")
    return "".join(parts)


def _path(points: Sequence[tuple[float, float]], present: Sequence[bool]) -> str:
    """SVG path through the points, lifted where a value is missing."""
    commands = []
    drawing = False
    for (across, down), here in zip(points, present, strict=True):
        if here:
            commands.append(f"{'L' if drawing else 'M'}{across:.1f} {down:.1f}")
        drawing = here
    return "".join(commands)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers at even steps, the first at most `low`, the last at least `high`, about six of them."""
    rough = max(high - low, abs(high) * 1e-3, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]
