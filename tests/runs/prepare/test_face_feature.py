"""`prepare.py features 'features=[face]'`: one person's face in each, in frames apart, read back as it was
made.
"""

import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from torch import nn

from portraitgen.data.catalog import Catalog
from portraitgen.data.face_choice import FaceChoice
from portraitgen.data.features.reader import FeatureReader
from portraitgen.data.features.store import dtype_of
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import DataError
from portraitgen.data.shards import ShardWriter
from portraitgen.diffusion.image_condition import ReferenceNoise, stretched
from portraitgen.diffusion.video_latents import CogVideoXCodec
from portraitgen.faces.conditioner import FaceView, untrained_conditioner
from portraitgen.faces.key_point_drawing import draw_key_points
from portraitgen.faces.types import Face
from portraitgen.media.yuv import rgb_to_uint8, yuv420_to_rgb
from portraitgen.runs.prepare.features.face import FaceConditionFeature
from portraitgen.runs.prepare.features.face_latents import FaceLatents
from portraitgen.runs.train.check_features import check_features
from tests.data.modules import clip_module
from tests.synthetic import synthetic_clip
from tests.tiny_vae import tiny_cogvideox

WORDS = ["features=[face]", "face_condition@features.face.conditioner=untrained"]


def two_people(seed):
    """A clip whose second track is the drawn face mirrored in place: other key points, other boxes."""
    clip = synthetic_clip(f"clip{seed}", num_frames=40, size=64, seed=seed)
    (track,) = clip.tracks
    flip = np.array([64, 0], np.float32)
    points = np.abs(flip - track.keypoints)[:, [1, 0, 2, 4, 3]]
    boxes = np.abs(64 - track.boxes[:, [2, 1, 0, 3]])
    boxes[:, [1, 3]] = track.boxes[:, [1, 3]]
    other = replace(track, keypoints=points, boxes=boxes, landmarks=np.abs(flip - track.landmarks))
    return replace(clip, tracks=(track, other))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces") / "data"
    with ShardWriter(folder) as writer:
        for seed in range(2):
            writer.write(two_people(seed))
    return folder


def module(root, **settings):
    return clip_module(
        str(root / "shards" / "*.tar"), clip_frames=5, batch_size=2, samples_per_epoch=8, **settings
    )


def batches(root, **settings):
    data = module(root, **{"features": ["face"], **settings})
    return [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]


def picture_of(catalog, row, frame):
    planes = np.empty((1, 96, 64), np.uint8)
    ClipReader(catalog).frames(0, row, np.array([frame]), out=planes)
    return rgb_to_uint8(yuv420_to_rgb(torch.from_numpy(planes)))[0].movedim(0, -1).numpy()


def test_each_face_is_of_its_person_and_frame(run, root):
    assert run(f"out={root}", *WORDS)[-1].endswith(": 2 samples written")
    catalog = Catalog(str(root / "shards" / "*.tar"))
    feature, reader, conditioner = (
        FeatureReader(catalog, "face"),
        ClipReader(catalog),
        untrained_conditioner(),
    )
    for row in range(2):
        faces = feature.faces(0, row)
        assert np.bincount(faces[:, 0]).tolist() == [4, 4]
        for person in (0, 1):
            assert np.diff(faces[faces[:, 0] == person, 1]).min() >= 3, "apart, as far as 40 frames allow"
        for number, (person, frame) in enumerate(faces.tolist()):
            view = FaceView(
                picture_of(catalog, row, frame),
                reader.key_points(0, row, person, np.array([frame]))[0],
                reader.landmarks(0, row, person, np.array([frame]))[0],
                "ibug68",
            )
            expected, stored = conditioner([view]), feature.values(0, row, number)
            assert np.array_equal(stored["face_picture"], expected.picture[0].numpy())
            for name, value in (("embedding", expected.embedding), ("hidden", expected.hidden)):
                np.testing.assert_allclose(stored[f"face_{name}"], value[0].numpy(), rtol=2e-3, atol=2e-3)
            np.testing.assert_allclose(stored["face_key_points"], expected.key_points[0], atol=1e-3)
    assert "1 finished before" in run(f"out={root}", *WORDS)[0]
    facts = json.loads(next(iter((root / "aux").glob("face@*/feature.json"))).read_text())
    assert facts["identity"]["masks"] == "landmarks"


def test_a_batch_holds_a_face_of_the_windows_person(run, root):
    run(f"out={root}", *WORDS)
    catalog = Catalog(str(root / "shards" / "*.tar"))
    feature = FeatureReader(catalog, "face")
    keys = [catalog.indexes[0].key(row) for row in range(2)]
    for batch in batches(root, key_points=True):
        assert batch["face_picture"].shape == (2, 3, 512, 512)
        assert batch["face_picture"].dtype == torch.float32
        assert batch["face_picture"].amax() == 1
        assert batch["face_hidden"].shape == (2, 5, 17, 32)
        assert batch["face_hidden"].dtype == torch.float32
        for slot, key in enumerate(batch["key"]):
            row = keys.index(key)
            faces, values = feature.faces(0, row), feature.values(0, row, slice(None))
            same = [np.array_equal(each, batch["face_embedding"][slot]) for each in values["face_embedding"]]
            (number,) = np.flatnonzero(same)
            assert faces[number, 1] == batch["face_index"][slot]
            frame = int(batch["frame_index"][slot, 0])
            people = [ClipReader(catalog).key_points(0, row, p, np.array([frame]))[0, 2] for p in (0, 1)]
            shown = batch["key_points"][slot, 0, 2].numpy()
            assert np.abs(people - shown).max(axis=1).argmin() == faces[number, 0]


def test_a_loader_resumes_with_the_same_faces(run, root):
    run(f"out={root}", *WORDS)
    first, again = (batches(root, cross_face=0.5) for _ in range(2))
    assert all(
        torch.equal(a[k], b[k]) for a, b in zip(first, again, strict=True) for k in a if k.startswith("face_")
    )


def test_faces_from_elsewhere_are_as_frequent_as_asked():
    faces = np.array([[0, frame] for frame in range(0, 100, 5)] + [[1, 50]])
    frames, rng = np.arange(40, 60), np.random.default_rng(0)
    for cross, low, high in ((0.0, 0, 0), (1.0, 1, 1), (0.5, 0.4, 0.6)):
        chosen = [FaceChoice(cross).choose(faces, 0, frames, rng) for _ in range(300)]
        outside = np.mean([not 40 <= faces[number, 1] < 60 for number in chosen])
        assert low <= outside <= high
        assert (faces[chosen, 0] == 0).all()
    assert FaceChoice(1.0).choose(faces, 1, frames, rng) == 20, "there is no other"
    assert FaceChoice(0.0).choose(faces, 0, np.arange(101, 110), rng) == 19, "the nearest"
    with pytest.raises(DataError, match="no face of person 3"):
        FaceChoice().choose(faces, 2, frames, rng)
    with pytest.raises(DataError, match=r"data.examples.cross_face=1.5: give a probability"):
        FaceChoice(1.5)


class Finds:
    """A face backend that sees two drawn faces."""

    name, landmark_scheme, min_score = "finds", "ibug68", 0.0

    def __init__(self, clip):
        self.clip = clip

    def detect(self, image, *, embed=False):
        tracks = self.clip.tracks
        return [Face(t.boxes[0], 1.0, t.landmarks[0], t.keypoints[0]) for t in tracks]


def test_without_key_points_the_backend_finds_the_person(tmp_path):
    """Clips of ConsisID that were imported without landmarks; whose face it is, the boxes say."""
    clip = two_people(0)
    nothing = {
        "keypoints": np.full((40, 5, 2), np.nan, np.float32),
        "landmarks": np.zeros((40, 0, 2), np.float32),
    }
    bare = replace(clip, tracks=tuple(replace(t, **nothing) for t in clip.tracks), landmark_scheme="none")
    feature = FaceConditionFeature(untrained_conditioner(), Finds(clip), per_person=1)
    found = feature(bare)
    boxes = [clip.tracks[person].boxes[0] for person in (0, 1)]
    for (person, frame), value in zip(found.faces.tolist(), found.values, strict=True):
        shown = [bare.tracks[person].boxes[frame] - box for box in boxes]
        assert np.abs(shown).sum(axis=1).argmin() == person
        assert np.isfinite(value["face_key_points"]).all()
    with pytest.raises(DataError, match=r"import the clips with landmarks=true, or set features.face.faces"):
        FaceConditionFeature(untrained_conditioner(), None)(bare)


@pytest.fixture(scope="module")
def video_vae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video_vae")
    tiny_cogvideox(scaling_factor=0.7, invert_scale_latents=True).save_pretrained(folder)
    return folder


class Model(nn.Module):
    """What training looks at of a model."""

    def __init__(self, codec, noise):
        super().__init__()
        self.codec, self.reference_noise = codec, noise


def test_latents_of_noised_pictures(run, root, video_vae):
    """Each version is the picture with noise of its own, as the codec encodes conditions."""
    words = [*WORDS, f"features.face.latents.model={video_vae}", "features.face.latents.versions=3"]
    run(f"out={root}", *words, "features.face.latents.std=0.1", "features.face.latents.key_points=true")
    shards, name = str(root / "shards" / "*.tar"), newest(root)
    catalog = Catalog(shards)
    feature = FeatureReader(catalog, name)
    codec = CogVideoXCodec(AutoencoderKLCogVideoX.from_pretrained(video_vae))
    stored = feature.values(0, 0, slice(None))
    packed = torch.from_numpy(stored["face_latent_distribution"].astype(np.float32))
    assert packed.shape == (8, 3, 2, 2, 4, 8, 8)
    drawn = draw_key_points(stored["face_key_points"][2], (512, 512))
    person, frame = feature.faces(0, 0)[2].tolist()
    noise = ReferenceNoise(std=0.1)
    for number, levels in enumerate((stored["face_picture"][2].copy(), drawn)):
        shown = torch.from_numpy(levels).movedim(-1, 0)[None].float() / 127.5 - 1
        source = f"{catalog.indexes[0].key(0)} {person} {frame} {number}"
        draws = torch.Generator().manual_seed(zlib.crc32(source.encode()))
        noised = noise(stretched(shown, (64, 64)).expand(3, -1, -1, -1), generator=draws)
        found = codec.image_posterior(noised)
        torch.testing.assert_close(packed[2, :, number, 0], found.mean[:, 0], atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(packed[2, :, number, 1], found.std[:, 0], atol=2e-3, rtol=2e-3)
    assert not torch.equal(packed[2, 0, 0], packed[2, 1, 0])
    for batch in batches(root, features=[name]):
        assert batch["face_latent_distribution"].shape == (2, 3, 2, 2, 4, 8, 8)

    check_features(Catalog(shards), [name], Model(codec, noise))
    check_features(Catalog(shards), [name], Model(codec, None))
    with pytest.raises(DataError, match=r"noise of mean -3.0 and std 0.1, and model.reference_noise has -3"):
        check_features(Catalog(shards), [name], Model(codec, ReferenceNoise()))
    torch.manual_seed(1)
    other = CogVideoXCodec(AutoencoderKLCogVideoX.from_config(codec.vae.config))
    with pytest.raises(DataError, match=r"face@\w{8} are not what this model's codec makes \(of clip0-0"):
        check_features(Catalog(shards), [name], Model(other, noise))

    run(f"out={root}", *words)
    assert newest(root) != name, "other noise is another feature"
    with pytest.raises(ValueError, match=r"features\.face\.latents\.versions=0: give at least 1"):
        FaceLatents(versions=0)


def newest(root):
    return max((root / "aux").glob("face@*"), key=lambda folder: folder.stat().st_mtime_ns).name


def test_objects_are_no_dtype():
    with pytest.raises(DataError, match="objects are not read"):
        dtype_of('[["face_embedding", "|O", []]]')
    assert dtype_of('[["a", "<f2", [3]]]')["a"].shape == (3,)
