"""Several people in one picture: matched, counted, and told from copies of their photos."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from portraitgen.faces.dlib import DlibBackend
from portraitgen.metrics.copy_paste import copy_paste
from portraitgen.metrics.grader import ClipGrader, GradedClip
from portraitgen.metrics.graders.multi_identity import MultiIdentityGrader
from portraitgen.metrics.one_pass import grade_clip
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.scores import GENERATED

BACKEND = DlibBackend()


def at(*degrees):
    turned = np.deg2rad(np.array(degrees, np.float64))
    return np.stack([np.cos(turned), np.sin(turned)], axis=-1)


def test_copy_paste_by_hand():
    """Angles on a circle: the reference at 0, the true picture at 40 degrees."""
    generated = at(0, 40, 20, 30, 10)
    reference, truth = at(0, 0, 0, 0, 0), at(40, 40, 40, 40, 40)
    expected = [1, -1, 0, (10 - 30) / 40, (30 - 10) / 40]
    np.testing.assert_allclose(copy_paste(generated, truth, reference), expected, atol=1e-12)
    # A stranger, as far from the one as from the other.
    np.testing.assert_allclose(copy_paste(at(110), at(40), at(0)), [(70 - 110) / 40], atol=1e-12)
    missing = at(10)
    missing[0] = np.nan
    found = copy_paste(np.concatenate([at(10), missing]), at(0, 40), at(0, 0))
    assert np.isnan(found).all(), "the true picture is the reference; no face"


def pictures(*images):
    return Pictures(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), BACKEND, name="photos")


def clip(shown, **given):
    return GradedClip(
        video="v",
        method=GENERATED,
        pictures=shown,
        truth=given.get("truth"),
        reference=given.get("reference"),
        people=given.get("people", ()),
        driving=None,
        fps=0.0,
        audio=None,
        prompt=None,
    )


@pytest.fixture(scope="module")
def photo(shared):
    """Photos by name, uint8 RGB."""
    return lambda name: cv2.imread(str(shared / f"testdata/photos/{name}"))[:, :, ::-1]


@pytest.fixture(scope="module")
def people(photo):
    return tuple(pictures(photo(f"ids/{name}/1.jpg")) for name in ("obama", "biden"))


@pytest.fixture(scope="module")
def both(photo):
    return pictures(photo("multi/obama_biden.jpg"))


def test_each_person_is_matched_and_graded_against_reference_and_truth(people, both):
    grader = MultiIdentityGrader("dlib")
    assert isinstance(grader, ClipGrader)
    grades = grade_clip(grader, clip(both, people=people, truth=both))
    scores = {name: float(value) for name, value in grades.scores.items()}
    assert scores.keys() == grader.metrics.keys()
    assert scores["sim_ref_dlib"] > scores["sim_ref_min_dlib"] > 0.914
    assert scores["sim_gt_dlib"] == pytest.approx(1)
    assert scores["copy_paste_dlib"] == pytest.approx(-1, abs=1e-6), "it is the true picture"
    assert (scores["people_missing_dlib"], scores["people_extra_dlib"]) == (0, 0)
    assert grades.reasons == {}
    # In whatever order they are given.
    turned = grade_clip(grader, clip(both, people=people[::-1], truth=both)).scores
    assert {name: float(value) for name, value in turned.items()} == pytest.approx(scores)


def test_a_copy_of_the_references_is_told_from_a_likeness(people, both, photo):
    sides = [cv2.resize(photo(f"ids/{name}/1.jpg"), (400, 500)) for name in ("obama", "biden")]
    pasted = clip(pictures(np.concatenate(sides, axis=1)), people=people)
    alone = grade_clip(MultiIdentityGrader("dlib"), pasted)
    assert alone.scores["sim_ref_dlib"] > 0.97
    assert alone.reasons == dict.fromkeys(("sim_gt_dlib", "copy_paste_dlib"), "no true picture is given")
    shown = grade_clip(MultiIdentityGrader("dlib"), replace(pasted, truth=both))
    assert shown.scores["sim_ref_dlib"] > shown.scores["sim_gt_dlib"]
    assert shown.scores["copy_paste_dlib"] > 0.4


def test_missing_and_extra_faces_count(people, both, photo):
    grader = MultiIdentityGrader("dlib")
    alone = pictures(photo("ids/obama/2.jpg"))
    scores = grade_clip(grader, clip(alone, people=people)).scores
    assert (scores["people_missing_dlib"], scores["people_extra_dlib"]) == (1, 0)
    assert scores["sim_ref_dlib"] > 0.914, "of those who are there"
    assert scores["sim_ref_min_dlib"] == 0, "who is not there is not like anybody"
    scores = grade_clip(grader, clip(both, reference=alone)).scores
    assert (scores["people_missing_dlib"], scores["people_extra_dlib"]) == (0, 1)
    llama = grade_clip(grader, clip(pictures(photo("negative/llama.jpg")), people=people))
    assert llama.reasons["sim_ref_dlib"] == "no face found in 1 of 1 frames"
    assert (llama.scores["people_missing_dlib"], llama.scores["sim_ref_min_dlib"]) == (2, 0)
    nobody = grade_clip(grader, clip(both))
    assert set(nobody.reasons.values()) == {"no reference picture"}
    itself = grade_clip(grader, clip(both, reference=both, truth=both))
    assert itself.reasons == {"copy_paste_dlib": "the references are the true picture itself"}


def test_facts_name_the_network():
    facts = MultiIdentityGrader("dlib").facts
    assert json.loads(json.dumps(dict(facts)))["recognizer"] == "dlib"
