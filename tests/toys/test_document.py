"""Whoever follows docs/add-a-system.md gets the first toy running: its files and commands are real."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib

import cv2
import pytest
from hydra import compose, initialize_config_dir

from portraitgen.media.decode import read_video
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.config.targets import SYSTEMS_GROUP
from tests.test_commands import SUBCOMMANDS, overrides_of


@pytest.fixture(scope="module")
def text(repository):
    return (repository / "docs/add-a-system.md").read_text()


def test_its_files_are_those_of_the_toy(text, toys):
    shown = dict(re.findall(r"^`([\w/.]+)`:\n```\w+\n(.*?)```$", text, re.M | re.S))
    for name, content in shown.items():
        assert content == (toys / name).read_text(), f"copy {name} into the document again"
    files = [file for file in (toys / "text_to_image").rglob("*.*") if file.suffix in (".py", ".yaml")]
    names = {str(file.relative_to(toys)) for file in files} - {"text_to_image/__init__.py"}
    assert names <= shown.keys()


def test_its_project_file_makes_the_system_known(text, toys, installed):
    (shown,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    project, real = (tomllib.loads(t)["project"] for t in (shown, (toys / "pyproject.toml").read_text()))
    points = project.pop("entry-points")[SYSTEMS_GROUP]
    assert points.items() <= real["entry-points"][SYSTEMS_GROUP].items()
    assert project.items() <= real.items()
    known = {each.name: each.module for each in importlib.metadata.entry_points(group=SYSTEMS_GROUP)}
    assert points.items() <= known.items()


def test_its_commands_run(text, repository, installed, carphone, tmp_path, monkeypatch, capfd):
    (tmp_path / "photos").mkdir()
    for number, frame in enumerate(read_video(carphone)[::50]):
        cv2.imwrite(str(tmp_path / f"photos/{number}.png"), frame[:, :, ::-1])
        (tmp_path / f"photos/{number}.txt").write_text("a man talks about the sea")
    path = [*map(str, installed), str(repository)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    (block,) = re.findall(r"^```\n(python -m .*?)```$", text, re.M | re.S)
    make_models, *commands = block.splitlines()
    assert [line.split()[1] for line in commands] == [
        *("prepare.py", "train.py", "generate.py", "evaluate.py", "convert.py")
    ]
    monkeypatch.chdir(tmp_path)
    words = [sys.executable, *make_models.split()[1:]]
    subprocess.run(words, env=environment, check=True)
    for line in commands:
        _, script, arguments = line.split(maxsplit=2)
        overrides = overrides_of(arguments)
        if script == "train.py":  # as somebody types it
            words = [sys.executable, str(repository / script), *overrides]
            subprocess.run(words, env=environment, check=True)
            continue
        subcommand = SUBCOMMANDS[script.removesuffix(".py")][""]
        task = subcommand.load()
        register_configs()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(subcommand.config_name, overrides)
        task(config)
    assert (tmp_path / "sea/generated/two-friends-at-the-sea.png").is_file()
    assert (tmp_path / "sea/report/report.html").is_file()
    assert (tmp_path / "adapter/pytorch_lora_weights.safetensors").is_file()
