"""Do ConsisID's face modules make drawn people themselves? Three people are overfitted with them and without.

    python -m benchmarks.consisid_identity --videos CLIP CLIP CLIP --weights mobileface_v2_256.safetensors

Clips of different people at 64x64 pixels, and no text, so that the face tokens alone can say who is to be
drawn. The picture of the face beside the noise is left out (model.network.picture=false), since by that a
network without face modules knows the person as well. From each seed the same small transformer learns the
same few windows for as many steps, once with face modules and once without; then it draws each person, five
frames from new noise, --draws times. dlib looks at the first and the last of them, four times as large. The
features that the tokens are made of come from another network (MobileFace), so that none grades what it has
conditioned.

--host wan does so with the modules for Wan. Its positions are rotary alone, by which nothing in pure noise
says where a token is. So a token here is a whole frame, and of a window the first and the last frame are
learned. It has no picture of the face to leave out; "without" holds the gates of its face attention at zero.
With it every block attends to the face through a gate that starts at 0.3: from zero, as suits a pretrained
Wan, gates hardly move in so few steps, and not by every seed anything is learned of the face.

    similarity   cosine of dlib's embeddings of a drawn face and of the person (the mean over the true
                 frames); mean over the frames in which a face is found, and where it would be for other
                 noise: 95 % bootstrap over drawn clips
    right        share of these frames in which no other person of the clips is nearer
    found        frames in which a face is found, of all

The goals: by every seed similarity and share of right people are higher with face modules. What was drawn
lies in --out as pictures: true frames, then the first and the last that were drawn. Runs that are finished
there are not repeated. Exits with 1 if a goal is missed.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from benchmarks.identity_training import ROOT, prepare
from portraitgen.data.catalog import Catalog
from portraitgen.data.features.extract import ExtractFeature
from portraitgen.data.features.store import FeatureFacts, is_finished
from portraitgen.data.on_device import to_floats
from portraitgen.diffusion.noise import seeded_generators
from portraitgen.faces.backend import largest_face
from portraitgen.faces.conditioner import FaceConditioner
from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.eva_clip import untrained_eva_clip
from portraitgen.faces.parsing.parser import LandmarkParser
from portraitgen.faces.recognition.recognizer import load_recognition
from portraitgen.media.files import replace_file
from portraitgen.media.yuv import rgb_to_uint8
from portraitgen.metrics.bootstrap import percentile_interval, resample_videos
from portraitgen.runs.config.schema import register_configs
from portraitgen.runs.prepare.features.face import FaceConditionFeature
from portraitgen.systems.consisid.module import ConsisID
from portraitgen.systems.consisid.wan.network import WanNetwork

WINDOWS, BATCH, ENLARGED, PIXELS = 12, 6, 4, 64
RATE, BETAS, LARGEST_GRADIENT, WARMUP = 2e-3, (0.9, 0.95), 1.0, 0.1
COGVIDEOX_SIZES = {
    "num_attention_heads": 12,
    "in_channels": 1536,
    "out_channels": 768,
    "num_layers": 4,
    "sample_width": 8,
    "sample_height": 8,
    "time_embed_dim": 64,
    "cross_attn_num_heads": 4,
    "LFE_output_dim": 128,
}
WAN_SIZES = {
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "in_channels": 3 * PIXELS**2,
    "out_channels": 3 * PIXELS**2,
    "ffn_dim": 512,
    "freq_dim": 64,
    "num_layers": 4,
}
COGVIDEOX = [
    "experiment=consisid/tiny_identity",
    *(f"model.network.transformer.{name}={value}" for name, value in COGVIDEOX_SIZES.items()),
    # Positions as the published weights have them: without, nothing in pure noise says where a token is.
    "+model.network.transformer.use_learned_positional_embeddings=true",
    "+model.network.transformer.max_text_seq_length=1",
    "model.network.picture=false",
    "model.codec.factor=8",
    # The sample as target, and a schedule by which the network has to say what it looks like: as in the
    # quick start.
    "model.objective.scheduler.prediction_type=sample",
    "model.objective.scheduler.beta_schedule=linear",
    "model.objective.scheduler.beta_start=0.0001",
    "model.objective.scheduler.beta_end=0.02",
]
WAN = [
    "experiment=consisid/tiny_wan",
    "model.network._target_=benchmarks.consisid_identity.SampleWan",
    *(f"model.network.transformer.{name}={value}" for name, value in WAN_SIZES.items()),
    "+model.network.transformer.patch_size=[1,1,1]",
    "model.network.face.heads=4",
    "model.network.face.head_dim=32",
    "model.network.face.every=1",
    "+model.network.face.gate=0.3",
    f"model.codec.factor={PIXELS}",
    "model.codec.time_factor=1",
    "model.objective.distribution=uniform",
]
HOSTS = {"cogvideox": COGVIDEOX, "wan": WAN}
SHARED = [
    "model.network.lora=null",
    "model.objective.mask_probability=0",
    "model.condition_dropout=null",
    "model.face_condition=null",
    "model.gradient_checkpointing=false",
    "sampling.num_steps=8",
    "sampling.guidance_scale=1",
    "data.examples.features=[face]",
    "data.examples.reference=null",
    "data.examples.snap_keyframes=false",
    "data.examples.size=null",
    "data.train_span=[0,1]",
    "data.val_span=null",
    f"data.batch_size={WINDOWS}",
    f"data.samples_per_epoch={WINDOWS}",
]


class SampleWan(WanNetwork):
    """Wan whose last layer says the sample, from which the flow's velocity follows (Li & He 2025,
    arXiv:2511.13720, x-prediction with v-loss): a token of a whole frame is far narrower than its noise.
    """

    def forward(self, noisy: Tensor, time: Tensor, **conditions: Any) -> Tensor:
        """As `Host.forward`; sampling makes its last prediction at a time of 0.3."""
        level = time.clamp(min=0.3).view(-1, 1, 1, 1, 1)
        return (noisy - super().forward(noisy, time, **conditions)) / level


@dataclass(frozen=True)
class Grade:
    """What dlib says of the drawn frames; see above."""

    similarity: float
    interval: tuple[float, float]
    right: float
    found: int
    frames: int

    def cells(self) -> str:
        low, high = self.interval
        similarity = f"{self.similarity:.3f} ({low:.3f} to {high:.3f})"
        return f"{similarity} | {self.right:.0%} | {self.found} of {self.frames}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--videos", nargs="+", required=True, help="each of another person")
    parser.add_argument("--weights", required=True, help="of MobileFace v2")
    parser.add_argument("--host", choices=HOSTS, default="cogvideox")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--draws", type=int, default=1, help="of each window, from other noise")
    parser.add_argument("--out", type=Path, default=Path("runs/consisid_identity"))
    given = parser.parse_args()
    torch.set_num_threads(1)  # the layers are small
    register_configs()
    shards = prepare(given.videos, given.out / "data")
    store_faces(shards, given.weights)
    batch = read_windows(shards, given.host)
    grader = Grader(batch)
    rows: dict[bool, list[Grade]] = {False: [], True: []}
    for seed in range(given.seeds):
        for faces in rows:
            name = f"{given.host}_{'with' if faces else 'without'}_{seed}_{given.steps}_{given.draws}"
            training = Training(given.host, faces=faces, seed=seed, steps=given.steps)
            rows[faces].append(run(batch, grader, given.out / name, training, draws=given.draws))
    return report(rows, grader.truth)


@dataclass(frozen=True)
class Training:
    """What tells one training from another."""

    host: str
    faces: bool
    seed: int
    steps: int


def run(batch: dict[str, Any], grader: "Grader", path: Path, training: Training, *, draws: int) -> Grade:
    """Train, draw and grade; or what came of it before."""
    known = path.with_suffix(".json")
    if not known.exists():
        begin = time.process_time()
        system = learn(batch, training)
        with torch.no_grad():
            seeds = (range(first, first + WINDOWS) for first in range(1000, 1000 + draws * WINDOWS, WINDOWS))
            drawn = [system.sample(batch, generator=seeded_generators(each)) for each in seeds]
        save_sheet(batch["frames"], drawn[0], path.with_suffix(".png"))
        grade = grader(drawn)
        print(f"{path.name}: {grade.cells()}, {time.process_time() - begin:.0f} s of CPU time", flush=True)
        replace_file(known, json.dumps(asdict(grade)).encode())
    kept = json.loads(known.read_text())
    return Grade(**kept | {"interval": tuple(kept["interval"])})


def compose_settings(host: str, *words: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [*HOSTS[host], *SHARED, *words])


def store_faces(shards: str, weights: str) -> None:
    """What the extractor reads of some frames of each person, beside the shards."""
    conditioner = FaceConditioner(
        load_recognition("mobileface", weights), LandmarkParser(), untrained_eva_clip(seed=0)
    )
    feature = FaceConditionFeature(conditioner)
    for shard in Catalog([*OmegaConf.create(shards)]).shards:
        folder = FeatureFacts.of(feature).save(shard.parent.parent)
        if not is_finished(folder, shard):
            problems = ExtractFeature(feature, folder)(shard, lambda *_: None, {})
            assert not problems, problems


def read_windows(shards: str, host: str) -> dict[str, Any]:
    """As many windows of each person as of the others, and a face of the same clip for each."""
    data = instantiate(compose_settings(host, f"data.shards={shards}").data, _convert_="all")
    data.setup("fit")
    (planes,) = data.train_dataloader()
    batch = to_floats(planes)
    if host == "wan":
        batch["frames"] = batch["frames"][:, [0, -1]]
    return batch


def learn(batch: dict[str, Any], training: Training) -> ConsisID:
    torch.manual_seed(training.seed)
    words = ["data.shards=none"]
    if training.host == "cogvideox":
        words.append(f"model.network.transformer.is_train_face={training.faces}")
    elif not training.faces:
        words.append("model.network.face.gate=0")
    system: ConsisID = instantiate(compose_settings(training.host, *words).model, _convert_="all")
    if training.host == "wan" and not training.faces:
        for name, weight in system.network.named_parameters():
            weight.requires_grad_(not name.endswith("face_gate"))  # at zero a block is Wan's, bit for bit
    system.trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    weights = [*system.network.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=RATE, betas=BETAS)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=training.steps, pct_start=WARMUP)
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    for step in range(training.steps):
        rows = torch.randperm(WINDOWS)[:BATCH]
        picked = {name: value[rows] for name, value in tensors.items()}
        system.losses(picked, step=step, training=True)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(weights, LARGEST_GRADIENT)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
    return system.eval()


class Grader:
    """Compares faces with the people of a batch."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self._backend, self._keys = DlibBackend(), batch["key"]
        seen = self._look(batch["frames"])
        self._people = {
            key: unit(np.mean([face for who, face in seen if who == key and face is not None], axis=0))
            for key in self._keys
        }
        self.truth = self._grade(seen)

    def __call__(self, draws: Sequence[Tensor]) -> Grade:
        """Of the clips of a batch, drawn some times."""
        return self._grade([face for clips in draws for face in self._look(clips)])

    def _look(self, clips: Tensor) -> list[tuple[str, np.ndarray | None]]:
        """Who is to be seen and which embedding is found, of the first and last frames of clips."""
        found = []
        for key, frames in zip(self._keys, clips[:, [0, -1]], strict=True):
            large = F.interpolate(frames, scale_factor=ENLARGED, mode="bicubic").clamp(-1, 1)
            for picture in rgb_to_uint8(large).movedim(1, -1).contiguous().numpy():
                face = largest_face(self._backend.detect(picture, embed=True))
                found.append((key, None if face is None else unit(face.embedding)))
        return found

    def _grade(self, seen: Sequence[tuple[str, np.ndarray | None]]) -> Grade:
        faces = [(key, face) for key, face in seen if face is not None]
        if not faces:
            return Grade(0.0, (0.0, 0.0), 0.0, 0, len(seen))
        like = [{who: float(face @ person) for who, person in self._people.items()} for _, face in faces]
        own = [np.nan if face is None else float(face @ self._people[key]) for key, face in seen]
        ends = np.reshape(own, (-1, 2))  # the frames of a clip
        choices = resample_videos(len(ends), resamples=10_000, seed=0).choices
        counts, totals = np.isfinite(ends).sum(axis=1), np.nansum(ends, axis=1)
        drawn = counts[choices].sum(axis=1)
        means = totals[choices].sum(axis=1) / np.where(drawn, drawn, np.nan)
        return Grade(
            similarity=float(np.nanmean(own)),
            interval=percentile_interval(means),
            right=statistics.fmean(
                each[key] == max(each.values()) for each, (key, _) in zip(like, faces, strict=True)
            ),
            found=len(faces),
            frames=len(seen),
        )


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def save_sheet(true: Tensor, drawn: Tensor, path: Path) -> None:
    """A column a clip: its true first frame, and the first and the last that were drawn."""
    rows = [torch.cat([*frames], dim=-1) for frames in (true[:, 0], drawn[:, 0], drawn[:, -1])]
    sheet = rgb_to_uint8(torch.cat(rows, dim=-2)[None])[0].movedim(0, -1).numpy()
    cv2.imwrite(str(path), sheet[..., ::-1])


def report(rows: dict[bool, list[Grade]], truth: Grade) -> int:
    """Print the table; 1 if a goal is missed."""
    print("\n| seed | | similarity | right person | face found |\n|---|---|---:|---:|---:|")
    reached = True
    for seed, (without, with_faces) in enumerate(zip(rows[False], rows[True], strict=True)):
        print(f"| {seed} | without face modules | {without.cells()} |")
        print(f"| | with | {with_faces.cells()} |")
        reached &= with_faces.similarity > without.similarity and with_faces.right > without.right
    print(f"| | the true frames | {truth.cells()} |")
    said = "more like the person, and more often the right one, by every seed"
    print(f"\n{said}: {'held' if reached else 'MISSED'}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
