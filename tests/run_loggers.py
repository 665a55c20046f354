"""What TensorBoard and W&B have written on the disk of a run, read back: step → name → value."""

import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

_BLOCK, _HEADER = 32768, 7


def read_tensorboard(folder: Path, prefix: str) -> dict[int, dict[str, float]]:
    """Scalars whose name begins with `prefix`, in the event files of a folder; they are float32."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name) if name.startswith(prefix) else ():
            found[event.step][name] = event.value
    return dict(found)


def read_wandb(folder: Path, prefix: str) -> dict[int, dict[str, float]]:
    """Values whose name begins with `prefix`, in the files of runs that W&B keeps without a network."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[int, dict[str, float]] = defaultdict(dict)
    for path in folder.glob("offline-run-*/run-*.wandb"):
        for data in _records(path.read_bytes()):
            history = Record.FromString(data).history
            for item in history.item:
                name = item.nested_key[0] if item.nested_key else item.key
                if name.startswith(prefix):
                    found[history.step.num][name] = float(json.loads(item.value_json))
    return dict(found)


def _records(data: bytes) -> Iterator[bytes]:
    """Those of LevelDB's log format: in blocks, a record whole (1), or in a first, middle and last part (4).

    https://github.com/google/leveldb/blob/main/doc/log_format.md, behind W&B's own seven bytes.
    """
    place, parts = _HEADER, b""
    while place + _HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        place += _HEADER + length
        parts += data[place - length : place]
        if kind in (1, 4):
            yield parts
            parts = b""
