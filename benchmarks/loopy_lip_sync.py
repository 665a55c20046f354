"""Does the mouth follow the sound? Loopy on the synthetic talking set, against the known truth.

    python -m tests.synthetic_talk videos/ --videos 8
    python prepare.py source=videos out=talk size=64 embed_every=0 videos_per_shard=2
    (train loopy/talk_stage1 and loopy/talk_stage2 on the first shards, see experiments/loopy/README.md)
    python -m benchmarks.loopy_lip_sync --weights runs/loopy/talk_stage2/weights/last.safetensors \
        --shards talk/shards/train-000003.tar --truth videos [--frames 100] [--steps 10] [--audio-scale 3]

Draws held-out clips from their first frame and their sound, finds the face in each frame drawn, and
correlates the opening of the mouth with the openings that the videos were made with: by the clip's own sound,
by the sound turned round by 3 s and by its pieces of 0.4 s in another order (controls that have the same
sound at other times), and with sampling.audio_scale=0. Also printed is what the landmark finder makes of the
true frames. The goals, for each weights file: a correlation of at least 0.6, and at least 0.3 above every
control. Exits with 1 if one is missed.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from portraitgen.diffusion.noise import seeded_generators
from portraitgen.faces.backend import largest_face
from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.measure import mouth_opening
from portraitgen.runs.generate.stored_clips import ShardClips
from portraitgen.runs.system import load_system

GOAL, ABOVE = 0.6, 0.3
TURN_S, PIECE_S = 3, 0.4
SAMPLE_RATE = 16_000


def turned(sound: np.ndarray) -> np.ndarray:
    """The same sound [N], later by `TURN_S`; what falls off its end is heard first."""
    return np.roll(sound, round(TURN_S * SAMPLE_RATE))


def shuffled(sound: np.ndarray) -> np.ndarray:
    """Pieces of `PIECE_S` of the sound [N] in a fixed random order in which no piece keeps its place."""
    size = round(PIECE_S * SAMPLE_RATE)
    pieces = np.split(sound, range(size, len(sound), size))
    ring = np.random.default_rng(0).permutation(len(pieces))  # each gives its place to the next in the ring
    order = np.empty_like(ring)
    order[ring] = np.roll(ring, 1)
    return np.concatenate([pieces[number] for number in order])


def openings(frames: np.ndarray, backend: DlibBackend) -> np.ndarray:
    """How far the mouth is open in each frame, uint8 [T, H, W, 3] RGB; NaN without a face."""
    values = np.full(len(frames), np.nan)
    for number, frame in enumerate(frames):
        faces = backend.detect(np.ascontiguousarray(frame[..., ::-1]))
        if faces:
            values[number] = mouth_opening(largest_face(faces).landmarks)
    return values


def correlation(found: np.ndarray, truth: np.ndarray) -> float:
    """Pearson, over the frames with a face."""
    seen = np.isfinite(found)
    return float(np.corrcoef(found[seen], truth[seen])[0, 1]) if seen.sum() > 2 else float("nan")


def as_uint8(frames: torch.Tensor) -> np.ndarray:
    return ((frames.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(-3, -1).cpu().numpy()


@torch.no_grad()
def measure(
    weights: Path, *, clips: ShardClips, truth: Path, frames: int, steps: int, audio_scale: float
) -> bool:
    """Print the figures of one weights file; whether the goals are met."""
    backend = DlibBackend()
    ways: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
        "own sound": (audio_scale, np.asarray),
        "turned": (audio_scale, turned),
        "shuffled": (audio_scale, shuffled),
        "no sound": (0.0, np.asarray),
    }
    found: dict[str, list[np.ndarray]] = {way: [] for way in (*ways, "true frames")}
    true = []
    for key in clips.keys:
        numbers = clips.valid_frames(key, (0, 1))[:frames]
        known = json.loads((truth / f"{key.rpartition('-')[0]}.json").read_text())["opening"]
        true.append(np.array(known)[numbers])
        found["true frames"].append(openings(as_uint8(clips.pictures(key, numbers)), backend))
        sound = clips.sound(key, numbers, sample_rate=SAMPLE_RATE)
        assert sound is not None
        for way, (scale, change) in ways.items():
            changes = {"sampling": {"num_steps": steps, "audio_scale": scale}}
            system, _ = load_system(weights, changes=changes, models="models", device=torch.device("cpu"))
            batch = {
                "key": [key],
                "reference": clips.pictures(key, np.array([clips.first_frame(key)])),
                "audio": torch.from_numpy(change(sound))[None],
                "frame_index": torch.from_numpy(numbers)[None],
            }
            drawn = torch.cat([*system.stream(batch, generator=seeded_generators([0]))], dim=1)[0]
            found[way].append(openings(as_uint8(drawn), backend))
    result = {way: correlation(np.concatenate(each), np.concatenate(true)) for way, each in found.items()}
    lost = {way: int(np.isnan(np.concatenate(each)).sum()) for way, each in found.items()}
    total = sum(map(len, true))
    figures = ", ".join(
        f"{way} {value:.2f} ({lost[way]} of {total} without a face)" for way, value in result.items()
    )
    print(f"{weights}: {figures}", flush=True)
    own, *controls = (result[way] for way in ways)
    return own >= GOAL and own >= np.nan_to_num(controls).max() + ABOVE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, nargs="+", required=True)
    parser.add_argument("--shards", required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--audio-scale", type=float, default=3.0)
    given = parser.parse_args()
    clips = ShardClips(given.shards)
    settings = {"clips": clips, "truth": given.truth, "frames": given.frames, "steps": given.steps}
    settings["audio_scale"] = given.audio_scale
    passed = [measure(weights, **settings) for weights in given.weights]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
