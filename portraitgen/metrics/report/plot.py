"""Plots as inline SVG: no script, no network, coloured by the style sheet of the page they stand on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from portraitgen.metrics.report.render import render

_WIDTH, _HEIGHT = 860, 300
_TOP, _BOTTOM = 14, 44
_AXIS_LABEL = 30
_LABEL = 32
"""Letters of a label that fit beside the height of a plot; what reads the title aloud says all of it."""
_DIGIT = 7.5
"""Width of a digit at the style sheet's 12 pixels, in the widest of its fonts."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where the values of a plot with two axes lie on it, and what its template is told of the axes.

    Attributes:
        x_range: first and last value across.
        x_ticks: values that are written below.
        y_ticks: values that are written beside; the first lies at the bottom, the last on top.
    """

    x_range: tuple[float, float]
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]

    @property
    def left(self) -> int:
        return math.ceil(_AXIS_LABEL + _label_width(self.y_ticks))

    @property
    def right(self) -> int:
        return _WIDTH - math.ceil(max(16.0, _label_width(self.x_ticks) / 2))

    @property
    def bottom(self) -> int:
        return _HEIGHT - _BOTTOM

    def across(self, value: float) -> float:
        first, last = self.x_range
        share = (value - first) / (last - first)
        return round(self.left + share * (self.right - self.left), 1)

    def down(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return round(_TOP + (high - value) / (high - low) * (self.bottom - _TOP), 1)

    def render(self, template: str, *, x_label: str, y_label: str, **values: Any) -> Markup:
        """The SVG template with the axes and these values."""
        return render(
            template,
            width=_WIDTH,
            height=_HEIGHT,
            left=self.left,
            right=self.right,
            top=_TOP,
            bottom=self.bottom,
            x_label=x_label,
            y_label=y_label if len(y_label) <= _LABEL else f"{y_label[:_LABEL]}…",
            x_ticks=[(f"{tick:g}", self.across(tick)) for tick in self.x_ticks],
            y_ticks=[(f"{tick:g}", self.down(tick)) for tick in self.y_ticks],
            **values,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One line of a plot.

    Attributes:
        label: what it shows, said when a point is pointed at.
        style: class of the style sheet that gives its colour and dashes.
        values: float64 [T]; NaN leaves a gap.
        interval: float64 [T, 2], bounds of the values that are drawn as a band; None: there are none.
    """

    label: str
    style: str
    values: np.ndarray
    interval: np.ndarray | None = None


class _Point(NamedTuple):
    x: float
    y: float
    said: str
    lone: bool


class _DrawnLine(NamedTuple):
    style: str
    path: str
    points: list[_Point]
    bands: list[str]


def line_plot(
    x: Sequence[int], lines: Sequence[Line], *, title: str, x_label: str, y_label: str, digits: int
) -> Markup:
    """An SVG element with the lines, each of whose points says its value when it is pointed at.

    Args:
        x: [T], increasing.
        lines: drawn in this order, the last on top.
        title: read aloud instead of the picture.
        digits: decimals of the values said.
    """
    shown = [values for line in lines for values in (line.values, line.interval) if values is not None]
    present = np.concatenate([values[np.isfinite(values)] for values in shown])
    ticks = _ticks(float(present.min()), float(present.max())) if len(present) else [0.0, 1.0]
    x_ticks = [tick for tick in _ticks(x[0], x[-1]) if tick == int(tick) and x[0] <= tick <= x[-1]]
    frame = _Frame((x[0], max(x[-1], x[0] + 1)), x_ticks, ticks)

    def drawn(line: Line) -> _DrawnLine:
        values = [float(value) for value in line.values]
        here = [math.isfinite(value) for value in values]
        places = [
            (frame.across(at), frame.down(value) if math.isfinite(value) else math.nan)
            for at, value in zip(x, values, strict=True)
        ]
        points = [
            _Point(
                *places[index],
                said=f"{line.label}, {x_label} {x[index]}: {_said(line, index, digits)}",
                lone=not any(here[max(index - 1, 0) : index] + here[index + 1 : index + 2]),
            )
            for index in range(len(values))
            if here[index]
        ]
        bands = [] if line.interval is None else _bands([frame.across(at) for at in x], line.interval, frame)
        return _DrawnLine(line.style, _path(places), points, bands)

    return frame.render(
        "line_plot.svg",
        title=title,
        x_label=x_label,
        y_label=y_label,
        lines=[drawn(line) for line in lines],
    )


@dataclass(frozen=True, slots=True)
class Spot:
    """A point of two figures; without one of them (NaN) it is left out."""

    label: str
    style: str
    x: float
    y: float


def scatter_plot(
    spots: Sequence[Spot], *, title: str, x_label: str, y_label: str, digits: tuple[int, int]
) -> Markup:
    """An SVG element with the points, each of which says its name and values when it is pointed at.

    Args:
        spots: one at least has both figures.
        title: read aloud instead of the picture.
        digits: decimals of the values said, across and up.
    """
    shown = [spot for spot in spots if math.isfinite(spot.x) and math.isfinite(spot.y)]
    x_ticks, y_ticks = (
        _ticks(min(values), max(values))
        for values in ([spot.x for spot in shown], [spot.y for spot in shown])
    )
    frame = _Frame((x_ticks[0], x_ticks[-1]), x_ticks, y_ticks)
    return frame.render(
        "scatter_plot.svg",
        title=title,
        x_label=x_label,
        y_label=y_label,
        spots=[
            _DrawnSpot(
                spot.style,
                frame.across(spot.x),
                frame.down(spot.y),
                f"{spot.label}: {spot.x:.{digits[0]}f}, {spot.y:.{digits[1]}f}",
            )
            for spot in shown
        ],
    )


class _DrawnSpot(NamedTuple):
    style: str
    x: float
    y: float
    said: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A mean with its interval; NaN bounds leave the mean alone, a NaN mean leaves an empty line."""

    label: str
    style: str
    mean: float
    interval: tuple[float, float]


class _DrawnBar(NamedTuple):
    style: str
    x: float
    y: float
    whisker: tuple[float, float] | None
    said: str


def interval_plot(bars: Sequence[Bar], *, title: str, digits: int) -> Markup:
    """An SVG element with a mean and an interval for each bar, one below the other on one scale.

    Args:
        bars: from above; one mean at least is finite.
        title: read aloud instead of the picture.
        digits: decimals of the values said.
    """
    width, line, below = 420, 26, 24
    height = len(bars) * line + below
    values = [value for bar in bars for value in (bar.mean, *bar.interval) if math.isfinite(value)]
    ticks = _ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]
    shown = ticks[:: max(1, len(ticks) // 4)]
    margin = math.ceil(max(12.0, _label_width(shown) / 2))

    def across(value: float) -> float:
        return round(margin + (value - low) / (high - low) * (width - 2 * margin), 1)

    def drawn(index: int, bar: Bar) -> _DrawnBar:
        said, whisker = f"{bar.label}: {bar.mean:.{digits}f}", None
        if math.isfinite(bar.interval[0]):
            whisker = (across(bar.interval[0]), across(bar.interval[1]))
            said += f" ({bar.interval[0]:.{digits}f} to {bar.interval[1]:.{digits}f})"
        return _DrawnBar(bar.style, across(bar.mean), (index + 0.5) * line, whisker, said)

    return render(
        "interval_plot.svg",
        width=width,
        height=height,
        bottom=height - below,
        title=title,
        ticks=[(f"{tick:g}", across(tick)) for tick in shown],
        bars=[drawn(index, bar) for index, bar in enumerate(bars) if math.isfinite(bar.mean)],
    )


def _said(line: Line, index: int, digits: int) -> str:
    """The value of a point, with its interval where there is one."""
    value = f"{line.values[index]:.{digits}f}"
    if line.interval is None or not np.isfinite(line.interval[index]).all():
        return value
    low, high = line.interval[index]
    return f"{value} ({low:.{digits}f} to {high:.{digits}f})"


def _bands(across: Sequence[float], interval: np.ndarray, frame: _Frame) -> list[str]:
    """Closed SVG paths around the intervals, one for each run of points that have one."""
    bands, run = [], []
    for at, bounds in [*zip(across, interval, strict=True), (0.0, np.full(2, np.nan))]:
        if np.isfinite(bounds).all():
            run.append((at, *(frame.down(float(bound)) for bound in bounds)))
            continue
        if len(run) > 1:
            around = [(x, low) for x, low, _ in run] + [(x, high) for x, _, high in reversed(run)]
            bands.append(f"{_path(around)}Z")
        elif run:
            ((x, low, high),) = run
            bands.append(f"M{x - 2} {low}H{x + 2}V{high}H{x - 2}Z")
        run = []
    return bands


def _path(places: Sequence[tuple[float, float]]) -> str:
    """SVG path through the places, lifted where the height is missing."""
    commands = []
    drawing = False
    for across, down in places:
        here = math.isfinite(down)
        if here:
            commands.append(f"{'L' if drawing else 'M'}{across} {down}")
        drawing = here
    return "".join(commands)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers at even steps, the first at most `low`, the last at least `high`, about six of them."""
    rough = max(high - low, abs(high) * 1e-3, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def _label_width(ticks: Sequence[float]) -> float:
    return max((len(f"{tick:g}") * _DIGIT for tick in ticks), default=0.0)
