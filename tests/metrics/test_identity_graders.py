"""Identity of real faces through the graders, and what they say where there is nothing to say."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from portraitgen.faces.dlib import DlibBackend
from portraitgen.faces.insightface import InsightFaceBackend
from portraitgen.metrics.face_crops import upright_faces
from portraitgen.metrics.grader import ClipGrader, GradedClip, MissingWeights
from portraitgen.metrics.graders.consisid import ConsisIDFaceDistanceGrader, ConsisIDFaceSimGrader
from portraitgen.metrics.graders.identity import IdentityGrader
from portraitgen.metrics.networks.inception_torchvision import TorchvisionInception
from portraitgen.metrics.one_pass import grade_clip
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.scores import GENERATED

BACKEND = DlibBackend()


def pictures(shared, *names, size=None):
    frames = [cv2.imread(str(shared / f"testdata/photos/{name}"))[:, :, ::-1] for name in names]
    if size is not None:
        frames = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    return Pictures(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), BACKEND, name="photos")


def clip(shown, reference):
    return GradedClip(
        video="v",
        method=GENERATED,
        pictures=shown,
        truth=None,
        reference=reference,
        driving=None,
        fps=25.0,
        audio=None,
        prompt=None,
    )


@pytest.fixture(scope="module")
def obama(shared):
    """The same man, the same man again, another man, a llama."""
    names = ("ids/obama/1.jpg", "ids/obama/2.jpg", "ids/kit/3.jpg", "negative/llama.jpg")
    return pictures(shared, *names, size=(400, 500))


@pytest.mark.parametrize("recognizer", ["dlib", "backend"])
def test_the_same_person_is_more_alike_than_another(shared, obama, recognizer):
    grader = IdentityGrader(recognizer, frames=None)
    assert isinstance(grader, ClipGrader)
    grades = grade_clip(grader, clip(obama, pictures(shared, "ids/obama/1.jpg", size=(400, 500))))
    same, other_photo, other_man, llama = grades.scores[f"identity_{recognizer}"]
    assert same == pytest.approx(1, abs=1e-6)
    assert same > other_photo > 0.914 > other_man
    assert np.isnan(llama)
    assert grades.reasons == {f"identity_{recognizer}": "no face found in 1 of 4 frames"}


def test_a_clip_is_the_mean_over_sampled_frames_with_a_face(shared, obama):
    reference = pictures(shared, "ids/obama/1.jpg", size=(400, 500))
    every = grade_clip(IdentityGrader("dlib", frames=None), clip(obama, reference)).scores["identity_dlib"]
    grader = IdentityGrader("dlib", frames=16)
    assert grader.metrics["identity_dlib"].level == "clip"
    sampled = grade_clip(grader, clip(obama, reference))
    # Of 4 frames, numpy's rounding down takes the first three 5 times each and the last once.
    assert float(sampled.scores["identity_dlib"]) == pytest.approx(np.nanmean(every), rel=1e-6)
    assert sampled.reasons == {}
    # The llama is one of the 16: 15 frames have a face, and that is said.
    assert sampled.scores["identity_dlib_faces"] == 15 / 16
    llamas = pictures(shared, "negative/llama.jpg")
    nobody = grade_clip(grader, clip(llamas, reference))
    assert np.isnan(nobody.scores["identity_dlib"])
    assert nobody.scores["identity_dlib_faces"] == 0
    assert nobody.reasons["identity_dlib"] == "no face found in 16 of 16 frames"
    for unknown, why in ((llamas, "no face found in the reference"), (None, "no reference picture")):
        grades = grade_clip(grader, clip(obama, unknown))
        assert np.isnan(grades.scores["identity_dlib"])
        assert why in grades.reasons["identity_dlib"]


def test_against_the_truth_each_frame_has_its_own_measure(shared, obama):
    grader = IdentityGrader("dlib", frames=None, against="truth")
    itself = grade_clip(grader, replace(clip(obama, None), truth=obama))
    np.testing.assert_allclose(itself.scores["identity_dlib_truth"][:3], 1, atol=1e-6)
    assert itself.reasons == {"identity_dlib_truth": "no face found in 1 of 4 frames or true frames"}
    turned = Pictures(obama.frames.tensor[[1, 2, 0, 3]], BACKEND, name="turned round")
    other_photo, other_man, *_ = grade_clip(
        grader, replace(clip(turned, None), truth=obama)
    ).scores.popitem()[1]
    assert 1 > other_photo > 0.914 > other_man
    assert grade_clip(grader, clip(obama, None)).reasons == {
        "identity_dlib_truth": "no true frames are given"
    }
    with pytest.raises(ValueError, match="people=all"):
        IdentityGrader("dlib", people="all", against="truth")


def test_several_people_are_matched_and_counted(shared):
    grader = IdentityGrader("dlib", frames=None, people="all")
    both = pictures(shared, "multi/obama_biden.jpg")
    swapped = Pictures(both.frames.tensor.flip(-1), BACKEND, name="mirrored")
    grades = grade_clip(grader, clip(swapped, both))
    assert grades.scores["identity_dlib"][0] > 0.914
    assert grades.scores["identity_dlib_worst"][0] > 0.914
    assert (
        grades.scores["identity_dlib_faces_missing"].tolist()
        == grades.scores["identity_dlib_faces_extra"].tolist()
        == [0]
    )
    alone = grade_clip(grader, clip(both, pictures(shared, "ids/biden/1.jpg")))
    assert alone.scores["identity_dlib_faces_extra"].tolist() == [1]
    assert alone.scores["identity_dlib"][0] > 0.914, "the one who is like him is taken"
    lost = grade_clip(grader, clip(pictures(shared, "ids/biden/1.jpg"), both))
    assert lost.scores["identity_dlib_faces_missing"].tolist() == [1]


def test_of_several_photos_the_largest_face_of_each_is_a_person(shared):
    both = pictures(shared, "multi/obama_biden.jpg")
    given = tuple(pictures(shared, f"ids/{name}/1.jpg") for name in ("obama", "biden"))
    grader = IdentityGrader("dlib", frames=None, people="all")
    alone = clip(both, None)
    grades = grade_clip(grader, replace(alone, people=given))
    assert grades.scores["identity_dlib_worst"][0] > 0.914
    assert grades.scores["identity_dlib_faces_missing"].tolist() == [0]
    group = grade_clip(grader, replace(alone, people=(both, given[0])))
    assert group.scores["identity_dlib_faces_extra"].tolist() == [0], "a photo is of one person"
    llama = grade_clip(grader, replace(alone, people=(given[0], pictures(shared, "negative/llama.jpg"))))
    assert llama.reasons["identity_dlib"] == "no face found in photo 2"
    one = grade_clip(IdentityGrader("dlib", frames=None), replace(alone, people=given))
    assert one.reasons["identity_dlib"] == "several people were given: set people=all"


def test_missing_weights_name_file_source_licence_and_setting(shared, tmp_path):
    with pytest.raises(
        MissingWeights, match=r"weights is not set; fetch glint.*Apache-2.0\) and set weights"
    ):
        IdentityGrader("curricularface")
    with pytest.raises(MissingWeights, match=r"weights=.*none.pth: no such file; fetch backbone.pth"):
        IdentityGrader("arcface", weights=str(tmp_path / "none.pth"))
    with pytest.raises(ValueError, match="people must be 'largest' or 'all', got 'both'"):
        IdentityGrader("dlib", people="both")
    facts = IdentityGrader("dlib").facts
    assert facts["weights"] == "dlib_face_recognition_resnet_model_v1.dat"
    assert str(facts["weights sha256"]).startswith("55533b28")


def test_consisid_looks_again_with_grey_borders(shared):
    weights = str(shared / "testdata/models/mobileface_v2_256.safetensors")
    grader = ConsisIDFaceSimGrader("mobileface", weights=weights)
    reference = pictures(shared, "ids/obama/1.jpg")
    grades = grade_clip(grader, clip(pictures(shared, "ids/obama/2.jpg"), reference))
    assert float(grades.scores["consisid_compat_facesim_mobileface"]) > 0.4
    face = reference.faces[0][0]
    left, top, right, bottom = (face.box + [40, 40, -40, -40]).astype(int)
    tight = Pictures(reference.frames.tensor[..., top:bottom, left:right], BACKEND, name="tight")
    assert not tight.faces[0]
    grades = grade_clip(grader, clip(tight, reference))
    assert float(grades.scores["consisid_compat_facesim_mobileface"]) > 0.44
    stranger = grade_clip(grader, clip(pictures(shared, "negative/no_face.png"), reference))
    assert np.isnan(stranger.scores["consisid_compat_facesim_mobileface"])


def test_the_backends_own_embedding_has_its_own_size(shared, obama):
    """insightface's pack brings its ArcFace with it; random weights here, so only what goes where is seen."""
    backend = InsightFaceBackend(str(shared / "testdata/models/stub_buffalo/models/buffalo_l"), min_score=0.0)
    found = Pictures(obama.frames.tensor[:2], backend, name="photos")
    grades = grade_clip(IdentityGrader("backend", frames=None), clip(found, found))
    faces = [len(faces) for faces in found.faces]
    score = grades.scores["identity_backend"]
    assert [np.isfinite(value) for value in score] == [count > 0 for count in faces]
    if faces[0]:
        assert score[0] == pytest.approx(1, abs=1e-5)


def test_consisids_fid_is_a_distance_of_faces_and_missing_without_any(
    shared, obama, key_seeded, tmp_path, monkeypatch
):
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in TorchvisionInception().state_dict().items()}
    # Convolutions doubled, or the features die out.
    tensors = {n: 2 * t if ".conv." in n else t for n, t in key_seeded(shapes).items()}
    torch.save(tensors, tmp_path / "inception_v3_google.pth")
    grader = ConsisIDFaceDistanceGrader(str(tmp_path / "inception_v3_google.pth"))
    name = "consisid_compat_face_inception_l2"
    # 17 faces through a network of this size take seconds: three frames say the same.
    monkeypatch.setattr("portraitgen.metrics.graders.consisid.spread_frames", lambda count: np.arange(count))
    man = Pictures(obama.frames.tensor[:1], BACKEND, name="him")
    # Another man, and a llama, which is left out.
    grades = grade_clip(grader, clip(Pictures(obama.frames.tensor[[0, 2, 3]], BACKEND, name="shown"), man))
    features = [grader.network(upright_faces(obama.frames.tensor[[i]], [obama.faces[i][0]])) for i in (0, 2)]
    expected = (features[0] - features[1]).square().sum() / 2
    assert float(grades.scores[name]) == pytest.approx(float(expected), rel=1e-4)
    assert float(expected) > 1
    assert grades.reasons == {}
    llama = Pictures(obama.frames.tensor[3:], BACKEND, name="llama")
    nobody = grade_clip(grader, clip(llama, man))
    assert np.isnan(nobody.scores[name])
    assert nobody.reasons == {name: "no face found in 16 of 16 frames"}
    assert "reference" in grade_clip(grader, clip(man, llama)).reasons[name]
    with pytest.raises(MissingWeights, match=r"fetch inception_v3_google-0cc3c7bd.pth.*BSD-3-Clause"):
        ConsisIDFaceDistanceGrader()
