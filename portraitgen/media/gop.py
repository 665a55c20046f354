"""Random access into prepared clips: decode a few frames of a closed-GOP H.264 mp4 that lies in memory.

The hot path of the loader. Opening a container costs as much as decoding two frames, and it is not needed:
the packets of an mp4 can be fed to a decoder directly once their places are known. `packet_table` finds
them, once, when a shard is indexed; it is a handful of small arrays that the shard index stores (`offsets`,
`sizes`, `keyframes`, `extradata`). With the table at hand `GopDecoder` touches only the bytes of the GOPs
that it decodes, each by one slice, so `data` may be anything that reads what is sliced of it:

    table = packet_table(mp4_bytes)        # when the shard is indexed
    decoder = GopDecoder()                 # one in each worker; it keeps its codec contexts
    decoder.decode_yuv420(member, start=24, count=12, table=table, out=batch[i])

Without `table` the same call finds the packets itself, which costs about as much as two frames.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from portraitgen.media.container import VideoError
from portraitgen.media.decode import is_zeroed

Buffer = bytes | memoryview


class Sliced(Protocol):
    """Bytes of which slices are taken."""

    def __getitem__(self, part: slice, /) -> Buffer: ...


@dataclass(frozen=True, slots=True, eq=False)
class PacketTable:
    """Where the frames of one H.264 mp4 lie; frame i is packet i.

    Attributes:
        offsets: int64 [N], first byte of each packet, from the start of the mp4.
        sizes: int64 [N], bytes of each packet.
        keyframes: bool [N], true where a GOP begins.
        extradata: the decoder's configuration (avcC: SPS and PPS); equal for all clips encoded alike.
        width, height: of the picture, in pixels.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    keyframes: np.ndarray
    extradata: bytes
    width: int
    height: int


def packet_table(data: Buffer, *, name: str = "<clip in memory>") -> PacketTable:
    """Find the packets of a prepared clip.

    Args:
        data: the whole mp4, as `portraitgen.media.encode.encode_clip` writes it.
        name: what to call it in messages.

    Raises:
        VideoError: unreadable, cut short, not H.264 4:2:0, or with B-frames, so that frame i is not packet i.
    """
    try:
        with av.open(io.BytesIO(data), "r", options={"format_whitelist": "mp4"}) as container:
            if not container.streams.video:
                raise VideoError(f"{name}: holds no video stream")
            stream = container.streams.video[0]
            context = stream.codec_context
            packets = [
                (packet.pos, packet.size, packet.is_keyframe, packet.pts)
                for packet in container.demux(stream)
                if packet.size
            ]
            codec, pixels, extradata = context.name, context.pix_fmt, context.extradata
            width, height, claimed = context.width, context.height, stream.frames
    except av.error.FFmpegError as error:
        raise VideoError(f"{name}: not a readable mp4 ({error.strerror}); prepare this clip again") from error
    if codec != "h264" or pixels != "yuv420p" or not extradata:
        raise VideoError(f"{name}: holds {codec} {pixels}, not H.264 yuv420p; prepare this clip again")
    if not packets or len(packets) < claimed:
        raise VideoError(f"{name}: cut short, {len(packets)} of {claimed} frames; prepare this clip again")
    offsets, sizes, keyframes, times = zip(*packets, strict=True)
    if not keyframes[0] or any(later <= earlier for earlier, later in pairwise(times)):
        raise VideoError(f"{name}: has B-frames or begins without a key frame; prepare this clip again")
    return PacketTable(
        offsets=np.array(offsets, np.int64),
        sizes=np.array(sizes, np.int64),
        keyframes=np.array(keyframes, bool),
        extradata=extradata,
        width=width,
        height=height,
    )


def _runs(table: PacketTable, wanted: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """What is decoded for frames, increasing: first and last frame of each run, the first being a key frame,
    and the places in `wanted` of what is wanted of it.
    """
    starts = np.flatnonzero(table.keyframes)
    gop_of = np.searchsorted(starts, wanted, side="right") - 1
    for gop in np.unique(gop_of):
        places = np.flatnonzero(gop_of == gop)
        yield int(starts[gop]), int(wanted[places[-1]]), places


def packet_spans(table: PacketTable, frames: np.ndarray) -> list[tuple[int, int]]:
    """The bytes of an mp4 that are read for frames (int64 [n], increasing): first, and first behind."""
    spans = []
    for first, last, _ in _runs(table, frames):
        ends = table.offsets[first : last + 1] + table.sizes[first : last + 1]
        spans.append((int(table.offsets[first : last + 1].min()), int(ends.max())))
    return spans


def _packets(data: Buffer | Sliced, table: PacketTable, first: int, last: int) -> list[Buffer]:
    """Bytes of packets first..last, sliced at once where they lie one behind the other, as encoders write."""
    begins = table.offsets[first : last + 1]
    ends = begins + table.sizes[first : last + 1]
    if not np.array_equal(begins[1:], ends[:-1]):
        return [data[begin:end] for begin, end in zip(begins, ends, strict=True)]
    run = memoryview(data[begins[0] : ends[-1]])
    return [run[begin:end] for begin, end in zip(begins - begins[0], ends - begins[0], strict=True)]


def _copy_planes(frame: VideoFrame, out: np.ndarray) -> None:
    """Copy a yuv420p frame, whose rows are padded, into packed I420 rows `out` [3H/2, W]."""
    height, width = frame.height, frame.width
    chroma = out[height:].reshape(2, height // 2, width // 2)
    for plane, target in zip(frame.planes, (out[:height], chroma[0], chroma[1]), strict=True):
        rows, columns = target.shape
        padded = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        target[...] = padded[:rows, :columns]


class GopDecoder:
    """Decodes chosen frames of closed-GOP clips, on one thread, keeping its codec contexts between calls.

    Frames come out as packed I420 planes, uint8 [3H/2, W]: H rows of luma, then U and V of [H/2, W/2] each,
    flattened. An instance can be pickled (contexts are made anew) but not shared by threads.
    """

    _max_contexts = 8

    def __init__(self) -> None:
        self._contexts: dict[bytes, VideoCodecContext] = {}

    def __reduce__(self) -> tuple[type["GopDecoder"], tuple[()]]:
        return GopDecoder, ()

    def decode_yuv420(
        self,
        data: Buffer,
        *,
        start: int,
        count: int,
        table: PacketTable | None = None,
        out: np.ndarray | None = None,
        name: str = "<clip in memory>",
    ) -> np.ndarray:
        """Decode `count` consecutive frames from `start`: uint8 [count, 3H/2, W]. See `decode_frames`."""
        return self.decode_frames(data, range(start, start + count), table=table, out=out, name=name)

    def decode_frames(
        self,
        data: Buffer | Sliced,
        frames: Sequence[int] | np.ndarray,
        *,
        table: PacketTable | None = None,
        out: np.ndarray | None = None,
        name: str = "<clip in memory>",
    ) -> np.ndarray:
        """Decode the frames with these indices, touching only the GOPs that hold them.

        Args:
            data: the mp4; all of it where there is no `table`.
            frames: strictly increasing frame indices.
            table: the clip's packets, from `packet_table`; found here when not given.
            out: uint8 [len(frames), 3H/2, W], each frame contiguous; written and returned. Allocated when not
                given.
            name: what to call the clip in messages.

        Raises:
            VideoError: a frame is damaged, or the clip is not a prepared one.
            ValueError: frames out of range or not increasing, `out` of another shape or dtype.
        """
        table = table or packet_table(data[:], name=name)
        wanted = np.asarray(frames, np.int64)
        total = len(table.sizes)
        if wanted.size == 0 or wanted[0] < 0 or wanted[-1] >= total or np.any(np.diff(wanted) <= 0):
            raise ValueError(
                f"{name}: frames {wanted.tolist()} must be increasing and within its {total} frames"
            )
        shape = (len(wanted), table.height * 3 // 2, table.width)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8 or not out[0].flags.c_contiguous:
            raise ValueError(f"{name}: out is {out.dtype} {out.shape}, must be uint8 {shape}, contiguous")
        for first, last, places in _runs(table, wanted):
            rows = {int(wanted[row]): int(row) for row in places}
            decoded = first
            for picture in self._decode_run(data, table, first, last, name):
                # Copied while the decoder's output is still in the cache.
                if decoded in rows:
                    _copy_planes(picture, out[rows[decoded]])
                decoded += 1
            if decoded != last + 1:
                raise VideoError(f"{name}: frame {decoded} cannot be decoded; prepare this clip again")
        return out

    def _decode_run(
        self, data: Buffer | Sliced, table: PacketTable, first: int, last: int, name: str
    ) -> Iterator[VideoFrame]:
        """Frames first..last of one GOP, `first` being its key frame."""
        context = self._context(table.extradata)
        try:
            # PyAV takes any buffer, its stub names bytes only; a memoryview spares one copy.
            packets = [av.Packet(packet) for packet in _packets(data, table, first, last)]  # type: ignore[arg-type]
            if any(is_zeroed(bytes(packet), "h264") for packet in packets):
                raise VideoError(
                    f"{name}: bytes between frames {first} and {last} were overwritten with zeros"
                )
            for packet in (*packets, None):
                for picture in context.decode(packet):
                    if picture.is_corrupt:
                        raise VideoError(f"{name}: damaged between frames {first} and {last}")
                    yield picture
        except av.error.FFmpegError as error:
            raise VideoError(
                f"{name}: damaged between frames {first} and {last} ({error.strerror})"
            ) from error
        finally:
            context.flush_buffers()

    def _context(self, extradata: bytes) -> VideoCodecContext:
        """The decoder for this configuration; clips of one data set share one, so a few are plenty."""
        context = self._contexts.get(extradata)
        if context is None:
            if len(self._contexts) >= self._max_contexts:
                del self._contexts[next(iter(self._contexts))]
            context = av.CodecContext.create("h264", "r")
            context.extradata = extradata
            context.thread_count = 1
            self._contexts[extradata] = context
        return context
