"""The README's word: each open choice is a key that there is, each trap has its tests. L18."""

import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests.systems.loopy import tiny

README = Path(__file__).parents[3] / "portraitgen/systems/loopy/README.md"
SETTLED = "settled"
"""What the paper leaves no choice in."""
PLACES = {
    **{name: f"systems/loopy/test_{name}.py" for name in ("network", "module", "pipeline")},
    "segments": "media/test_segments.py",
    "motion": "data/test_motion.py",
    "reference attention": "nn/test_reference_attention.py",
    "speech encoders": "nn/test_speech_encoders.py",
}


def rows(heading: str) -> list[list[str]]:
    """Cells of the rows of the table below a heading."""
    section = README.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.fixture(scope="module")
def full_size():
    return tiny.settings("loopy/stage2")


def choices() -> list[tuple[str, str]]:
    """Key and value of each choice that the table lists in brackets."""
    found = []
    for *_, cell in rows("The paper's sentences, and what stands for them"):
        for key, values in re.findall(r"`([\w.]+)` \(([^)]*)\)", cell):
            found += [(key, value) for value in re.findall(r"`(\w+)`", values)]
    return found


@pytest.mark.parametrize(
    "row", rows("The paper's sentences, and what stands for them"), ids=lambda row: row[0][:40]
)
def test_each_choice_is_a_key(row, full_size):
    assert len(row) == 3
    keys = [word for word in re.findall(r"`([\w.]+)`", re.sub(r"\([^)]*\)", "", row[2])) if "." in word]
    groups = [word for word in ("`speech`",) if word in row[2]]
    assert keys or groups or row[2].startswith(SETTLED)
    for key in keys:
        owner, _, name = key.rpartition(".")
        assert name in OmegaConf.select(full_size, owner), key


@pytest.mark.parametrize(("key", "value"), choices())
def test_each_listed_value_builds_a_network_that_predicts(key, value):
    if key == "speech" and value in ("wav2vec2", "voice"):
        assert OmegaConf.select(
            tiny.settings("loopy/tiny_stage2", f"speech={value}"), "model.speech_encoder.path"
        )
        return
    loopy = tiny.learner("loopy/tiny_stage2", f"{key}={value}", as_built=True)
    context = loopy.network.read(torch.randn(1, 48, 4, 4), torch.randn(1, 6, 48, 4, 4))
    window = loopy.network.audio_tokens.heard
    tokens = loopy.network.hear(torch.randn(1, 4, *window))
    latents = loopy.network.latents_of_motion(tokens)
    drawn = loopy.network(
        torch.randn(1, 4, 48, 4, 4), torch.tensor([3]), context, tokens=tokens, motion_latents=latents
    )
    assert drawn.isfinite().all()


@pytest.mark.parametrize("row", rows("Traps of a first implementation"), ids=lambda row: row[0][:40])
def test_each_trap_has_tests_that_exist(row):
    named = re.findall(r"`(test_\w+)`", row[1])
    assert named
    for tests, place in re.findall(r"((?:`test_\w+`(?:, )?)+) \(([\w ]+)\)", row[1]):
        text = (README.parents[3] / "tests" / PLACES[place]).read_text()
        for name in re.findall(r"`(test_\w+)`", tests):
            assert f"\ndef {name}(" in text, (name, place)
            named.remove(name)
    assert not named, f"where are {named}?"


def test_all_traps_are_there():
    """The list of what a first sketch of the paper got wrong has 18 entries; one more was seen in a peer."""
    assert len(rows("Traps of a first implementation")) == 19
