"""What UniPortrait's stage 1 learns of a few real photos of one person on a CPU, at a tiny size, in minutes.

    python -m benchmarks.uniportrait_people --people photos/ids --others photos/lfw photos/single

`--people` holds a folder of photos for each person, `--others` holds photos of other people. Faces are cut
out upright at 48 pixels, so that a generated face is where its key points are known to be, and dlib's
network, which conditions nothing here, says whose it is.

A U-Net learns the others' faces with captions; stage 1 learns the person with most photos, but for one of
them. Then faces are drawn with prompts that were never trained on: cosine to the photo left out, with stage
1's ID tokens and adapter, and without either.

Prints the figures, and writes the pictures into `--out`. Exits with 1 where the ID tokens do not help.
Without `--people` it says so and does nothing.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from portraitgen.data.sample import ClipSample, ClipTrack, make_key
from portraitgen.data.shards import ShardWriter
from portraitgen.faces.backend import largest_face
from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.recognition.recognizer import load_recognition
from portraitgen.faces.templates import ARCFACE, upright_crop, upright_matrix
from portraitgen.media.photo import read_photo
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


def photo_of(name: str, faces: Sequence[Face], caption: str) -> ClipSample:
    """The faces side by side, as preparation would describe them."""
    image = np.concatenate([face.crop for face in faces], axis=1)
    tracks = []
    for number, face in enumerate(faces):
        points = (face.landmarks + [112 * number, 0]).astype(np.float32)
        tracks.append(
            ClipTrack(
                boxes=np.array([[112 * number + 14, 14, 112 * number + 98, 110]], np.float32),
                scores=np.ones(1, np.float32),
                keypoints=(ARCFACE.keypoints + [112 * number, 0]).astype(np.float32)[None],
                landmarks=points[None],
                valid=np.ones(1, bool),
                faces=(jpeg(face.crop),),
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
        scores={"num_faces": len(faces), "min_face": 84.0},
        caption=caption,
    )


def write_shards(root: Path, photos: Sequence[Sequence[Face]], captions: Sequence[str]) -> str:
    """A photo of each group of faces with each caption; the pattern of the shards."""
    with ShardWriter(root) as writer:
        for number, (faces, caption) in enumerate(product(photos, captions)):
            writer.write(photo_of(f"photo{number}", faces, caption))
    return f"{root}/shards/*.tar"


def train(root: Path, experiment: str, name: str, shards: str, *words: str, steps: int) -> Path:
    """The weights of a run of train.py."""
    begin = time.process_time()
    given = [f"experiment=uniportrait/{experiment}", f"name={name}", f"data.shards={shards}"]
    given += [f"paths.runs={root}/runs", f"trainer.max_steps={steps}", f"data.samples_per_epoch={8 * steps}"]
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


def likeness(root: Path, out: Path, people: dict[str, list[Face]], others: list[Face], judge: Judge) -> bool:
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
    shards = write_shards(root / "others", [[face] for face in others], CAPTIONS)
    table = "{people: {probability: 1, drop: [people]}}"
    fixed = [f"model.condition_dropout.table={table}", "model.network.lora=null", "stage.train=['*']"]
    base = train(root, "tiny_stage1", "base", shards, *words, *fixed, steps=300)
    name, (held, *seen) = max(people.items(), key=lambda each: len(each[1]))
    shards = write_shards(root / "person", [[face] for face in seen], CAPTIONS)
    start = [f"stage.init_from={base}", "+stage.expect_missing=['*.lora_[AB].*']"]
    start += ["model.condition_dropout=null", "model.network.lora.single_id.rank=16"]
    first = train(root, "tiny_stage1", "person", shards, *words, *start, steps=150)

    wanted = judge(held.picture[None])[0]
    drawn, figures = {}, {}
    for label, weights, with_tokens in (("with", first, True), ("without", base, False)):
        module = load(weights, root)
        crops = torch.stack([face.picture for face in seen])[None, None]
        tokens, nobody = module.pipeline.embed_people(crops)
        pictures = []
        for prompt, seed in product(NEW_PROMPTS, range(SEEDS)):
            embedded = module.pipeline.embed_text([prompt], batch=1, like=crops)
            pictures.append(
                module.pipeline(
                    embedded,
                    embedded,
                    (tokens if with_tokens else nobody, nobody),
                    size=(SIDE, SIDE),
                    generator=[torch.Generator().manual_seed(seed)],
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


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=Path)
    parser.add_argument("--others", type=Path, nargs="+", default=[])
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
    with tempfile.TemporaryDirectory() as folder:
        better = likeness(Path(folder), given.out, people, others, judge)
    print(f"{time.process_time() - begin:.0f} CPU seconds in all")
    return int(not better)


if __name__ == "__main__":
    sys.exit(main())
