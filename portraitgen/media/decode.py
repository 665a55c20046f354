"""Read videos of any origin: what a file holds, its frames one by one, and what is broken in it.

Files from the net are cut short, mislabelled or damaged, and FFmpeg conceals much of it: a stretch of zeroed
bytes decodes into smeared pictures without an error. Reading therefore ends in one of three ways: clean
frames, frames flagged `corrupt`, or a `VideoError` that names the file, the cause and the fix.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

VideoSource = Path | str | bytes


class VideoError(ValueError):
    """A video cannot be used; the message names the file, the cause and what to do."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the container claims. `width` and `height` are those of the upright picture (rotation applied)."""

    num_frames: int
    fps: Fraction
    width: int
    height: int
    codec: str
    has_audio: bool
    duration_s: float


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture.

    `index` counts the decoded frames from 0; `time_s` is the presentation time; `image` is uint8 HWC RGB,
    upright; `corrupt` says that the decoder met damage in this frame or lost frames right before it, or did
    so since the last key frame, whose damage this frame may have inherited.
    """

    index: int
    time_s: float
    image: np.ndarray
    corrupt: bool


def source_name(source: VideoSource, name: str | None) -> str:
    """What messages call a source: the given name, else the path, else that it lies in memory."""
    return name or ("<bytes in memory>" if isinstance(source, bytes) else str(source))


@contextmanager
def open_media(source: VideoSource, name: str) -> Iterator[InputContainer]:
    """Open a file or its bytes for reading.

    Raises:
        VideoError: there is nothing readable in it, or, inside the block, it turns out to be damaged.
    """
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise VideoError(f"{name}: no such file")
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if size == 0:
        raise VideoError(f"{name}: the file is empty (0 bytes); fetch it again or remove it")
    try:
        container = av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), "r")
    except (av.error.FFmpegError, OSError, UnicodeDecodeError) as error:
        # PyAV decodes the names in a header, and those may be damaged too.
        reason = error.reason if isinstance(error, UnicodeDecodeError) else error.strerror
        raise VideoError(
            f"{name}: not a readable video or sound ({reason}); either it is none at all, or an mp4 "
            "that was cut short and so lost its index (moov): fetch it again or remove it"
        ) from error
    with container:
        try:
            yield container
        except (av.error.FFmpegError, UnicodeDecodeError) as error:
            raise VideoError(
                f"{name}: cannot be read to its end ({error}); fetch it again or remove it"
            ) from error


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    if not container.streams.video:
        raise VideoError(f"{name}: holds no video stream (audio only?); give a file with pictures")
    return container.streams.video[0]


def _quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns that put the stored picture upright (phones store video lying)."""
    return round(frame.rotation / 90) % 4


def _decode(packet: "Packet[VideoStream]") -> list[VideoFrame] | None:
    """The frames that come out when a packet goes in; None when it is damaged beyond decoding."""
    try:
        return packet.decode()
    except av.error.InvalidDataError:
        return None


def is_zeroed(packet: "bytes | memoryview | Packet[VideoStream]", codec: str) -> bool:
    """Whether bytes of a packet were overwritten with zeros, which CABAC decodes without an error.

    NAL units never hold three zero bytes in a row (emulation prevention, H.264 7.4.1), and a length prefix
    adds at most three.
    """
    return codec in ("h264", "hevc") and bytes(8) in bytes(packet)


def probe_video(source: VideoSource, *, name: str | None = None) -> VideoInfo:
    """Size, rate, length and streams of a video, after decoding its first frame to see that it can be.

    `num_frames` is the container's own count, or, where it keeps none (Matroska), the number of packets.

    Raises:
        VideoError: unreadable file, no video stream, no frame rate, or not one decodable frame.
    """
    name = source_name(source, name)
    with open_media(source, name) as container:
        stream = _video_stream(container, name)
        packets = container.demux(stream)
        first = next((frame for packet in packets for frame in _decode(packet) or ()), None)
        if first is None:
            raise VideoError(f"{name}: not one frame can be decoded; fetch it again or remove it")
        fps = stream.average_rate or stream.guessed_rate
        if not fps:
            raise VideoError(f"{name}: states no frame rate; re-encode it (ffmpeg -i in.mp4 -r 25 out.mp4)")
        num_frames = stream.frames
        if not num_frames:
            container.seek(0)
            num_frames = sum(packet.size > 0 for packet in container.demux(stream))
        lying = _quarter_turns(first) % 2 == 1
        return VideoInfo(
            num_frames=num_frames,
            fps=Fraction(fps),
            width=first.height if lying else first.width,
            height=first.width if lying else first.height,
            codec=stream.codec_context.name,
            has_audio=bool(container.streams.audio),
            duration_s=float(num_frames / fps),
        )


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


def iter_frames(source: VideoSource, *, name: str | None = None) -> Iterator[Frame]:
    """Decode a video frame by frame, in order of presentation; one frame is in memory at a time.

    Damage in mid-stream flags frames and goes on. A stream that ends before the container's count of frames
    (a download that stopped) yields what there is and then raises. Frames before the first decodable one,
    which a lossless cut leaves behind, are left out silently, as every player does.

    Raises:
        VideoError: unreadable file, no video stream, no decodable frame, fewer frames than the container
            claims.
    """
    name = source_name(source, name)
    with open_media(source, name) as container:
        stream = _video_stream(container, name)
        index = packets = 0
        damaged = failed = reaches_on = False
        awaited: list[int] = []
        zeroed: set[int | None] = set()
        # VP8 alone stores frames that are never shown; otherwise every packet owes one frame.
        owes_frames = stream.codec_context.name != "vp8"
        for packet in container.demux(stream):
            packets += packet.size > 0
            if owes_frames and packet.size and packet.pts is not None and not packet.is_discard:
                awaited.append(packet.pts)
            frames = _decode(packet)
            failed = failed or frames is None
            here = is_zeroed(packet, stream.codec_context.name)
            if here or reaches_on:  # the zeros may end within the next packet
                failed = True
                zeroed.add(packet.pts)
            reaches_on = here
            for frame in frames or ():
                skipped = frame.pts is not None and any(pts < frame.pts for pts in awaited)
                awaited = [pts for pts in awaited if frame.pts is not None and pts > frame.pts]
                lost = index > 0 and (failed or skipped)
                failed = False
                damaged = (
                    frame.is_corrupt or frame.pts in zeroed or ((damaged or lost) and not frame.key_frame)
                )
                upright = np.rot90(np.asarray(frame.to_ndarray(format="rgb24")), _quarter_turns(frame))
                yield Frame(index, float(frame.time or 0.0), np.ascontiguousarray(upright), damaged or lost)
                index += 1
        if index == 0:
            raise VideoError(f"{name}: not one frame can be decoded; fetch it again or remove it")
        if packets < stream.frames:
            raise VideoError(
                f"{name}: cut short, {packets} of {stream.frames} frames are there; fetch it again, or save "
                "what is there with `ffmpeg -i in.mp4 -c copy out.mp4`"
            )


def read_video(source: VideoSource, *, name: str | None = None) -> np.ndarray:
    """All frames of a short video as uint8 [T, H, W, 3] RGB. Raises `VideoError` as `iter_frames` does."""
    return np.stack([frame.image for frame in iter_frames(source, name=name)])
