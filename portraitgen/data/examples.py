"""Training examples by position: position -> sample and window, as a pure function of the seed."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from portraitgen.data.batch import PICTURES, BatchLayout
from portraitgen.data.catalog import Catalog, Selection
from portraitgen.data.clips import ClipWindows
from portraitgen.data.features.reader import FeatureReader
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import DataError
from portraitgen.data.slabs import Slab, SlabRing
from portraitgen.faces.drawing import draw_landmarks
from portraitgen.faces.measure import mouth_closed_frame
from portraitgen.media.audio import frame_audio_window

# A run of broken samples this long is not bad luck: a disk or a whole shard is gone.
MAX_FAILURES_IN_A_ROW = 16


class Failure(NamedTuple):
    """A sample that was chosen and could not be read."""

    shard: str
    key: str
    reason: str


class Examples(NamedTuple):
    """A batch as it is read; `tensors` on a slab if there was a free one."""

    keys: list[str]
    texts: dict[str, list[str]]
    tensors: dict[str, Tensor] | Slab
    failures: list[Failure]


class ClipExamples:
    """Map-style data set over positions 0, 1, 2, ... without end.

    Args:
        catalog, selection: the samples, see data/catalog.
        windows: which frames of them.
        order: position -> sample; SampleOrder for training, a range for grading.
        seed: of the windows; the window at a position depends on the seed and the position only.
        pose_size: (Hp, Wp) of the drawn landmarks, None for none.
        masks: region whose masks are read, None for none.
        pictures: which of "frames" and "reference" are decoded.
        features: read beside them.
        audio: read the sound of the windows; the selection must be of one frame rate.
    """

    def __init__(
        self,
        catalog: Catalog,
        selection: Selection,
        windows: ClipWindows,
        order: Callable[[int], int],
        *,
        seed: int,
        pose_size: tuple[int, int] | None = None,
        masks: str | None = None,
        pictures: tuple[str, ...] = PICTURES,
        audio: bool = False,
        features: Sequence[FeatureReader] = (),
    ) -> None:
        self._catalog, self._selection, self._windows, self._order = catalog, selection, windows, order
        self._seed, self._masks = seed, masks
        self._reader, self._features = ClipReader(catalog), features
        # Neighbouring windows of one length may differ by a sample: all get the same number.
        if audio and len(windows.strides) > 1:
            raise DataError(f"data.stride={list(windows.strides)}: windows with sound need one stride")
        self._audio_frames = windows.clip_frames * windows.strides[0]
        samples = frame_audio_window(0, self._audio_frames, fps=selection.frame_rate)[1] if audio else 0
        self.layout = BatchLayout(
            windows.clip_frames,
            selection.size,
            catalog.num_landmarks,
            pose_size,
            masks=masks is not None,
            pictures=pictures,
            audio_samples=samples,
            features=tuple(field for feature in features for field in feature.fields(windows.clip_frames)),
        )
        self.ring: SlabRing | None = None

    def __getitems__(self, positions: Sequence[int]) -> Examples | DataError:
        """Read a batch; a sample that cannot be read is replaced by the next in order.

        A DataError is returned, not raised, so that it crosses from a worker without a traceback.
        """
        tensors, arrays = self._allocate(len(positions))
        keys: list[str] = []
        texts: dict[str, list[str]] = defaultdict(list)
        failures: list[Failure] = []
        try:
            for slot, position in enumerate(positions):
                targets = {name: array[slot, ...] for name, array in arrays.items()}
                key, written = self._read(position, targets, failures)
                keys.append(key)
                for name, text in written.items():
                    texts[name].append(text)
        except DataError as error:
            return error
        return Examples(keys, dict(texts), tensors, failures)

    def _allocate(self, batch_size: int) -> tuple[dict[str, Tensor] | Slab, dict[str, np.ndarray]]:
        """Where the batch goes: a slab if there is a free one, else memory of its own."""
        worker = get_worker_info()
        if self.ring is not None:
            slab = self.ring.take(0 if worker is None else worker.id, batch_size)
            if slab is not None:
                return slab, self.ring.arrays(slab)
        block = torch.empty(self.layout.num_bytes(batch_size), dtype=torch.uint8).numpy()
        arrays = self.layout.views(block, batch_size)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}, arrays

    def _read(
        self, position: int, targets: dict[str, np.ndarray], failures: list[Failure]
    ) -> tuple[str, dict[str, str]]:
        """Fill one sample's part of the batch; returns its key and texts. DataError after many failures."""
        for attempt in range(MAX_FAILURES_IN_A_ROW):
            sample = self._order(position + attempt)
            shard, row = int(self._selection.shards[sample]), int(self._selection.rows[sample])
            key = self._catalog.indexes[shard].key(row)
            try:
                rng = np.random.default_rng([self._seed, 1, position, attempt])
                texts = self._fill(shard, row, rng, targets)
            except (ValueError, OSError) as error:
                failures.append(Failure(self._catalog.shards[shard].name, key, str(error)))
            else:
                return key, texts
        last = failures[-1]
        raise DataError(
            f"{MAX_FAILURES_IN_A_ROW} samples in a row could not be read, the last being {last.key} of"
            f" {last.shard} ({last.reason}); check the disk and the shards"
        )

    def _fill(
        self, shard: int, row: int, rng: np.random.Generator, targets: dict[str, np.ndarray]
    ) -> dict[str, str]:
        index = self._catalog.indexes[shard]
        num_frames = int(index.num_frames[row])
        packets = index.packets(row)
        keyframes = np.ones(num_frames, bool) if packets is None else packets.keyframes
        track, frames, reference = self._windows.choose(num_frames, index.clip_runs(row), keyframes, rng)
        if self._windows.reference == "neutral":
            reference = self._neutral_frame(shard, row, track)
        if "frames" in targets:
            self._reader.frames(shard, row, frames, out=targets["frames"])
        if "reference" in targets:
            self._reader.frames(shard, row, np.array([reference]), out=targets["reference"][None])
        if self.layout.audio_samples:
            rate = Fraction(*index.fps[row].tolist())
            begin, _ = frame_audio_window(int(frames[0]), self._audio_frames, fps=rate)
            self._reader.audio(shard, row, begin, out=targets["audio"])
        landmarks = self._reader.landmarks(shard, row, track, np.append(frames, reference))
        targets["frame_index"][:], targets["reference_index"][...] = frames, reference
        targets["landmarks"][:], targets["reference_landmarks"][:] = landmarks[:-1], landmarks[-1]
        if self._masks is not None:
            targets["masks"][:] = self._reader.masks(shard, row, track, frames, region=self._masks)
        if self.layout.pose_size is not None:
            targets["pose"][:] = draw_landmarks(
                landmarks[:-1],
                image_size=self.layout.size,
                canvas_size=self.layout.pose_size,
                scheme=self._catalog.landmark_scheme,
            )
        texts: dict[str, str] = {}
        for feature in self._features:
            texts |= feature.fill(shard, row, track, frames, reference, targets)
        return texts

    def _neutral_frame(self, shard: int, row: int, track: int) -> int:
        """Of all valid frames of a person the one with the most closed mouth."""
        runs = self._catalog.indexes[shard].clip_runs(row)
        frames = np.concatenate([np.arange(start, end) for of, start, end in runs.tolist() if of == track])
        landmarks = self._reader.landmarks(shard, row, track, frames)
        return int(frames[mouth_closed_frame(landmarks, self._catalog.landmark_scheme)])
