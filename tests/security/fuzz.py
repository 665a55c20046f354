"""Hostile inputs made from sound ones, by kind, and what becomes of each: accepted, refused, or a defect.

An input is a sound file with something changed: an entry of its JSON becomes what it cannot be, bytes are
flipped, or the file ends early. Seeded: input n of a kind is the same on every machine. It is read in this
process by what the commands read it with; a mistake that they would tell of in one message is "refused".
"""

import copy
import io
import json
import random
import resource
import struct
import tarfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import save_file

from portraitgen.data.catalog import Catalog
from portraitgen.data.reader import ClipReader
from portraitgen.data.shards import ShardWriter
from portraitgen.faces.landmark_file import load_landmarks, save_landmarks
from portraitgen.faces.landmark_sequence import LandmarkSequence
from portraitgen.media.blame import raised_here
from portraitgen.metrics.comparison import compare, label_runs
from portraitgen.metrics.protocol import Protocol, VideoFacts
from portraitgen.metrics.report.comparison_page import comparison_page
from portraitgen.metrics.report.report import write_report
from portraitgen.metrics.results import aggregate
from portraitgen.metrics.saved import load_results
from portraitgen.metrics.scores import MetricInfo, Row
from portraitgen.runs.config.command import USER_ERRORS
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.evaluate.sources.samples import GeneratedSamples
from portraitgen.runs.system import describe_system
from portraitgen.runs.train.rundir import RunDirectory
from portraitgen.training.weights import load_facts, load_weights
from tests.limits import limited
from tests.runs.tiny import save_tiny
from tests.security.fuzz_folders import FolderFuzzer
from tests.synthetic import synthetic_clip

SECONDS = 30
"""An input that takes longer is a defect."""

MEMORY = 1 << 30
"""So is one that makes the process grow by more bytes."""


@dataclass
class Outcome:
    """What became of the inputs of one kind."""

    accepted: int = 0
    refused: int = 0
    defects: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return self.accepted + self.refused + len(self.defects)


def hostile_values(marker: Path) -> list[Any]:
    """What an entry may become."""
    call = {"_target_": "os.system", "_args_": [f"touch {marker}"]}
    write = {"_target_": "portraitgen.media.files.replace_file", "path": str(marker), "data": "x"}
    return [
        *(None, True, 0, -1, 10**9, 10**40, 1e300, -1e300, float("nan"), float("inf"), 0.5),
        *("", "x", "../../x", "/etc/passwd", "/dev/zero", str(marker), "\x00", "a" * 5000, "1e9999999"),
        *("${oc.env:HOME}", "${x}", "???", "<script>alert(1)</script>", "=1+1", "os.system", "25/0"),
        *([], {}, [[]], [None], {"": {}}, {"x": 1}, [0] * 2000, call, [call], write),
        json.loads("[" * 60 + "]" * 60),
    ]


def mutated(content: Any, random_: random.Random, values: list[Any]) -> Any:
    """A copy of JSON with one to three entries changed, removed, doubled or renamed."""
    content = copy.deepcopy(content)
    for _ in range(random_.choice((1, 1, 1, 2, 3))):
        node, keys = content, []
        while isinstance(node, dict | list) and node:
            keys.append((node, random_.choice([*node] if isinstance(node, dict) else range(len(node)))))
            node = node[keys[-1][1]]
        if not keys:
            return random_.choice(values)
        parent, key = random_.choice(keys)
        way = random_.random()
        if way < 0.75:
            parent[key] = copy.deepcopy(random_.choice(values))
        elif way < 0.9:
            del parent[key]
        elif isinstance(parent, dict):
            parent[str(random_.choice(("x", "_target_", "../x", str(key) * 2)))] = parent[key]
        else:
            parent.append(parent[key])
    return content


def damaged(data: bytes, random_: random.Random) -> bytes:
    """Bytes with some flipped, overwritten or repeated, or cut short."""
    changed = bytearray(data)
    way = random_.random()
    if way < 0.2:
        return bytes(changed[: random_.randrange(len(changed) + 1)])
    for _ in range(random_.choice((1, 4, 16))):
        place = random_.randrange(len(changed))
        part = random_.choice((bytes([random_.randrange(256)]), b"\xff" * 8, b"\0" * 8, b"-", b"99999999"))
        changed[place : place + len(part)] = part
    return bytes(changed)


class Fuzzer:
    """Sound files in `folder`, and readers of changed ones, by kind.

    Args:
        folder: an empty one.
        marker: a file that hostile inputs try to make.
    """

    def __init__(self, folder: Path, marker: Path) -> None:
        register_configs()
        self.folder, self.values, self.scratch = folder, hostile_values(marker), folder / "scratch"
        self.scratch.mkdir(parents=True)
        self.weights = save_tiny(folder / "sound.safetensors")
        self.facts = load_facts(self.weights)
        self.tensors, _ = load_weights(self.weights)
        with ShardWriter(folder / "data") as writer:
            for number in range(2):
                writer.write(
                    synthetic_clip(f"person{number}", num_frames=8, size=32, seed=number, sound=True)
                )
        self.shard = next((folder / "data" / "shards").glob("*.tar"))
        self._results()
        self.kinds: dict[str, Callable[[random.Random], None]] = {
            "facts of weights": self.weights_facts,
            "bytes of weights": self.weights_bytes,
            "json in shards": self.shard_json,
            "bytes of shards": self.shard_bytes,
            "bytes of indexes": self.index_bytes,
            "landmark files": self.landmark_bytes,
            "samples.jsonl": self.sample_rows,
            "results.json, frames.csv": self.result_files,
            "files of runs": self.run_files,
            "experiments": self.experiment,
            **FolderFuzzer(folder / "folders", self.values, mutated, damaged).kinds,
        }

    def weights_facts(self, random_: random.Random) -> None:
        facts = mutated(self.facts, random_, self.values)
        path = self.scratch / "a.safetensors"
        few = dict(list(self.tensors.items())[:2])
        save_file(few, path, metadata={"portraitgen": json.dumps(facts)})
        describe_system(path, changes={}, models=str(self.folder / "models"))

    def weights_bytes(self, random_: random.Random) -> None:
        data = self.weights.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        path = self.scratch / "a.safetensors"
        # The header is where the harm is.
        path.write_bytes(damaged(data[: 8 + length], random_) + data[8 + length :])
        load_weights(path)

    def shard_json(self, random_: random.Random) -> None:
        target = self._place_of_shard()
        with (
            tarfile.open(self.shard) as theirs,
            tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as ours,
        ):
            for entry in theirs:
                data = theirs.extractfile(entry).read()  # type: ignore[union-attr]
                if entry.name.endswith(".json"):
                    data = json.dumps(mutated(json.loads(data), random_, self.values)).encode()
                entry.size = len(data)
                ours.addfile(entry, io.BytesIO(data))
        self._read_shard(target)

    def shard_bytes(self, random_: random.Random) -> None:
        target = self._place_of_shard()
        target.write_bytes(damaged(self.shard.read_bytes(), random_))
        self._read_shard(target)

    def index_bytes(self, random_: random.Random) -> None:
        target = self._place_of_shard()
        target.write_bytes(self.shard.read_bytes())
        index = target.parent.parent / "index" / f"{target.stem}.idx.npz"
        index.parent.mkdir(exist_ok=True)
        sound = self.shard.parent.parent / "index" / index.name
        index.write_bytes(damaged(sound.read_bytes(), random_))
        try:
            self._read_shard(target)
        finally:
            index.unlink()

    def landmark_bytes(self, random_: random.Random) -> None:
        sequence = LandmarkSequence(
            points=np.ones((4, 68, 2), np.float32),
            scheme="ibug68",
            image_size=(32, 32),
            fps=Fraction(25),
            found=np.ones(4, bool),
        )
        path = self.scratch / "a.npz"
        save_landmarks(path, sequence)
        path.write_bytes(damaged(path.read_bytes(), random_))
        load_landmarks(path)

    def sample_rows(self, random_: random.Random) -> None:
        folder = self.scratch / "generated"
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "a.png"), np.zeros((8, 8, 3), np.uint8))
        row = {
            "key": "a",
            "image": "a.png",
            "sheet": "a.png",
            "fps": None,
            "frames": [0],
            "seed": 0,
            "train_span": None,
            "frames_trained_on": 0,
            "sampling": {"num_steps": 1},
            "prompt": "a man",
            "references": [["a.png"]],
            "recognizers": {},
            "shown": ["generated"],
            "system": "x",
        }
        (folder / "samples.jsonl").write_text(json.dumps(mutated(row, random_, self.values)) + "\n")
        source = GeneratedSamples(folder)
        source.check()
        for key in source.keys:
            source.read(key)
            [media.data_uri for media in source.media(key, folder)]
        dict(source.settings)

    def result_files(self, random_: random.Random) -> None:
        content = json.loads((self.folder / "report" / "results.json").read_text())
        frames = (self.folder / "report" / "frames.csv").read_bytes()
        folder = self.scratch / "report"
        folder.mkdir(exist_ok=True)
        if random_.random() < 0.8:
            content = mutated(content, random_, self.values)
        else:
            frames = damaged(frames, random_)
        (folder / "results.json").write_text(json.dumps(content))
        (folder / "frames.csv").write_bytes(frames)
        runs = label_runs([load_results(folder), load_results(self.folder / "report")])
        page = comparison_page(compare(runs, resamples=10, allow_other_protocols=True), title="a")
        assert "<script>" not in page

    def run_files(self, random_: random.Random) -> None:
        folder = self.scratch / "run"
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        run = RunDirectory(folder)
        settings = {"model": {"a": {"b": 1}}, "seed": 1, "data": {"c": [1, 2]}}
        run.record_start(settings, step=0, changes=[])
        (folder / "metrics.csv").write_text("step,val/loss\n1,0.5\n2,0.4\n")
        path = random_.choice([run.config, run.versions, folder / "metrics.csv"])
        if path.suffix != ".csv" and random_.random() < 0.5:
            content = mutated(yaml.safe_load(path.read_text()), random_, self.values)
            path.write_text(json.dumps(content))
        else:
            path.write_bytes(damaged(path.read_bytes(), random_))
        run.last_metric("val/loss")
        run.changes(settings, allowed=True)
        run.record_start(settings, step=1, changes=[])

    def experiment(self, random_: random.Random) -> None:
        text = (CONF / "experiment/aniportrait/tiny_stage1.yaml").read_text()
        header, content = "# @package _global_\n", yaml.safe_load(text)
        folder = self.scratch / "experiment"
        folder.mkdir(exist_ok=True)
        if random_.random() < 0.6:
            if random_.random() < 0.5:
                content["hydra"] = mutated(
                    {"job": {"env_set": {}}, "run": {"dir": "x"}}, random_, self.values
                )
            written = header + yaml.safe_dump(mutated(content, random_, self.values))
        else:
            written = damaged(text.encode(), random_).decode(errors="replace")
        (folder / "theirs.yaml").write_text(written)
        given = ["experiment=theirs", f"hydra.searchpath=[file://{self.scratch}]", "data.shards=a.tar"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            compose("train", given)

    def _place_of_shard(self) -> Path:
        target = self.scratch / "data" / "shards" / self.shard.name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _read_shard(self, target: Path) -> None:
        catalog = Catalog([str(target)])
        reader = ClipReader(catalog)
        for row in range(len(catalog.indexes[0])):
            # As training does: a sample that cannot be read is skipped.
            index = catalog.indexes[0]
            count = int(index.num_frames[row])
            out = np.empty((1, 3 * int(index.size[row, 0]) // 2, int(index.size[row, 1])), np.uint8)
            for read in (
                lambda row=row: reader.sample(0, row),
                lambda row=row, count=count: reader.landmarks(0, row, 0, np.arange(count)),
                lambda row=row: reader.boxes(0, row, 0, np.array([0])),
                lambda row=row, out=out: reader.frames(0, row, np.array([0]), out=out),
            ):
                with _broken_samples_are_skipped():
                    read()

    def _results(self) -> None:
        metric = MetricInfo("PSNR", "dB", 2, True, "how near", "frame")
        rows = [Row(video, "generated", np.arange(3), {"psnr": np.arange(3.0)}) for video in ("a", "b")]
        protocol = Protocol(
            videos=(VideoFacts("a", 3, 25.0, 8, 8, "01"), VideoFacts("b", 3, 25.0, 8, 8, "02")),
            frame_sampler="all frames",
            resize="none",
            crop="none",
            face_backend="dlib",
            min_face_score=0.0,
            settings={"num_steps": 2},
            source={"generated": "here"},
        )
        results = aggregate(rows, metrics={"psnr": metric}, protocol=protocol, sets={}, skipped={})
        write_report(results, self.folder / "report", title="a")


def run(fuzzer: Fuzzer, kind: str, *, inputs: int, seed: int = 0, first: int = 0) -> Outcome:
    """Read so many inputs of a kind, from number `first` on."""
    outcome, began = Outcome(), time.monotonic()
    for number in range(first, first + inputs):
        random_ = random.Random(f"{seed} {kind} {number}")
        before = _peak()
        try:
            with limited(SECONDS):
                fuzzer.kinds[kind](random_)
            outcome.accepted += 1
        except Exception as error:
            if is_told(error):
                outcome.refused += 1
            else:
                said = "".join(traceback.format_exception(error)[-3:])
                outcome.defects.append(f"{kind}, input {number} of seed {seed}: {said}")
        if _peak() - before > MEMORY:
            outcome.defects.append(f"{kind}, input {number} of seed {seed}: grew by {_peak() - before} bytes")
    outcome.seconds = time.monotonic() - began
    return outcome


def is_told(error: Exception) -> bool:
    """Whether a command would end in one message, as `runs/config/command.py` decides it."""
    if isinstance(error, HydraException | OmegaConfBaseException | yaml.YAMLError):
        return True
    return isinstance(error, USER_ERRORS) and raised_here(error)


@contextmanager
def _broken_samples_are_skipped() -> Iterator[None]:
    """ValueError of a sample is what a loader counts and skips."""
    with suppress(ValueError):
        yield


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def snapshot(*folders: Path) -> Counter[tuple[str, int]]:
    """Files below folders with their sizes."""
    return Counter(
        (str(path), path.stat().st_size) for folder in folders for path in folder.rglob("*") if path.is_file()
    )
