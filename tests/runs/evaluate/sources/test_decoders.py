"""Decoders leave the process once a video has been read."""

import gc

import av
import numpy as np
import torch

from portraitgen.media.encode import write_video
from portraitgen.runs.evaluate.sources.files import VideoFrames


def decoders():
    kinds = (av.CodecContext, av.container.InputContainer)
    return sum(issubclass(type(each), kinds) for each in gc.get_objects())


def test_no_decoder_is_left_when_a_video_has_been_read(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", iter(frames), fps=25)
    gc.collect()
    before = decoders()
    gc.disable()
    try:
        video = VideoFrames(tmp_path / "a.mp4")
        assert decoders() == before
        assert torch.cat([*video.chunks()]).shape == (20, 3, 64, 64)
        assert decoders() == before
    finally:
        gc.enable()
