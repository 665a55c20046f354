"""Read videos of any origin: what a file holds, its frames one by one, and what is broken in it.

Files from the net are cut short, mislabelled or damaged, and FFmpeg conceals much of it: a stretch of zeroed
bytes decodes into smeared pictures without an error. Reading therefore ends in one of three ways: clean
frames, frames flagged `corrupt`, or a `VideoError` that names the file, the cause and the fix.
"""

import re
import shlex
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from portraitgen.media.bounded import MAX_RATE
from portraitgen.media.clock import PictureClock, picture_clock
from portraitgen.media.container import MAX_FRAME_PIXELS, VideoError, VideoSource, open_media, source_name
from portraitgen.media.display import Deinterlacer, lies_across, pixel_aspect, shown_picture, square_size
from portraitgen.media.stated_size import missing_bytes

AnyStream = TypeVar("AnyStream", bound=Stream)

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
    | {".mxf", ".nut", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)
"""What the names of videos end in."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video is.

    `fps` is as the header states it, or as measured where its time stamps say otherwise; `width` and `height`
    are those of the picture as shown (upright, square pixels); `wrong_stamps` is how many time stamps cannot
    be true.
    """

    num_frames: int
    fps: Fraction
    width: int
    height: int
    codec: str
    has_audio: bool
    duration_s: float
    wrong_stamps: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture.

    `index` counts the decoded frames from 0; `time_s` is when it is seen, counted from the first picture of
    the file; `image` is uint8 HWC RGB, as shown; `corrupt` says that the decoder met damage in this frame or
    lost frames right before it, or did so since the last key frame, whose damage this frame may have
    inherited; `jumped` that time ran back or jumped right before it.
    """

    index: int
    time_s: float
    image: np.ndarray
    corrupt: bool
    jumped: bool = False


def default_stream(streams: Sequence[AnyStream]) -> AnyStream | None:
    """The stream that players take: the one marked as default, else the first. A cover picture is none."""
    playable = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    marked = (stream for stream in playable if stream.disposition & Disposition.default)
    return next(marked, playable[0] if playable else None)


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    stream = default_stream(container.streams.video)
    if stream is None:
        if not container.streams:
            raise VideoError(
                f"{name}: nothing in it can be read; it was cut short or is damaged: fetch it again"
            )
        raise VideoError(f"{name}: holds no video stream (audio only?); give a file with pictures")
    codec = stream.codec_context
    if codec is None:
        raise VideoError(f"{name}: FFmpeg has no decoder for its pictures; re-encode it")
    most = f"more than {MAX_FRAME_PIXELS // 1_000_000} million pixels"
    if codec.width * codec.height > MAX_FRAME_PIXELS:
        raise VideoError(f"{name}: {codec.width}x{codec.height} are {most}; scale it down")
    if not codec.width:  # FFmpeg has refused the size that the header states, or found none
        raise VideoError(f"{name}: its pictures have {most} or no size; scale it down, or fetch it again")
    codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}  # for what its header does not say
    return stream


def _decode(packet: "Packet[VideoStream]") -> list[VideoFrame] | None:
    """The frames that come out when a packet goes in; None when it is damaged beyond decoding."""
    try:
        return packet.decode()
    except av.error.InvalidDataError:
        return None


_ZEROS = re.compile(rb"\x00{8,}(?!\x00)")


def is_zeroed(
    packet: "bytes | memoryview | Packet[VideoStream]", codec: str, *, annex_b: bool = False
) -> bool:
    """Whether bytes of a packet were overwritten with zeros, which CABAC decodes without an error.

    NAL units never hold three zero bytes in a row (emulation prevention, H.264 7.4.1), and a length prefix
    adds at most three.

    Args:
        annex_b: the packet is a byte stream, in which any number of zeros may stand between NAL units and
            after the last (H.264 annex B, trailing_zero_8bits).
    """
    if codec not in ("h264", "hevc"):
        return False
    data = bytes(packet)
    if not annex_b:
        return bytes(8) in data
    runs = (run.end() for run in _ZEROS.finditer(data))
    return any(end < len(data) and data[end] != 1 for end in runs)


def _is_annex_b(stream: VideoStream) -> bool:
    extradata = stream.codec_context.extradata
    return not extradata or extradata[0] != 1  # avcC and hvcC, of length-prefixed NAL units, begin with 1


def probe_video(source: VideoSource, *, square_pixels: bool = True, name: str | None = None) -> VideoInfo:
    """Size, rate, length and streams of a video, after decoding its first frame to see that it can be.

    `num_frames` is the container's own count, or, where it keeps none (Matroska), the number of packets.

    Args:
        square_pixels: the size is that of the picture with square pixels; False: as stored.

    Raises:
        VideoError: unreadable file, no video stream, no frame rate, or not one decodable frame.
    """
    name = source_name(source, name)
    clock = read_clock(source, name)
    with open_media(source, name) as container:
        stream = _video_stream(container, name)
        packets = container.demux(stream)
        first = next((frame for packet in packets for frame in _decode(packet) or ()), None)
        if first is None:
            raise VideoError(f"{name}: not one frame can be decoded; fetch it again or remove it")
        fps = clock.rate(stream.average_rate or stream.guessed_rate)
        if not fps:
            raise VideoError(
                f"{name}: states no frame rate; re-encode it (ffmpeg -i {shlex.quote(name)} -r 25 "
                "with-a-rate.mp4)"
            )
        if fps > MAX_RATE:
            raise VideoError(
                f"{name}: {float(fps):.4g} frames a second by its time stamps, more than {MAX_RATE}; they "
                f"are wrong: re-encode it (ffmpeg -r 25 -i {shlex.quote(name)} with-a-rate.mp4)"
            )
        num_frames = stream.frames if stream.frames and not clock.by_order else len(clock.times)
        aspect = pixel_aspect(stream) if square_pixels else Fraction(1)
        width, height = square_size(first.width, first.height, aspect)
        return VideoInfo(
            num_frames=num_frames,
            fps=Fraction(fps),
            width=height if lies_across(first) else width,
            height=width if lies_across(first) else height,
            codec=stream.codec_context.name,
            has_audio=bool(container.streams.audio),
            duration_s=float(num_frames / fps),
            wrong_stamps=clock.wrong,
        )


def read_clock(source: VideoSource, name: str) -> PictureClock:
    """The clock of a video; of a file that several ask about one after the other it is read once.

    Raises:
        VideoError: unreadable, or no video stream.
    """
    if isinstance(source, bytes) or not Path(source).is_file():
        return _read_clock(source, name)
    stat = Path(source).stat()
    return _clock_of_file(str(source), name, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _clock_of_file(path: str, name: str, size: int, mtime_ns: int) -> PictureClock:
    return _read_clock(path, name)


def _read_clock(source: VideoSource, name: str) -> PictureClock:
    with open_media(source, name) as container:
        return picture_clock(container, _video_stream(container, name))


def stated_frames(source: VideoSource, *, fps: Fraction | None) -> float:
    """How many frames the header promises, at the rate `fps` (None: the file's own); nothing is decoded.

    Good enough to foresee how long the work takes; 0 for a file that cannot be opened or promises nothing.
    """
    try:
        with open_media(source, source_name(source, None)) as container:
            stream = _video_stream(container, source_name(source, None))
            rate = fps or stream.average_rate
            if container.duration is None or not rate:
                return 0.0
            return float(container.duration / av.time_base * rate)
    except VideoError:
        return 0.0


def iter_frames(
    source: VideoSource, *, square_pixels: bool = True, name: str | None = None
) -> Iterator[Frame]:
    """Decode a video frame by frame, in order of presentation; one frame is in memory at a time.

    Damage in mid-stream flags frames and goes on. A stream that ends before the container's count of frames
    (a download that stopped) yields what there is and then raises. Frames before the first decodable one,
    which a lossless cut leaves behind, are left out silently, as every player does.

    Args:
        square_pixels: stretch pictures whose pixels are not square; False: sizes are as stored.

    Raises:
        VideoError: unreadable file, no video stream, no decodable frame, fewer frames than the container
            claims.
    """
    name = source_name(source, name)
    clock = read_clock(source, name)
    with open_media(source, name) as container:
        stream = _video_stream(container, name)
        aspect = pixel_aspect(stream) if square_pixels else Fraction(1)
        reading = _Reading(stream, clock)
        deinterlacer = Deinterlacer()
        waiting: deque[tuple[int, float, bool, bool]] = deque()
        for packet in container.demux(stream):
            for frame, facts in reading.decode(packet):
                waiting.append(facts)
                for ready in deinterlacer.put(frame):
                    yield _seen(ready, aspect, waiting.popleft())
        for ready in deinterlacer.end():
            yield _seen(ready, aspect, waiting.popleft())
        if reading.index == 0:
            raise VideoError(f"{name}: not one frame can be decoded; fetch it again or remove it")
        if reading.packets < stream.frames:
            raise VideoError(
                f"{name}: cut short, {reading.packets} of {stream.frames} frames are there; fetch it again, "
                f"or save what is there with `ffmpeg -i {shlex.quote(name)} -c copy whole.mp4`"
            )
        if (there := missing_bytes(source)) is not None:
            raise VideoError(f"{name}: cut short, {there[0]} of {there[1]} bytes are there; fetch it again")


def _seen(frame: VideoFrame, aspect: Fraction, facts: tuple[int, float, bool, bool]) -> Frame:
    index, time_s, corrupt, jumped = facts
    return Frame(index, time_s, shown_picture(frame, aspect), corrupt, jumped)


class _Reading:
    """Decodes packets and says of each frame its index, its time, whether it is damaged, whether time jumped.

    `packets` counts what the container holds, empty slots too where they stand for a repeated picture.
    """

    def __init__(self, stream: VideoStream, clock: PictureClock) -> None:
        self._codec, self._clock = stream.codec_context.name, clock
        self._annex_b = _is_annex_b(stream)
        # VP8 alone stores frames that are never shown; otherwise every packet owes one frame. Where stamps
        # say nothing of the order, nothing is known to be owed.
        self._owes_frames = self._codec != "vp8" and not clock.by_order
        self._damaged = self._failed = self._reaches_on = False
        self._awaited: list[int] = []
        self._zeroed: set[int | None] = set()
        self._last_s = -clock.period_s
        self.index = self.packets = 0

    def decode(
        self, packet: "Packet[VideoStream]"
    ) -> Iterator[tuple[VideoFrame, tuple[int, float, bool, bool]]]:
        """The frames that come out when a packet goes in, each with its facts."""
        if self._clock.by_order and packet.dts is not None:
            self.packets = max(self.packets, packet.dts + 1)  # slots, the empty ones too
        else:
            self.packets += packet.size > 0
        if self._owes_frames and packet.size and packet.pts is not None and not packet.is_discard:
            self._awaited.append(packet.pts)
        frames = _decode(packet)
        self._failed = self._failed or (frames is None and packet.size > 0)
        here = is_zeroed(packet, self._codec, annex_b=self._annex_b)
        if here or self._reaches_on:  # the zeros may end within the next packet
            self._failed = True
            self._zeroed.add(packet.pts)
        self._reaches_on = here
        for frame in frames or ():
            skipped = frame.pts is not None and any(pts < frame.pts for pts in self._awaited)
            self._awaited = [pts for pts in self._awaited if frame.pts is not None and pts > frame.pts]
            lost = self.index > 0 and (self._failed or skipped)
            self._failed = False
            self._damaged = (
                frame.is_corrupt
                or frame.pts in self._zeroed
                or ((self._damaged or lost) and not frame.key_frame)
            )
            time_s = self._clock.time_of(self.index, frame.pts, self._last_s)
            jumped = bool(((self._clock.jumps > self._last_s) & (self._clock.jumps <= time_s)).any())
            self._last_s = time_s
            yield frame, (self.index, time_s, self._damaged or lost, jumped)
            self.index += 1


def read_video(source: VideoSource, *, name: str | None = None) -> np.ndarray:
    """All frames of a short video as uint8 [T, H, W, 3] RGB. Raises `VideoError` as `iter_frames` does."""
    return np.stack([frame.image for frame in iter_frames(source, name=name)])
