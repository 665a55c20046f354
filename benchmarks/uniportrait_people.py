"""What UniPortrait's stages learn of a few real photos of people on a CPU, at a tiny size, in minutes.

    python -m benchmarks.uniportrait_people --people photos/ids --others photos/lfw photos/single \\
        --mobileface mobileface_v2_256.safetensors

`--people` holds a folder of photos for each person, `--others` photos of other people. Faces are cut out
upright, so that a generated face is where its key points are known to be, and dlib's network, which
conditions nothing here, says whose it is.

Likeness, at 48 pixels a face (without `--others` left out). A U-Net learns the others' faces with captions;
stage 1 learns the person with most photos, but for one of them. Then faces are drawn with prompts that were
never trained on: cosine to the photo left out, with stage 1's ID tokens and adapter, and without either.

Places, at 32 pixels a face, conditioned on MobileFace (without `--mobileface` left out).
There is no pretrained U-Net of this size that knows what a picture of two faces is, so stage 1 trains all of
the network, on pictures with the same person twice, of whom one face is named. Stage 2 then trains router and
adapter on pictures of two people, and in all of them the one whose name is first in the alphabet stands left:
with noise alone to look at, nothing but who they are can say where. Each pair is drawn, given in both orders:
how often a face is more like the reference of the person whose place it is than like the other's; with the
router's choices, with these choices at random places of the picture, and with the two people exchanged.

Prints the figures, and writes the pictures into `--out`. Exits with 1 where the ID tokens or the router do
not help. Without `--people` it says so and does nothing.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations, product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from portraitgen.data.sample import ClipSample, ClipTrack, make_key
from portraitgen.data.shards import ShardWriter
from portraitgen.faces.backend import largest_face
from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.recognition.recognizer import load_recognition
from portraitgen.faces.templates import ARCFACE, upright_crop, upright_matrix
from portraitgen.media.photo import read_photo
from portraitgen.nn.decoupled_attention import DecoupledAttention
from portraitgen.runs.system import load_learner
from portraitgen.systems.uniportrait.module import UniPortrait
from tests.command_line import run_command
from tests.data.photos import jpeg
from tests.nn.text.folders import save_clip

SIDE = 48
"""Pixels of a face in the tiny pictures."""

CAPTIONS = ("a photo of a man", "a man", "a portrait", "a man talks", "a man at home", "the face of a man")
NEW_PROMPTS = ("a man at the sea", "a painting of a man", "a man in the snow", "a man reads a book")
SEEDS = 4
PLACE_SIDE = 32
"""Pixels of a face where two are in a picture."""
TWICE_STEPS, PAIR_STEPS = 400, 300

TINY = [
    "data.examples.flip=0",
    "data.examples.other=0",
    "data.train_span=[0,1]",
    "data.val_span=[0,1]",
    "callbacks.samples=null",
    "model.network.unet.block_out_channels=[32,64]",
    "model.objective.scheduler.prediction_type=sample",  # noise of 48 channels does not fit through 32
    "model.structure_dropout=null",
    "sampling.num_steps=20",
    "sampling.guidance_scale=1",
    "sampling.people_scale=1",
    "sampling.structure_scale=1",
    "trainer.log_every_n_steps=50",
]


class Face:
    """A face of a photo, cut out upright.

    Attributes:
        crop: uint8 [112, 112, 3] RGB.
        landmarks: [68, 2] in its pixels.
    """

    def __init__(self, path: Path, backend: DlibBackend) -> None:
        photo = read_photo(path)
        if min(photo.shape[:2]) < 200:  # dlib finds no small faces
            photo = cv2.resize(photo, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
        photo = cv2.copyMakeBorder(
            photo, *[min(photo.shape[:2]) // 4] * 4, cv2.BORDER_CONSTANT, value=[128] * 3
        )
        found = largest_face([face for face in backend.detect(photo) if face.score >= backend.min_score])
        if found is None:
            raise ValueError(f"{path} shows no face")
        matrix = upright_matrix(found.keypoints, ARCFACE)
        self.crop = upright_crop(photo, found.keypoints, ARCFACE, fill=(128, 128, 128))
        self.landmarks = found.landmarks @ matrix[:, :2].T + matrix[:, 2]

    @property
    def picture(self) -> Tensor:
        """[3, 112, 112] in [-1, 1]."""
        return torch.from_numpy(self.crop).movedim(-1, 0) / 127.5 - 1


def find_faces(folder: Path, backend: DlibBackend) -> list[Face]:
    faces = []
    for path in sorted(each for each in folder.iterdir() if each.suffix in (".jpg", ".png")):
        try:
            faces.append(Face(path, backend))
        except ValueError as error:
            print(f"left out: {error}", file=sys.stderr)
    return faces


Photo = tuple[Sequence[Face], Sequence[Face | None]]
"""Faces side by side, and for each of them a photo that says who it is; None: nobody is named."""


def photo_of(name: str, photo: Photo, caption: str) -> ClipSample:
    """As preparation would describe it."""
    faces, crops = photo
    image = np.concatenate([face.crop for face in faces], axis=1)
    tracks = []
    for number, (face, crop) in enumerate(zip(faces, crops, strict=True)):
        if crop is None:
            continue
        points = (face.landmarks + [112 * number, 0]).astype(np.float32)
        tracks.append(
            ClipTrack(
                boxes=np.array([[112 * number + 14, 14, 112 * number + 98, 110]], np.float32),
                scores=np.ones(1, np.float32),
                keypoints=(ARCFACE.keypoints + [112 * number, 0]).astype(np.float32)[None],
                landmarks=points[None],
                valid=np.ones(1, bool),
                faces=(jpeg(crop.crop),),
            )
        )
    return ClipSample(
        key=make_key(name),
        num_frames=1,
        fps=Fraction(0),
        width=112 * len(faces),
        height=112,
        tracks=tuple(tracks),
        landmark_scheme="ibug68",
        affine=np.eye(2, 3, dtype=np.float32),
        source={"uri": name},
        image=jpeg(image),
        scores={"num_faces": len(tracks), "min_face": 84.0},
        caption=caption,
    )


def write_shards(root: Path, photos: Sequence[Photo], captions: Sequence[str] = ("",)) -> str:
    """Each photo with each caption; the pattern of the shards."""
    with ShardWriter(root) as writer:
        for number, (photo, caption) in enumerate(product(photos, captions)):
            writer.write(photo_of(f"photo{number}", photo, caption))
    return f"{root}/shards/*.tar"


def train(root: Path, experiment: str, name: str, shards: str, *words: str, steps: int, seed: int) -> Path:
    """The weights of a run of train.py."""
    begin = time.process_time()
    given = [f"experiment=uniportrait/{experiment}", f"name={name}", f"data.shards={shards}"]
    given += [
        f"seed={seed}",
        f"paths.runs={root}/runs",
        f"trainer.max_steps={steps}",
        f"data.samples_per_epoch={8 * steps}",
    ]
    if run_command("train.py", *given, *TINY, *words, folder=root):
        raise RuntimeError(f"{name} does not train, see above")
    print(f"{name}: {steps} steps in {time.process_time() - begin:.0f} CPU seconds")
    return root / "runs" / name / "weights/last.safetensors"


def load(weights: Path, root: Path) -> UniPortrait:
    """A run's module; the text encoder lies in `root`."""
    learner, _ = load_learner(weights, changes={}, models=str(root), device=torch.device("cpu"))
    assert isinstance(learner, UniPortrait)
    return learner.eval()


def sheet(pictures: Tensor, path: Path) -> None:
    """Pictures [N, 3, H, W] in rows of eight."""
    rows = [torch.cat([*row], dim=-1) for row in pictures.split(8)]
    widest = max(row.shape[-1] for row in rows)
    image = torch.cat([torch.nn.functional.pad(row, (0, widest - row.shape[-1])) for row in rows], dim=-2)
    pixels = ((image + 1) * 127.5).round().byte().movedim(0, -1).numpy()
    cv2.imwrite(str(path), np.ascontiguousarray(pixels[..., ::-1]))


class Judge:
    """dlib's network on faces in ArcFace's place."""

    def __init__(self) -> None:
        self.network = load_recognition("dlib")

    def __call__(self, pictures: Tensor) -> Tensor:
        """Unit vectors [B, 128] of pictures [B, 3, S, S], all of one side."""
        points = torch.from_numpy(ARCFACE.keypoints * (pictures.shape[-1] / ARCFACE.side)).float()
        with torch.no_grad():
            return self.network.embed(pictures, points.expand(len(pictures), -1, -1))[0]


def likeness(
    root: Path, out: Path, people: dict[str, list[Face]], others: list[Face], judge: Judge, seed: int
) -> bool:
    """Stage 1 on one person's photos; whether the ID tokens make faces like them."""
    text = save_clip(root / "text", tokens=32)
    words = [
        f"data.examples.size={SIDE}",
        "data.examples.captions=true",
        "data.batch_size=8",
        "model.prompts={_target_: portraitgen.nn.text.prompts.Prompts, encoder: {_target_: "
        f"portraitgen.nn.text.clip.CLIPText.from_pretrained, folder: {text}}}}}",
        "optimizer.lr=3e-3",
    ]
    shards = write_shards(root / "others", [((face,), (face,)) for face in others], CAPTIONS)
    table = "{people: {probability: 1, drop: [people]}}"
    fixed = [f"model.condition_dropout.table={table}", "model.network.lora=null", "stage.train=['*']"]
    base = train(root, "tiny_stage1", "base", shards, *words, *fixed, steps=300, seed=seed)
    name, (held, *seen) = max(people.items(), key=lambda each: len(each[1]))
    shards = write_shards(root / "person", [((face,), (face,)) for face in seen], CAPTIONS)
    start = [f"stage.init_from={base}", "+stage.expect_missing=['*.lora_[AB].*']"]
    start += ["model.condition_dropout=null", "model.network.lora.single_id.rank=16"]
    first = train(root, "tiny_stage1", "person", shards, *words, *start, steps=150, seed=seed)

    wanted = judge(held.picture[None])[0]
    drawn, figures = {}, {}
    for label, weights, with_tokens in (("with", first, True), ("without", base, False)):
        module = load(weights, root)
        crops = torch.stack([face.picture for face in seen])[None, None]
        tokens, nobody = module.pipeline.embed_people(crops)
        pictures = []
        for prompt, number in product(NEW_PROMPTS, range(SEEDS)):
            embedded = module.pipeline.embed_text([prompt], batch=1, like=crops)
            pictures.append(
                module.pipeline(
                    embedded,
                    embedded,
                    (tokens if with_tokens else nobody, nobody),
                    size=(SIDE, SIDE),
                    generator=[torch.Generator().manual_seed(number)],
                )[0]
            )
        drawn[label] = torch.stack(pictures)
        figures[label] = (judge(drawn[label]) @ wanted).numpy()
        sheet(drawn[label], out / f"likeness_{label}.png")
    among = (judge(torch.stack([face.picture for face in seen])) @ wanted).mean().item()
    strangers = (judge(torch.stack([face.picture for face in others])) @ wanted).mean().item()
    better = figures["with"] > figures["without"]
    print(
        f"likeness to a photo of {name} that was left out, {len(better)} faces with prompts not trained on: "
        f"with ID tokens {figures['with'].mean():.3f}, without {figures['without'].mean():.3f}; "
        f"more alike in {better.sum()} of {len(better)} "
        f"(the other photos: {among:.3f}, photos of others: {strangers:.3f})"
    )
    return bool(figures["with"].mean() > figures["without"].mean())


def places(
    root: Path, out: Path, people: dict[str, list[Face]], mobileface: Path, judge: Judge, seed: int
) -> bool:
    """Stage 2 on pairs of people; whether the router makes faces be in their places."""
    shutil.copy(mobileface, root)
    conditioned = "{_target_: portraitgen.systems.uniportrait.features.published_features, "
    conditioned += f"recognition: mobileface, path: {root / mobileface.name}, clip: null}}"
    words = ["~model.features", f"+model.features={conditioned}", "model.condition_dropout=null"]
    words += ["model.network.unet.cross_attention_dim=32", "model.network.resampler.dim=32"]
    words += [f"data.examples.size=[{PLACE_SIDE},{2 * PLACE_SIDE}]", "data.batch_size=8"]
    words += ["optimizer.lr=3e-3", "lr_scheduler=cosine"]
    known = {name: faces[:2] for name, faces in sorted(people.items()) if len(faces) > 1}
    pairs = [*combinations(known, 2)]

    twice = [
        (shown, crops) for shown in known.values() for crop in shown for crops in ((crop, None), (None, crop))
    ]
    shards = write_shards(root / "twice", twice)
    whole = ["stage.train=['*']", "model.network.lora=null"]
    first = train(root, "tiny_stage1", "twice", shards, *words, *whole, steps=TWICE_STEPS, seed=seed)
    both = [
        ((known[left][0], known[right][1]), crops)
        for left, right in pairs
        for crops in product(known[left], known[right])
    ]
    shards = write_shards(root / "pairs", both)
    start = [f"stage.init_from={first}", "stage.expect_missing=['*router.*','*.lora_[AB].*']"]
    start += ["~stage.init_copies", "model.network.lora.single_id.rank=16"]
    second = train(root, "tiny_stage2", "pairs", shards, *words, *start, steps=PAIR_STEPS, seed=seed)

    module = load(second, root)
    references = {
        name: normalize(judge(torch.stack([each.picture for each in faces])).mean(dim=0), dim=0)
        for name, faces in known.items()
    }
    count = {}
    for label, change in ROUTERS.items():
        torch.manual_seed(0)
        drawn, right = [], []
        with patch.object(DecoupledAttention, "_logits", change):
            for pair in pairs:
                pictures = torch.cat([draw_pair(module, known, given) for given in (pair, pair[::-1])])
                drawn.append(pictures)
                for face, own, other in zip(pictures.chunk(2, dim=-1), pair, pair[::-1], strict=True):
                    seen = judge(face)
                    right.append(seen @ references[own] > seen @ references[other])
        sheet(torch.cat(drawn), out / f"places_{label}.png")
        count[label] = int(torch.cat(right).sum())
        total = len(torch.cat(right))
    shown = ", ".join(f"{label} {number}" for label, number in count.items())
    print(f"faces most like the one of the two whose place it is, of {total}: {shown}")
    return count["routed"] > count["shuffled"]


_route = DecoupledAttention._logits


def _shuffle(layer: DecoupledAttention, *given: Any, **options: Any) -> Tensor:
    """The router's logits [B, S, N], each at another place of the picture."""
    logits = _route(layer, *given, **options)
    return logits[:, torch.randperm(logits.shape[1])]


def _exchange(layer: DecoupledAttention, *given: Any, **options: Any) -> Tensor:
    """The router's logits [B, S, N], each person's for the other."""
    return _route(layer, *given, **options).flip(-1)


ROUTERS = {"routed": _route, "shuffled": _shuffle, "exchanged": _exchange}


def draw_pair(module: UniPortrait, known: dict[str, list[Face]], given: Sequence[str]) -> Tensor:
    """[SEEDS, 3, S, 2 * S] of people in the order in which they are given, by one photo each."""
    crops = torch.stack([known[name][0].picture for name in given])[None, :, None]
    tokens, nobody = (each.expand(SEEDS, -1, -1, -1) for each in module.pipeline.embed_people(crops))
    text = module.pipeline.embed_text(None, batch=SEEDS, like=crops)
    noise = [torch.Generator().manual_seed(seed) for seed in range(SEEDS)]
    size = (PLACE_SIDE, 2 * PLACE_SIDE)
    return module.pipeline(text, text, (tokens, nobody), size=size, generator=noise)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=Path)
    parser.add_argument("--others", type=Path, nargs="+", default=[])
    parser.add_argument("--mobileface", type=Path, help="mobileface_v2_256.safetensors (becauseofAI, MIT)")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--out", type=Path, default=Path("people"))
    given = parser.parse_args()
    if given.people is None:
        print("skipped: give --people, a folder with a folder of photos for each person, and --others")
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    begin, backend, judge = time.process_time(), DlibBackend(), Judge()
    people = {folder.name: find_faces(folder, backend) for folder in sorted(given.people.iterdir())}
    others = [face for folder in given.others for face in find_faces(folder, backend)]
    counts = {name: len(faces) for name, faces in people.items()}
    print(f"{counts}, {len(others)} others, found in {time.process_time() - begin:.0f} CPU seconds")
    better = True
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if others:
            better &= likeness(root, given.out, people, others, judge, given.seed)
        if given.mobileface is not None:
            better &= places(root, given.out, people, given.mobileface, judge, given.seed)
    print(f"{time.process_time() - begin:.0f} CPU seconds in all")
    return int(not better)


if __name__ == "__main__":
    sys.exit(main())
