"""Whatever lies in a folder, its preparation ends: each file gives samples, or is named in a line."""

import json
import random
import re
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from portraitgen.data.catalog import Catalog
from portraitgen.data.manifest import manifest_path
from portraitgen.data.prepare.job import ShardMaker
from portraitgen.data.prepare.labels import label_sources
from portraitgen.data.prepare.plan import plan_shards
from portraitgen.data.prepare.preparation import Preparation
from portraitgen.data.prepare.sources import find_sources
from portraitgen.data.reader import ClipReader
from tests.data.prepare.small_settings import small_settings
from tests.data.prepare.strange_files import KINDS
from tests.data.prepare.test_video import DrawnFaces
from tests.limits import limited

SECONDS = 30
MEMORY = 1 << 30
KEYPOINTS = np.array([(-0.2, -0.2), (0.2, -0.2), (0, 0), (-0.2, 0.2), (0.2, 0.2)], np.float32)


class FoundFaces(DrawnFaces):
    """Finds drawn faces, with eyes, nose and mouth where faces have them."""

    def detect(self, image, *, embed=False):
        found = super().detect(image)
        return [
            replace(face, keypoints=face.keypoints + KEYPOINTS * (face.box[2] - face.box[0]))
            for face in found
        ]


class TooSlowError(BaseException):
    """No mistake of a file, so that nothing takes it for one."""


def prepare(folder: Path, out: Path, caplog) -> int:
    """Prepare a folder as `prepare.py` does; how many samples it gives."""
    table = folder / "labels.jsonl"
    try:
        sources = find_sources(str(folder), exclude=out)
        sources, _ = label_sources(sources, labels=table if table.exists() else None, folder_identities=False)
    except ValueError as error:
        # The user's own: no source at all, or a table that is none.
        if not str(error).startswith(("source=", "labels=")):
            raise
        return 0
    jobs = plan_shards(sources, out, "train", videos_per_shard=9, photos_per_shard=9, config={})
    settings = small_settings(fps=25.0, embed_every=0)
    samples = 0
    for job in jobs:
        ShardMaker(str(out), Preparation(FoundFaces(), settings), {}, fps=settings.exact_fps)(
            job.weighed(), lambda *_: None, {}
        )
        manifest = json.loads(manifest_path(job.path).read_text())
        left_out = {error["source"]: error for error in manifest["errors"]}
        assert not [error for error in left_out.values() if error["stage"] == "defect"], left_out
        for error in left_out.values():
            assert not re.search(r"\n|Errno|Traceback", error["message"]), error["message"]
        samples += manifest["samples"]
        if not manifest["samples"]:
            assert {source.name for source in job.sources} == left_out.keys()
            continue
        catalog = Catalog(str(job.path))
        reader = ClipReader(catalog)
        for row in range(len(catalog.indexes[0])):
            reader.sample(0, row)
        keys = [catalog.indexes[0].key(row) for row in range(len(catalog.indexes[0]))]
        for source in job.sources:
            assert source.name in left_out or any(key.startswith(source.key) for key in keys), source.name
    return samples


def check(kind: str, seeds: range, tmp_path: Path, caplog) -> int:
    samples = 0
    for seed in seeds:
        folder, out = tmp_path / f"{seed}" / "in", tmp_path / f"{seed}" / "out"
        folder.mkdir(parents=True)
        KINDS[kind](folder, random.Random(f"{kind} {seed}"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            with limited(SECONDS, TooSlowError):
                samples += prepare(folder, out, caplog)
        except BaseException as error:
            raise AssertionError(f"{kind}, seed {seed}") from error
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        assert grown < MEMORY, f"{kind}, seed {seed}: {grown} bytes"
        assert {path.name for path in (tmp_path / f"{seed}").iterdir()} <= {"in", "out"}
    return samples


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_used_or_named(kind, tmp_path, caplog):
    assert check(kind, range(6), tmp_path, caplog), "some are usable"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_one_of_many_files_is_used_or_named(kind, tmp_path, caplog):
    assert check(kind, range(6, 150), tmp_path, caplog)
