"""The toys as pip would install them, tiny bases for them, and what they train on."""

import importlib
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from portraitgen.data.shards import ShardWriter
from portraitgen.media.decode import read_video
from portraitgen.runs.config.targets import SYSTEMS_GROUP, installed_systems
from tests.data.photos import Person, photo
from tests.synthetic import synthetic_clip
from tests.toys.models import save_cogvideox, save_stable_diffusion


@pytest.fixture(scope="session")
def toys(repository) -> Path:
    """Folder of the toys' packages and their pyproject.toml."""
    return repository / "tests/plugins/toys"


@pytest.fixture(scope="package")
def installed(toys, tmp_path_factory) -> list[Path]:
    """Folders with which the toys are installed, once they are on the path: the packages, what pip notes."""
    project = tomllib.loads((toys / "pyproject.toml").read_text())["project"]
    root = tmp_path_factory.mktemp("site-packages")
    facts = root / "portraitgen_toys-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = project["entry-points"][SYSTEMS_GROUP]
    lines = [f"[{SYSTEMS_GROUP}]", *(f"{name} = {package}" for name, package in points.items())]
    (facts / "entry_points.txt").write_text("\n".join(lines))
    return [root, toys]


@pytest.fixture(scope="package", autouse=True)
def _known(installed):
    """The toys are installed for this process, while the tests of this folder run."""
    before = list(sys.path)
    sys.path[:0] = map(str, installed)
    importlib.invalidate_caches()
    installed_systems.cache_clear()
    yield
    sys.path[:] = before
    installed_systems.cache_clear()


@pytest.fixture(scope="package")
def models(tmp_path_factory) -> Path:
    """Folder of tiny pretrained models (`paths.models`)."""
    root = tmp_path_factory.mktemp("models")
    save_stable_diffusion(root / "stable-diffusion")
    save_cogvideox(root / "cogvideox")
    return root


@pytest.fixture(scope="package")
def shards(tmp_path_factory) -> Path:
    """Two photos of two people, one of whom is in both, and two clips; all with captions."""
    root = tmp_path_factory.mktemp("data")
    with ShardWriter(root / "photos", "train") as writer:
        ann, bob = Person(8, 20, 130, seed=3, name="Ann"), Person(150, 40, 90, seed=4, name="Bob")
        writer.write(photo("sea", (200, 260), [ann, bob], seed=1, caption="two friends at the sea"))
        writer.write(photo("shore", (200, 260), [ann], seed=2, caption="a woman smiles"))
    with ShardWriter(root / "clips", "train") as writer:
        for number, caption in enumerate(("a man talks about the sea", "she is singing a song")):
            clip = synthetic_clip(f"clip{number}", num_frames=16, size=64, seed=number)
            writer.write(replace(clip, caption=caption))
    return root


@pytest.fixture(scope="package")
def photos(carphone, tmp_path_factory) -> Path:
    """ann.png and bob.png: the same real man."""
    folder = tmp_path_factory.mktemp("photos")
    frames = read_video(carphone)
    cv2.imwrite(str(folder / "ann.png"), frames[0][:, 16:160, ::-1])
    cv2.imwrite(str(folder / "bob.png"), frames[60][:, 30:150, ::-1])
    return folder
