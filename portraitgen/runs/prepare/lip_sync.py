"""Lip-sync scores of prepared clips: a step of preparation (data) that asks SyncNet (metrics)."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from portraitgen.data.sample import ClipSample, ClipTrack
from portraitgen.faces.types import Track
from portraitgen.media.audio import decode_wav
from portraitgen.media.decode import read_video
from portraitgen.metrics.networks.syncnet import SAMPLES_PER_FRAME, WEIGHTS, SyncNet, load_syncnet
from portraitgen.metrics.sync import score_sync
from portraitgen.metrics.sync_crop import crop_for_syncnet, frames_at_syncnet_rate


@dataclass(frozen=True, slots=True)
class LipSyncScores:
    """Adds `sync_conf`, `sync_dist` and `sync_offset` to clips with sound that are long enough for SyncNet.

    The offset is in frames at 25 a second, positive where the sound comes before the lips. Boxes of dlib cut
    more tightly than those SyncNet was trained with, so scores compare within one data set.

    Attributes:
        weights: syncnet_v2.model.

    Raises:
        ValueError: when it is made, if there is no such file.
    """

    weights: str

    def __post_init__(self) -> None:
        if not Path(self.weights).expanduser().is_file():
            raise ValueError(f"sync.weights={self.weights}: no such file; fetch {WEIGHTS}")

    def __call__(self, sample: ClipSample) -> ClipSample:
        if sample.audio is None or sample.video is None:
            return sample
        chosen = frames_at_syncnet_rate(sample.num_frames, float(sample.fps))
        track = _at_rate(sample.tracks[0], chosen)
        if track is None:
            return sample
        frames = torch.from_numpy(read_video(sample.video, name=sample.key)).permute(0, 3, 1, 2)
        audio, _ = decode_wav(sample.audio)
        crops = crop_for_syncnet(frames[chosen], track)
        score = score_sync(_load(self.weights), crops, audio[track.frames[0] * SAMPLES_PER_FRAME :])
        if score.reason is not None:
            return sample
        named = {"sync_conf": score.confidence, "sync_dist": score.distance, "sync_offset": score.offset}
        return replace(sample, scores={**sample.scores, **named})


def _at_rate(track: ClipTrack, chosen: np.ndarray) -> Track | None:
    """The face in those of the chosen frames in which it was found; None if in none of them."""
    found = np.flatnonzero(np.isfinite(track.boxes[chosen]).all(axis=1))
    if not len(found):
        return None
    rows = chosen[found]
    return Track(found, track.boxes[rows], track.scores[rows], track.landmarks[rows], track.keypoints[rows])


@cache
def _load(weights: str) -> SyncNet:
    return load_syncnet(Path(weights).expanduser())
