import json

import cv2
import numpy as np
import pytest
import torch

from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.recognition.recognizer import load_recognition
from portraitgen.metrics.consisid import clamped_similarity, face_inception_l2, pad_grey
from portraitgen.metrics.frame_choice import spread_frames, strided_frames
from portraitgen.metrics.identity import embed_faces, match_identities


@pytest.mark.golden
def test_samplers_are_the_references(goldens):
    cases = json.loads((goldens / "metrics_frame_sampling.json").read_text())
    for case in cases:
        assert spread_frames(case["total"], case["n"]).tolist() == case["facesim_linspace"]
        assert strided_frames(case["total"], case["n"]).tolist() == case["clip_floor"]
    consisid = json.loads((goldens / "consisid_eval_frame_indices.json").read_text())["cases"]
    for case in consisid:
        arguments = (case["total_frames"], case["num_frames"])
        assert spread_frames(*arguments).tolist() == case["facesim_indices"]
        assert strided_frames(*arguments).tolist() == case["clip_indices"]
    with pytest.raises(ValueError, match="without frames"):
        spread_frames(0)


@pytest.mark.golden
def test_similarities_are_the_references(goldens):
    golden = json.loads((goldens / "metrics_facesim.json").read_text())

    def wave(phase):
        vector = np.sin(0.11 * np.arange(512) + phase)
        return vector / np.linalg.norm(vector)

    reference = wave(0.2)
    frames = [wave(0.2 + 0.3 * k)[None] for k in range(6)]
    frames[4] = -reference[None]
    cosines = match_identities(reference[None], frames).similarity[:, 0]
    np.testing.assert_allclose(cosines, golden["cosine"], atol=1e-6)
    assert clamped_similarity(cosines) == pytest.approx(golden["consisid_mean_of_clamped"], rel=1e-6)
    assert cosines.mean() == pytest.approx(golden["plain_mean"], rel=1e-6)
    for case in json.loads((goldens / "consisid_eval_cosine.json").read_text())["cases"]:
        score = clamped_similarity(np.array([case["cosine"], np.nan]))
        assert score == pytest.approx(case["score"], abs=1e-12)


@pytest.mark.golden
def test_padding_is_the_references(goldens):
    for case in json.loads((goldens / "consisid_eval_pad.json").read_text())["cases"]:
        padded, moved = pad_grey(np.full((*case["hw"], 3), 7, np.uint8), case["scale"])
        assert list(padded.shape[:2]) == case["out_hw"]
        assert list(moved) == case["left_top"]
        assert padded[0, 0].tolist() == case["corner"]


@pytest.mark.golden
def test_pseudo_fid_is_the_references(goldens):
    """Where ConsisID repeats one picture of each side; sets are graded in test_frechet."""
    cases = json.loads((goldens / "consisid_eval_fid.json").read_text())["cases"]
    case = next(case for case in cases if case["identical_rows"])
    random = np.random.RandomState(case["seed"])
    generated, reference = (torch.from_numpy(random.randn(1, 16)).float() for _ in range(2))
    found = face_inception_l2(generated.repeat(3, 1), reference[0] + 0.3)
    np.testing.assert_allclose(found.numpy(), [case["official_fid"]] * 3, rtol=1e-6)


def test_each_identity_gets_its_face_whatever_their_order():
    generator = np.random.default_rng(0)
    people = generator.normal(size=(4, 32))
    people /= np.linalg.norm(people, axis=1, keepdims=True)
    frames = [people[[2, 0, 1]], people[[1]], people[[3, 1, 0, 2]], np.zeros((0, 32))]
    match = match_identities(people[:3], frames)
    np.testing.assert_allclose(match.similarity[0], 1)
    np.testing.assert_allclose(match.similarity[2], 1)
    assert np.isfinite(match.similarity[1]).tolist() == [False, True, False]
    assert np.isnan(match.similarity[3]).all()
    assert match.num_missing.tolist() == [0, 2, 0, 3]
    assert match.num_extra.tolist() == [0, 0, 1, 0]
    assert match_identities(people[:1], [people[[3]]]).similarity[0, 0] < 0.5, "a stranger is no absence"
    with pytest.raises(ValueError, match=r"embeddings \[1, 16\], the reference \[1, 32\]"):
        match_identities(people[:1], [np.zeros((1, 16))])


def photo(path):
    return cv2.imread(str(path))[:, :, ::-1].copy()


def test_two_people_are_matched_to_their_photos(shared):
    """Real faces: in a photo of two, each is found as whom a single photo shows."""
    backend, recognizer = DlibBackend(), load_recognition("dlib")
    references, people = [], ("biden", "obama")
    for person in people:
        image = photo(shared / f"testdata/photos/ids/{person}/1.jpg")
        face = [face for face in backend.detect(image) if face.score >= 0][:1]
        references += embed_faces(recognizer, torch.from_numpy(image).permute(2, 0, 1)[None], [face])
    both = photo(shared / "testdata/photos/multi/obama_biden.jpg")
    faces = [face for face in backend.detect(both) if face.score >= 0]
    frame = torch.from_numpy(both).permute(2, 0, 1)[None]
    found = embed_faces(recognizer, frame, [faces])
    assert [len(vectors) for vectors in found] == [2]
    match = match_identities(np.concatenate(references), found)
    assert (match.similarity > recognizer.identity_threshold).all()
    crossed = match_identities(np.concatenate(references[::-1]), found).similarity[0, ::-1]
    np.testing.assert_allclose(crossed, match.similarity[0])
    assert embed_faces(recognizer, frame, [[]])[0].shape == (0, 128)
