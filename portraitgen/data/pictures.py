"""The pictures of a sample as the loader gives them, for what is computed from whole samples."""

from typing import TYPE_CHECKING

import cv2
import numpy as np

from portraitgen.data.sample import ClipSample, DataError
from portraitgen.media.gop import GopDecoder, packet_table

if TYPE_CHECKING:
    from torch import Tensor


class SamplePictures:
    """Frames of a clip, or the one of a photo, decoded when they are asked for."""

    def __init__(self, sample: ClipSample) -> None:
        self._sample = sample
        self._table = None if sample.video is None else packet_table(sample.video, name=sample.key)
        self._decoder = GopDecoder()

    def planes(self, start: int, count: int) -> np.ndarray:
        """I420 planes, uint8 [count, 3H/2, W], of frames from `start` on; ValueError if one is damaged."""
        sample = self._sample
        if sample.video is None:
            assert sample.image is not None
            return photo_planes(sample.image)[None]
        return self._decoder.decode_yuv420(
            sample.video, start=start, count=count, table=self._table, name=sample.key
        )

    def rgb(self, start: int, count: int, *, device: str = "cpu") -> "Tensor":
        """The same as float [count, 3, H, W] in [-1, 1] on a device."""
        # Preparation, which reads shards too, does without torch.
        import torch

        from portraitgen.media.yuv import yuv420_to_rgb

        return yuv420_to_rgb(torch.from_numpy(self.planes(start, count)).to(device))


def photo_planes(jpeg: bytes | memoryview) -> np.ndarray:
    """I420 planes of a photo, uint8 [3H/2, W]: limited-range BT.601, mean chroma, as media/encode has clips.

    Raises:
        DataError: not a readable JPEG.
    """
    image = decode_jpeg(jpeg, "the photo")
    height, width = image.shape[:2]
    planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
    # cv2 takes the chroma of every second pixel; of 2x2 equal pixels that is their mean.
    halved = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    blocks = cv2.resize(halved, (width, height), interpolation=cv2.INTER_NEAREST)
    planes[height:] = cv2.cvtColor(blocks, cv2.COLOR_BGR2YUV_I420)[height:]
    return planes


_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def decode_jpeg(jpeg: bytes | memoryview, name: str, *, reduced: int = 1) -> np.ndarray:
    """uint8 [H, W, 3] BGR, its sides divided by 1, 2, 4 or 8. DataError, calling it `name`, on damage."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), _REDUCED[reduced])
    if image is None:
        raise DataError(f"{name} is not a readable JPEG")
    return image
