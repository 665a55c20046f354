"""What stamps of a sound cannot be true neither fills the memory with silence nor moves what is heard."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from portraitgen.media.audio import read_audio
from portraitgen.media.container import VideoError
from portraitgen.media.encode import write_video
from portraitgen.media.sound import sound_of


@pytest.mark.parametrize("moved", [range(12, 99), range(99)], ids=["from a place on", "all"])
def test_a_stamp_of_days_is_no_silence_of_days(tmp_path: Path, caplog, moved: range) -> None:
    """2^30 ms used to become 64 GB of zeros."""
    sound = 0.3 * np.sin(np.arange(24_000) * 0.1).astype(np.float32)
    write_video(
        tmp_path / "sound.mp4",
        [np.zeros((32, 32, 3), np.uint8)] * 25,
        fps=25,
        audio=sound,
        sample_rate=24_000,
    )
    strange = io.BytesIO()
    with av.open(str(tmp_path / "sound.mp4")) as source, av.open(strange, "w", format="matroska") as sink:
        streams = {each.index: sink.add_stream_from_template(each) for each in source.streams}
        heard = 0
        for packet in source.demux():
            if not packet.size:
                continue
            packet.stream = streams[packet.stream.index]
            if packet.stream.type == "audio":
                if heard in moved:
                    packet.pts = packet.dts = packet.pts + (1 << 30) * 24
                heard += 1
            sink.mux(packet)
    if moved == range(99):
        with pytest.raises(VideoError, match=r"talk: its sound has time stamps long after its last picture"):
            read_audio(strange.getvalue(), name="talk")
        return
    samples = sound_of(strange.getvalue(), 0.0, Fraction(1))
    assert samples is not None
    assert samples.shape == (1, 48_000)
    assert np.abs(samples[0, 4800:19_200]).max() == pytest.approx(0.3, abs=0.05)
    assert "pieces stamped far behind the last picture left out" in caplog.text
    assert len(read_audio(strange.getvalue())) <= 1.2 * 16_000
