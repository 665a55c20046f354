"""A video of ours once more as a GIF, a WebM, or PNG frames: what pages, chats and editing programs take."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from portraitgen.media.decode import iter_frames, probe_video
from portraitgen.media.files import replacing

FORMATS = ("gif", "webm", "frames")

_WEBM_CRF = 24
_OPUS_RATE = 48000


def write_gif(path: Path, video: Path) -> None:
    """The video as a GIF that repeats for ever; a GIF counts time in hundredths of a second."""
    rate = probe_video(video).fps
    pictures = (Image.fromarray(image) for image in _images(video))
    first = next(pictures)
    ends = _hundredths(rate)
    with replacing(path) as temporary:
        first.save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=pictures,
            duration=[10 * next(ends) for _ in range(_count(video))],
            loop=0,
        )


def write_webm(path: Path, video: Path) -> None:
    """The video as VP9, and its sound, if it has one, as Opus."""
    with (
        replacing(path) as temporary,
        av.open(str(video)) as source,
        av.open(str(temporary), "w", format="webm") as target,
    ):
        pictures, sounds = source.streams.video[0], source.streams.audio[:1]
        rate = pictures.average_rate
        stream = target.add_stream("libvpx-vp9", rate=rate, options={"crf": str(_WEBM_CRF), "b": "0"})
        stream.width, stream.height, stream.pix_fmt = pictures.width, pictures.height, "yuv420p"
        stream.codec_context.thread_count = 1
        sound = target.add_stream("libopus", rate=_OPUS_RATE, layout="mono") if sounds else None
        resampler = av.AudioResampler(format="flt", layout="mono", rate=_OPUS_RATE)
        for frame in source.decode(pictures, *sounds):
            if isinstance(frame, av.VideoFrame):
                target.mux(stream.encode(frame))
            elif isinstance(frame, av.AudioFrame) and sound is not None:
                for part in resampler.resample(frame):
                    target.mux(sound.encode(part))
        target.mux(stream.encode(None))
        if sound is not None:
            target.mux(sound.encode(None))


def write_frames(folder: Path, video: Path) -> None:
    """The frames as 000000.png, 000001.png …"""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(_images(video)):
        with replacing(folder / f"{number:06d}.png") as temporary:
            Image.fromarray(image).save(temporary, format="PNG")


def _images(video: Path) -> Iterator[np.ndarray]:
    return (frame.image for frame in iter_frames(video))


def _count(video: Path) -> int:
    with av.open(str(video)) as container:
        return sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)


def _hundredths(rate: Fraction) -> Iterator[int]:
    """How long each frame is shown, so that no error adds up."""
    number, shown = 0, 0
    while True:
        number += 1
        until = round(100 * number / rate)
        yield until - shown
        shown = until
