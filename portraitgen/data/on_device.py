"""From the bytes that a loader hands over to what systems see, on whatever device the batch is."""

from typing import Any

import torch
from torch import Tensor

from portraitgen.media.yuv import yuv420_to_rgb

_PLANES = ("frames", "reference", "motion")
_CHANNELS_LAST = ("image", "faces", "other", "face_picture", "result", "ref")


def to_floats(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with its pictures in [-1, 1], as the right column of data/batch has it."""
    # Lightning has brought the other floats to the precision of the run; features are stored as halves.
    dtype = next(batch[name].dtype for name in ("landmarks", "boxes") if name in batch)
    floats = {name: _to_floats(name, value, dtype) for name, value in batch.items()}
    if "mask" in floats:  # grey exactly, which bytes cannot be
        floats["src"] = floats["result"] * (1 - floats["mask"])
    return floats


def _to_floats(name: str, value: Any, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor):
        return value
    if name in _PLANES:
        return yuv420_to_rgb(value, dtype=dtype)
    if name in _CHANNELS_LAST:
        return value.movedim(-1, -3).contiguous().float().div_(127.5).sub_(1).to(dtype)
    if name == "pose":
        return value.to(dtype).div_(127.5).sub_(1)
    if name in ("masks", "mask"):
        return value.to(dtype).unsqueeze(-3)
    return value.to(dtype) if value.dtype == torch.float16 else value
