"""When the pictures of a file are seen: its time stamps, mended where they cannot be true.

Stamps of files from cameras, streams and strangers run back where a recording was restarted or cut, jump by
hours where a broadcast clock wraps, hold single values that are wrong, or (AVI) count packets and know no
order of presentation. A player shrugs; a sampler that trusts them loses or invents frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

MAX_PAUSE_S = 1.0
"""Longer without a picture is no pause but a jump of the stamps, for a video of ordinary rate."""

STANDARD_RATES = tuple(
    Fraction(rate) for rate in (Fraction(24000, 1001), 24, 25, Fraction(30000, 1001), 30, 50)
) + (Fraction(60000, 1001), Fraction(60))
"""Frame rates of cameras and broadcasters, to which a measured one is rounded when it is within 1 %."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Pictures with stamps from `first` up to `end` (s, excluded), which are seen `shift` seconds earlier."""

    first: float
    end: float
    shift: float

    def begins_with(self, stamp: float) -> bool:
        """Whether a sound of this stamp belongs to it: sound may begin a little before the picture."""
        return self.first - MAX_PAUSE_S <= stamp < self.end


@dataclass(frozen=True, eq=False)
class PictureClock:
    """Times of the pictures of a file, in seconds from its first one.

    Attributes:
        stamps: of the shown pictures in order of decoding, in units of the stream; -1 where one has none.
        times: at which each is seen, float64; in order of presentation they rise.
        stretches: what is continuous, in order; one in a sound file.
        wrong: how many single stamps were replaced.
        period_s: how long a picture is seen, the median.
        by_order: stamps say nothing, and the n-th decoded picture is seen at the n-th time.
    """

    stamps: np.ndarray
    times: np.ndarray
    stretches: Sequence[Stretch]
    wrong: int
    period_s: float
    by_order: bool

    @cached_property
    def _by_stamp(self) -> dict[int, list[float]]:
        """Times of each stamp, rising: where time runs back a stamp may come again."""
        found: dict[int, list[float]] = {}
        for stamp, time in sorted(zip(self.stamps.tolist(), self.times.tolist(), strict=True)):
            found.setdefault(stamp, []).append(time)
        return found

    @cached_property
    def ordered(self) -> np.ndarray:
        """All times, rising."""
        return np.sort(self.times)

    @cached_property
    def jumps(self) -> np.ndarray:
        """Times of the first picture of every stretch but the first."""
        return np.array([stretch.first - stretch.shift for stretch in self.stretches[1:]])

    def time_of(self, index: int, stamp: int | None, last: float) -> float:
        """When a decoded picture is seen.

        Args:
            index: of the picture, counted from 0 in order of presentation.
            stamp: of the picture.
            last: time of the picture before it.
        """
        if self.by_order:
            return float(self.ordered[index]) if index < len(self.ordered) else last + self.period_s
        times = [] if stamp is None else self._by_stamp.get(stamp, [])
        # A picture that no packet announced (hidden in another one's packet) follows the one before.
        return next((time for time in times if time > last), last + self.period_s)

    def rate(self, stated: Fraction | None) -> Fraction | None:
        """Frames a second: what the header states, if the pictures come about so often; else as measured.

        A round rate is a camera's, of which some pictures may be missing; any other is FFmpeg's own mean,
        which counts the last picture for nothing where its header does not say how long it is seen.
        """
        steps = len(self.times) - len(self.stretches)
        lasting = sum(stretch.end - stretch.first - self.period_s for stretch in self.stretches)
        if self.by_order or steps < 1 or lasting <= 0:
            return stated
        measured = steps / lasting
        if stated:
            stated = Fraction(stated).limit_denominator(1001)
            tolerance = 0.1 if stated.denominator in (1, 1001) else 0.001
            if abs(measured / float(stated) - 1) < tolerance:
                return stated
        near = min(STANDARD_RATES, key=lambda rate: abs(float(rate) - measured))
        return near if abs(float(near) / measured - 1) < 0.01 else Fraction(measured).limit_denominator(100)


def picture_clock(container: InputContainer, stream: VideoStream) -> PictureClock:
    """Read the stamps of all packets, without decoding; the container is then at its end."""
    packets = [packet for packet in container.demux(stream) if packet.dts is not None or packet.size > 0]
    period_s = float(1 / (stream.average_rate or stream.guessed_rate or 25))
    if container.format.name == "avi":
        # Stamps of decoding count slots; one that is left out repeats the picture before it.
        stamps = [packet.dts for packet in packets if packet.size > 0 and packet.dts is not None]
        slots = np.array(stamps, dtype=np.int64)
        times = (slots - slots[:1].sum()) * period_s
        end = float(times.max(initial=0.0)) + period_s
        return PictureClock(slots, times, [Stretch(0.0, end, 0.0)], 0, period_s, by_order=True)
    # What a lossless cut left before the first key picture cannot be decoded.
    first_key = next((number for number, packet in enumerate(packets) if packet.is_keyframe), 0)
    shown = [packet for packet in packets[first_key:] if packet.size > 0 and not packet.is_discard]
    unit = float(stream.time_base or Fraction(1, av.time_base))
    return clock_of_stamps([packet.pts for packet in shown], [packet.dts for packet in shown], unit, period_s)


def clock_of_stamps(
    presented: Sequence[int | None], decoded: Sequence[int | None], unit: float, period_s: float
) -> PictureClock:
    """The clock of packets in order of decoding.

    Args:
        presented, decoded: their stamps (PTS, DTS) in units of `unit` seconds.
        period_s: how long a picture is seen by the header, where the stamps do not say.
    """
    count = len(presented)
    stamps = np.array([-1 if stamp is None else stamp for stamp in presented], dtype=np.int64)
    if count == 0 or all(stamp is None for stamp in presented):
        times = np.arange(count) * period_s
        return PictureClock(stamps, times, [Stretch(0.0, count * period_s, 0.0)], 0, period_s, by_order=True)
    pts = np.array([np.nan if stamp is None else stamp * unit for stamp in presented])
    dts = np.array([np.nan if stamp is None else stamp * unit for stamp in decoded])
    dts = _completed(dts, pts, period_s)
    steps = np.diff(dts)
    usual = steps[(steps >= 0) & (steps <= MAX_PAUSE_S)]
    moved = usual[usual > 0]
    if len(moved):  # less where pictures share a stamp
        period_s = float(np.median(moved)) * len(moved) / len(usual)
    # Seldom enough, each picture would else be a shot that stands still for as long as its file claims.
    period_s = min(period_s, MAX_PAUSE_S)
    pause = max(MAX_PAUSE_S, 3 * period_s)
    order = _mended(dts, period_s, pause)
    delay = np.nanmedian(pts - dts)
    trusted = np.abs(pts - order - delay) <= pause  # False where there is no stamp
    wrong = int((~trusted & ~np.isnan(pts)).sum())
    pts = np.where(trusted, pts, order + delay)
    times = np.empty(count)
    stretches: list[Stretch] = []
    now = 0.0
    breaks = np.flatnonzero(_jumps(order, pause)) + 1
    for part in np.split(np.arange(count), breaks):
        seen = _apart(pts[part], period_s)
        first, end = float(seen.min()), float(seen.max()) + period_s
        shift = first - now
        times[part] = seen - shift
        stretches.append(Stretch(first, end, shift))
        now = end - shift
    return PictureClock(stamps, times, stretches, wrong, period_s, by_order=False)


def _completed(dts: np.ndarray, pts: np.ndarray, period_s: float) -> np.ndarray:
    """Stamps of decoding, also those that are missing: Matroska stores none, FFmpeg finds all but a few."""
    known = np.flatnonzero(~np.isnan(dts))
    if len(known) == 0:
        return pts
    steps = np.diff(dts[known])
    step = float(np.median(steps[steps > 0])) if (steps > 0).any() else period_s
    numbers = np.arange(len(dts))
    completed = np.interp(numbers, known, dts[known])
    completed[: known[0]] -= step * (known[0] - numbers[: known[0]])
    completed[known[-1] + 1 :] += step * (numbers[known[-1] + 1 :] - known[-1])
    return completed


def _apart(stamps: np.ndarray, period_s: float) -> np.ndarray:
    """Stamps of one stretch; pictures that share one are spread evenly up to the next."""
    values, groups, counts = np.unique(stamps, return_inverse=True, return_counts=True)
    if len(values) == len(stamps):
        return stamps
    lasting = np.diff(values, append=values[-1] + counts[-1] * period_s)
    order = np.argsort(groups, kind="stable")
    place = np.empty(len(stamps))
    place[order] = np.arange(len(stamps)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(stamps + place * (lasting / counts)[groups])


def _jumps(order: np.ndarray, pause: float) -> np.ndarray:
    """Which steps between stamps of decoding are jumps: back, or ahead by more than a pause; bool [N - 1]."""
    steps = np.diff(order)
    return (steps < 0) | (steps > pause)


def _mended(dts: np.ndarray, period_s: float, pause: float) -> np.ndarray:
    """Stamps of decoding, those replaced that leave the course which their neighbours keep."""
    order = dts.copy()
    for number in np.flatnonzero(_jumps(order, pause)) + 1:
        before, after = order[number - 1], order[number + 1] if number + 1 < len(order) else np.nan
        on_course = before < after <= before + pause or np.isnan(after)
        if on_course and not 0 <= order[number] - before <= pause:
            order[number] = before + period_s if np.isnan(after) else (before + after) / 2
    return order
