"""Hostile files in the folders of data sets, and in tables that people write; see `fuzz`."""

import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from portraitgen.data.catalog import Catalog
from portraitgen.data.describe import describe_shards
from portraitgen.data.features.reader import FeatureReader
from portraitgen.data.features.store import FeatureFacts, feature_index_path, feature_tar, write_features
from portraitgen.data.features.verify import feature_problems
from portraitgen.data.formats.consisid.captions import read_captions
from portraitgen.data.formats.consisid.layout import read_annotations
from portraitgen.data.manifest import manifest_path, update_dataset
from portraitgen.data.prepare.labels import label_sources
from portraitgen.data.prepare.ledger import ledger_path
from portraitgen.data.prepare.outcome import Outcome
from portraitgen.data.prepare.plan import clear_superfluous, plan_shards, write_plan
from portraitgen.data.prepare.sources import find_sources
from portraitgen.data.sample import DataError
from portraitgen.data.scan import open_index
from portraitgen.data.shards import ShardWriter
from portraitgen.data.verify import dataset_problems, shard_problems, shards_of_dataset
from portraitgen.runs.generate.requests_file import read_requests
from portraitgen.training.inputs import Input
from tests.synthetic import synthetic_clip

CONFIG = {"size": 64}
KINDS = {"prompt": "text", "reference": "photos", "inputs.frame": "text"}
KNOWN = {name: Input(name, kind, "x") for name, kind in KINDS.items()}
REQUESTS = [
    {"prompt": "a man", "reference": ["a.png"]},
    {"prompt": "b", "inputs": {"frame": "face"}},
]
LABELS = [{"file": "a.mp4", "caption": "a man", "identity": "ann"}, {"file": "b.mp4", "caption": "b"}]
BOX = {
    "box": {"x1": 1.0, "y1": 2.0, "x2": 30.0, "y2": 40.0},
    "confidence": 0.9,
    "new_track_id": 1,
    "class": 0,
}
BOXES = {str(frame): {"face": [BOX], "head": [BOX], "person": []} for frame in range(3)}
TABLES = {
    "corresponding_data": {"1": {"face": 1, "head": 2}},
    "control_sam2_frame": {"1": {"face": 0, "head": 1}},
    "valid_frame": {"1": {"face": [0, 1], "head": [1, 2]}},
}
CAPTIONS = [
    {"path": "a.mp4", "cap": "a man", "fps": 25.0, "duration": 2.0, "resolution": {"height": 8, "width": 8}}
]


class FolderFuzzer:
    """A sound data set in `folder`, tables beside it, and readers of changed ones, by kind.

    Args:
        change: of JSON, see `fuzz.mutated`.
        damage: of bytes, see `fuzz.damaged`.
        values: what an entry may become.
    """

    def __init__(
        self,
        folder: Path,
        values: list[Any],
        change: Callable[[Any, random.Random, list[Any]], Any],
        damage: Callable[[bytes, random.Random], bytes],
    ) -> None:
        self.folder, self.values, self._change, self._damage = folder, values, change, damage
        self.source, self.sound, self.theirs = (folder / name for name in ("films", "sound", "theirs"))
        self.source.mkdir(parents=True)
        for name in ("a.mp4", "b.mp4"):
            (self.source / name).write_bytes(name.encode())
        (job,) = self._plan(self.sound)
        facts = {**CONFIG, "fingerprint": job.fingerprint}
        with ShardWriter(self.sound, config={**facts, "sources": {"a.mp4": "0", "b.mp4": "1"}}) as writer:
            for number in range(2):
                writer.write(synthetic_clip(f"person{number}", num_frames=8, size=32, seed=number))
            writer.record_error("b.mp4", stage="detect", error="nobody in it")
        write_plan([job], self.sound, "train")
        self.features = FeatureFacts("depth", "0a1b2c3d", "depth", "frame", {"weights": "x"}).save(self.sound)
        keys = [open_index(job.path).key(row) for row in range(2)]
        write_features(self.features, job.path, [(key, np.zeros((8, 3), np.float32)) for key in keys])
        update_dataset(self.sound)
        self.kinds: dict[str, Callable[[random.Random], None]] = {
            "files of data sets": self.data_set,
            "features": self.feature,
            "tables of ConsisID": self.consisid,
            "labels and requests": self.tables,
        }

    def data_set(self, random_: random.Random) -> None:
        shard = self._copied()
        changed = random_.choice(
            (
                manifest_path(shard),
                manifest_path(shard),
                self.theirs / "dataset.json",
                ledger_path(self.theirs, "train"),
            )
        )
        self._changed_json(changed, random_)
        dataset_problems(self.theirs)
        for each in shards_of_dataset(self.theirs):
            shard_problems(each)
        list(describe_shards(self.theirs, [shard], [open_index(shard)]))
        update_dataset(self.theirs)
        jobs = self._plan(self.theirs)
        clear_superfluous(jobs, self.theirs, "train", config=CONFIG)
        finished = [job for job in jobs if job.is_finished()]
        Outcome.of(finished).lines()
        write_plan(jobs, self.theirs, "train")

    def feature(self, random_: random.Random) -> None:
        shard = self._copied()
        folder = self.theirs / "aux" / self.features.name
        tar = feature_tar(folder, shard)
        changed = random_.choice((folder / "feature.json", feature_index_path(tar), tar))
        if changed.suffix == ".json":
            self._changed_json(changed, random_)
        else:
            changed.write_bytes(self._damage(changed.read_bytes(), random_))
        list(feature_problems(self.theirs, [shard]))
        catalog = Catalog(str(shard))
        reader = FeatureReader(catalog, "depth")
        reader.fields(4)
        for row in range(2):
            with suppress(DataError):  # such samples are counted and left out
                reader.values(0, row, np.arange(4))
                reader.window_starts(0, row)

    def consisid(self, random_: random.Random) -> None:
        shutil.rmtree(self.theirs, ignore_errors=True)
        tracks = self.theirs / "track_masks_data" / "a"
        tracks.mkdir(parents=True)
        (self.theirs / "refine_bbox_jsons").mkdir()
        files = {self.theirs / "refine_bbox_jsons" / "a.json": BOXES, self.theirs / "captions.json": CAPTIONS}
        files |= {tracks / f"{name}.json": table for name, table in TABLES.items()}
        for path, content in files.items():
            path.write_text(json.dumps(content))
        self._changed_json(random_.choice([*files]), random_)
        read_captions(self.theirs / "captions.json")
        read_annotations(self.theirs, "a", num_frames=3)

    def tables(self, random_: random.Random) -> None:
        shutil.rmtree(self.theirs, ignore_errors=True)
        self.theirs.mkdir()
        labels = random_.random() < 0.5
        path = self.theirs / f"table.{random_.choice(('csv', 'jsonl'))}"
        if path.suffix == ".jsonl":
            rows = LABELS if labels else REQUESTS
            text = "\n".join(json.dumps(self._change(row, random_, self.values)) for row in rows)
        else:
            text = "file,caption,identity\na.mp4,a man,ann\n" if labels else "prompt,reference\na man,a.png\n"
        data = text.encode()
        path.write_bytes(self._damage(data, random_) if random_.random() < 0.5 else data)
        if labels:
            label_sources(find_sources(str(self.source)), labels=path, folder_identities=True)
        else:
            list(read_requests(str(path), KNOWN, []))

    def _plan(self, out: Path) -> list[Any]:
        sources = find_sources(str(self.source))
        return plan_shards(sources, out, "train", videos_per_shard=4, photos_per_shard=4, config=CONFIG)

    def _copied(self) -> Path:
        """A copy of the data set; its shard."""
        shutil.rmtree(self.theirs, ignore_errors=True)
        shutil.copytree(self.sound, self.theirs)
        return next((self.theirs / "shards").glob("*.tar"))

    def _changed_json(self, path: Path, random_: random.Random) -> None:
        content = json.loads(path.read_bytes())
        if random_.random() < 0.8:
            path.write_text(json.dumps(self._change(content, random_, self.values)))
        else:
            path.write_bytes(self._damage(path.read_bytes(), random_))
