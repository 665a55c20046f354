"""A decoded frame as the picture that a player shows: progressive, square pixels, upright, in sRGB."""

from collections.abc import Iterator
from fractions import Fraction

import av
import cv2
import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream

from portraitgen.media.hdr import HDR_TRANSFERS, sdr_from_hdr

_UNSPECIFIED_MATRIX = 2
_HD_HEIGHT = 720
_MAX_PIXEL_ASPECT = 4


def pixel_aspect(stream: VideoStream) -> Fraction:
    """Width over height of a stored pixel; 1 where it is not stated, nearly 1 or absurd."""
    aspect = stream.sample_aspect_ratio
    if not aspect or not Fraction(1, _MAX_PIXEL_ASPECT) <= aspect <= _MAX_PIXEL_ASPECT:
        return Fraction(1)
    return Fraction(1) if abs(aspect - 1) < Fraction(1, 100) else Fraction(aspect)


def square_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """(width, height), even, in which the pixels of a stored picture are square; no side gets shorter."""
    if aspect == 1:
        return width, height
    wide, high = max(aspect, Fraction(1)), max(1 / aspect, Fraction(1))
    return 2 * round(width * wide / 2), 2 * round(height * high / 2)


def shown_picture(frame: VideoFrame, aspect: Fraction) -> np.ndarray:
    """What a player shows of a progressive frame: uint8 [H, W, 3] RGB.

    Colours of HD pictures that state no matrix are BT.709's, as everywhere; HLG and PQ are mapped to SDR.

    Args:
        aspect: of its pixels, see `pixel_aspect`.
    """
    if frame.color_trc in HDR_TRANSFERS:
        image = sdr_from_hdr(np.asarray(frame.to_ndarray(format="rgb48le")), frame.color_trc)
    elif frame.colorspace == _UNSPECIFIED_MATRIX and min(frame.height, frame.width) >= _HD_HEIGHT:
        image = np.asarray(frame.to_ndarray(format="rgb24", src_colorspace=Colorspace.ITU709))
    else:
        image = np.asarray(frame.to_ndarray(format="rgb24"))
    if aspect != 1:
        size = square_size(frame.width, frame.height, aspect)
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(_upright(image, frame))


def lies_across(frame: VideoFrame) -> bool:
    """Whether the shown picture has the stored one's height as its width (phones store video lying)."""
    first, second = _display_matrix(frame)[:2]
    return abs(second) > abs(first)


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """a, b, c, d of ISO/IEC 14496-12's matrix: a stored (x, y) is shown at (ax + cy, bx + dy)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(data, SideData):
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data), "<i4")[:5].tolist()
    return a, b, c, d


def _upright(image: np.ndarray, frame: VideoFrame) -> np.ndarray:
    a, b, c, d = _display_matrix(frame)
    if lies_across(frame):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


class Deinterlacer:
    """Makes progressive frames of interlaced ones, from the first that says it is one on; others pass."""

    def __init__(self) -> None:
        self._graph: av.filter.Graph | None = None
        self._kind: tuple[object, ...] = ()

    def put(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """The frames that are ready after this one: as many as go in, in order, some of them one later."""
        kind = (frame.width, frame.height, frame.format.name)
        if self._graph is not None and kind != self._kind:
            yield from self.end()
        if self._graph is None and not frame.interlaced_frame:
            yield frame
            return
        if self._graph is None:
            self._graph, self._kind = av.filter.Graph(), kind
            source = self._graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
            )
            yadif = self._graph.add("yadif", "mode=send_frame:deint=interlaced")
            source.link_to(yadif)
            yadif.link_to(self._graph.add("buffersink"))
            self._graph.configure()
        self._graph.push(frame)
        yield from self._ready()

    def end(self) -> Iterator[VideoFrame]:
        """What is still held."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready()
            self._graph = None

    def _ready(self) -> Iterator[VideoFrame]:
        assert self._graph is not None
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(frame, VideoFrame)
            yield frame
