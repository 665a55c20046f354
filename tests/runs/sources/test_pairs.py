"""What a pair of files is graded against stands in the protocol, also where the generated file is lost."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from portraitgen.runs.sources.pair_list import Pair
from portraitgen.runs.sources.pairs import PairedFiles


@pytest.fixture
def pictures(tmp_path):
    for name, level in (("clip", 90), ("man", 10), ("woman", 200)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((16, 16, 3), level, np.uint8))
    return tmp_path


def facts_of(pair):
    return PairedFiles([pair], fps=None, size=None, length="exact", place={}).read(pair.key).facts


def test_another_reference_or_prompt_is_another_protocol(pictures):
    pair = Pair("clip", pictures / "clip.png", reference=pictures / "man.png", prompt="a man")
    others = [replace(pair, reference=pictures / "woman.png"), replace(pair, prompt="a woman")]
    assert len({facts_of(each).digest for each in (pair, *others)}) == 3
    assert facts_of(pair) == facts_of(replace(pair))


def test_a_lost_clip_has_the_facts_of_one_that_is_there(pictures):
    pair = Pair("clip", pictures / "clip.png", pictures / "man.png", pictures / "woman.png", prompt="a man")
    assert facts_of(replace(pair, generated=pictures / "lost.png")) == facts_of(pair)
