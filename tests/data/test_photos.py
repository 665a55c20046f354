"""Photos as examples: what is shown, who is in it, and that everything lies where the picture has it."""

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from portraitgen.data.catalog import Catalog
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import DataError
from portraitgen.data.shards import ShardWriter
from portraitgen.faces.templates import ARCFACE, upright_crop
from portraitgen.media.masks import hull_mask
from tests.data.modules import photo_module
from tests.data.photos import Person, photo
from tests.synthetic import synthetic_clip

PEOPLE = [Person(40, 30, 120, seed=3, name="Ann"), Person(190, 60, 80, seed=4, name="Bob")]
OTHERS = [Person(10, 20, 160, seed=5, name="Ann")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A group, a portrait of one of them, and somebody whom nobody knows, far away and without a crop."""
    folder = tmp_path_factory.mktemp("photos")
    with ShardWriter(folder) as writer:
        writer.write(photo("group", (240, 320), PEOPLE, seed=1, caption="two people", masks=True))
        writer.write(photo("ann", (320, 180), OTHERS, seed=2, caption="Ann", masks=True))
        alone = [Person(400, 300, 160, seed=6)]
        writer.write(photo("alone", (640, 800), alone, seed=3, crops=False, masks=True))
    return folder


def shards(root) -> str:
    return str(root / "shards" / "*.tar")


def batches(root, count: int = 12, **settings) -> list[dict]:
    settings = {"batch_size": 1, "samples_per_epoch": count, "people": 2, **settings}
    return list(photo_module(shards(root), **settings).train_dataloader())


def by_key(root, **settings) -> dict[str, dict]:
    return {batch["key"][0].partition("-")[0]: batch for batch in batches(root, **settings)}


def difference(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left.astype(float) - right.astype(float)).mean())


@pytest.mark.parametrize("size", [[96, 96], [128, 96], [96, 160]])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_everything_lies_where_the_picture_has_it(root, size, flip):
    seen = by_key(root, size=size, flip=flip, landmarks=True, masks="face", faces=112)
    assert seen.keys() == {"group", "ann", "alone"}
    for batch in seen.values():
        image = batch["image"][0].numpy()
        assert image.shape == (*size, 3)
        for slot in np.flatnonzero(batch["people"][0]).tolist():
            key_points, box = batch["key_points"][0, slot].numpy(), batch["boxes"][0, slot].numpy()
            landmarks, mask = batch["landmarks"][0, slot].numpy(), batch["masks"][0, slot].numpy()
            left_eye, right_eye, _, left_mouth, right_mouth = key_points[:, 0]
            assert left_eye < right_eye
            assert left_mouth < right_mouth
            assert landmarks[36, 0] < landmarks[45, 0], "left is left in the picture"
            np.testing.assert_allclose(landmarks[36:42].mean(axis=0), key_points[0], atol=0.2)
            # The box is that of the landmarks in these drawings, the face cut out here the one in the shard.
            found = np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)])
            np.testing.assert_allclose(box, found, atol=1e-3)
            cut = upright_crop(image, key_points, ARCFACE)
            within = upright_crop(np.full_like(image, 255), key_points, ARCFACE) == 255
            assert difference(cut[within], batch["faces"][0, slot].numpy()[within]) < 12
            hull = hull_mask(landmarks, tuple(size))
            assert (mask & hull).sum() > 0.95 * hull.sum()
            assert mask.sum() < 3 * hull.sum() + 60


def test_a_mirrored_photo_is_the_mirror_image(root):
    plain, mirrored = (by_key(root, size=96, flip=flip, masks="face", faces=112) for flip in (0.0, 1.0))
    for key, batch in plain.items():
        other = mirrored[key]
        for name in ("image", "faces"):
            assert torch.equal(batch[name].flip(-2), other[name])
        assert torch.equal(batch["masks"].flip(-1), other["masks"])
        people = batch["people"]
        turned = 96 - other["boxes"][..., [2, 0]]
        torch.testing.assert_close(batch["boxes"][..., [0, 2]][people], turned[people])


def test_flips_are_drawn(root):
    images = {batch["image"].numpy().tobytes() for batch in batches(root, 60, size=96, flip=0.5)}
    assert len(images) == 6


def test_a_photo_is_framed_without_being_squashed_and_faces_stay(root):
    seen = by_key(root, size=[96, 96])
    assert seen["group"]["people"].tolist() == [[True, True]], "both fit into the square"
    assert seen["ann"]["people"].tolist() == [[True, False]]
    assert not seen["ann"]["boxes"][0, 1].any(), "a place without anybody is 0"
    narrow = by_key(root, size=[160, 64])["group"]
    assert narrow["people"].tolist() == [[True, False]], "only one fits: the larger"
    reader = ClipReader(Catalog(shards(root)))
    boxes, key_points = reader.people(0, 0)
    eyes = np.linalg.norm(key_points[0, 0] - key_points[0, 1]) / (boxes[0, 3] - boxes[0, 1])
    for batch in (seen["group"], narrow):
        shown, box = batch["key_points"][0, 0].numpy(), batch["boxes"][0, 0].numpy()
        assert np.linalg.norm(shown[0] - shown[1]) / (box[3] - box[1]) == pytest.approx(eyes, rel=0.02)


def test_the_largest_faces_get_the_places(root):
    group = by_key(root, size=96, people=1, identities=True)["group"]
    assert group["identity_name"] == [["Ann"]]
    assert group["boxes"].shape == (1, 1, 4)


def test_a_large_photo_is_reduced_while_it_is_decoded(root, monkeypatch):
    """What is shown is what decoding all of it and shrinking it gives."""
    asked = []
    read = ClipReader.photo
    monkeypatch.setattr(
        ClipReader, "photo", lambda *place, reduced=1: asked.append(reduced) or read(*place, reduced=reduced)
    )
    alone = by_key(root, size=[80, 96])["alone"]
    assert 8 in asked
    monkeypatch.setattr(ClipReader, "photo", read)
    whole = ClipReader(Catalog(shards(root))).photo(0, 2)[:, :, ::-1]
    # 640 x 800 is shown as 640 x 768 with the face in its middle: from column 32 on at most.
    best = min(
        difference(
            np.asarray(Image.fromarray(whole[:, x : x + 768]).resize((96, 80), Image.Resampling.BOX)),
            alone["image"][0].numpy(),
        )
        for x in range(0, 33, 4)
    )
    assert best < 1


def test_another_photo_of_the_same_person(root):
    settings = {"size": 96, "faces": 112, "identities": True}
    seen = by_key(root, other=1.0, **settings)
    assert seen["group"]["identity_name"] == [["Ann", "Bob"]]
    assert seen["alone"]["identity_name"] == [["", ""]]
    assert seen["group"]["other_found"].tolist() == [[True, False]], "Bob is there once"
    assert seen["ann"]["other_found"].tolist() == [[True, False]]
    assert not seen["alone"]["other_found"].any()
    assert torch.equal(seen["group"]["other"][0, 0], seen["ann"]["faces"][0, 0])
    assert torch.equal(seen["ann"]["other"][0, 0], seen["group"]["faces"][0, 0])
    assert not seen["group"]["other"][0, 1].any()
    drawn = [batch["other_found"][0, 0].item() for batch in batches(root, 300, other=0.3, **settings)]
    assert 0.12 < np.mean(drawn) < 0.28, "0.3 of the two photos in three that show Ann"


def test_others_are_only_of_the_photos_that_are_used(root):
    seen = by_key(root, size=96, faces=112, other=1.0, filters={"num_faces": [2, None]})
    assert seen.keys() == {"group"}
    assert not seen["group"]["other_found"].any()


def test_captions_and_what_lacks_them(root, caplog):
    with caplog.at_level("INFO"):
        seen = by_key(root, size=96, captions=True)
    assert {key: batch["caption"] for key, batch in seen.items()} == {"group": ["two people"], "ann": ["Ann"]}
    assert "2 of 3 samples" in caplog.text
    assert "left out: 1 without a caption" in caplog.text


def test_systems_see_floats(root):
    module = photo_module(
        shards(root), batch_size=2, people=2, size=[96, 64], faces=112, other=1.0, masks="face", flip=0.5
    )
    batch = module.on_after_batch_transfer(next(iter(module.train_dataloader())), 0)
    shapes = {name: (tuple(v.shape), v.dtype) for name, v in batch.items() if isinstance(v, torch.Tensor)}
    assert shapes == {
        "image": ((2, 3, 96, 64), torch.float32),
        "people": ((2, 2), torch.bool),
        "boxes": ((2, 2, 4), torch.float32),
        "key_points": ((2, 2, 5, 2), torch.float32),
        "masks": ((2, 2, 1, 96, 64), torch.float32),
        "faces": ((2, 2, 3, 112, 112), torch.float32),
        "other": ((2, 2, 3, 112, 112), torch.float32),
        "other_found": ((2, 2), torch.bool),
    }
    assert batch["image"].min() >= -1
    assert batch["image"].max() <= 1
    assert batch["image"].std() > 0.1


def test_a_batch_is_of_one_bucket(root, caplog):
    module = photo_module(shards(root), batch_size=2, samples_per_epoch=40, buckets=[[96, 64], [64, 96]])
    shapes = []
    for batch in module.train_dataloader():
        shapes.append(tuple(batch["image"].shape[1:3]))
        upright = {key.startswith("ann") for key in batch["key"]}
        assert upright == {shapes[-1] == (96, 64)}
    assert 3 < shapes.count((96, 64)) < 11, "as often as its photos are among all"
    assert "1 of 2 buckets hold fewer samples than a batch of 2" in caplog.text


def test_grading_sees_all_buckets_and_mirrors_nothing(root):
    settings = {
        "size": None,
        "buckets": [[96, 64], [64, 96]],
        "flip": 1.0,
        "val_span": (0, 1),
        "val_samples": 3,
    }
    module = photo_module(shards(root), batch_size=2, **settings)
    whole = list(module.val_dataloader())
    assert [tuple(batch["image"].shape[:3]) for batch in whole] == [(1, 96, 64), (2, 64, 96)]
    plain = photo_module(shards(root), batch_size=2, **{**settings, "flip": 0.0}).val_dataloader()
    for graded, unturned in zip(whole, plain, strict=True):
        assert torch.equal(graded["image"], unturned["image"])
    ranks = [[b["key"] for b in module.val_stream(rank=rank, world_size=2)] for rank in range(2)]
    assert [len(rank) for rank in ranks] == [2, 2], "equally many batches"
    assert {key for rank in ranks for keys in rank for key in keys} == {k for b in whole for k in b["key"]}


def test_spans_are_shares_of_the_photos(tmp_path):
    with ShardWriter(tmp_path, max_samples=3) as writer:
        for number in range(10):
            writer.write(photo(f"p{number}", (64, 64), [Person(0, 0, 64)]))
    module = photo_module(shards(tmp_path), batch_size=1, size=32, train_span=(0, 0.75), val_span=(0.75, 1))
    trained = {int(batch["key"][0][1]) for batch in module.train_dataloader()}
    graded = {int(batch["key"][0][1]) for batch in module.val_dataloader()}
    assert (trained, graded) == (set(range(8)), {8, 9})


def test_clips_among_the_photos_are_left_out(tmp_path):
    with ShardWriter(tmp_path) as writer:
        writer.write(synthetic_clip("clip", num_frames=14, size=64))
        writer.write(photo("photo", (64, 64), [Person(0, 0, 64)]))
    seen = by_key(tmp_path, size=32)
    assert seen.keys() == {"photo"}
    with ShardWriter(tmp_path / "clips") as writer:
        writer.write(synthetic_clip("clip", num_frames=14, size=64))
    with pytest.raises(DataError, match="none of 1 samples is a photo"):
        by_key(tmp_path / "clips", size=32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either size or buckets"),
        ({"size": 64, "buckets": [[64, 64]]}, "either size or buckets"),
        ({"size": [64, 60]}, r"size=\[64, 60\]: give multiples of 8"),
        ({"size": [64, 64, 64]}, "size must be a side or a pair"),
        ({"buckets": [[64, 64], [64, 64]]}, "each once"),
        ({"buckets": {"area": 512}}, "give side"),
        ({"buckets": {"side": 512, "step": 60}}, "step=60"),
        ({"size": 64, "people": 0}, "people=0"),
        ({"size": 64, "flip": 2}, "flip=2: give a probability"),
        ({"size": 64, "faces": 100}, "faces=100: give a multiple of 112"),
        ({"size": 64, "other": 0.1}, "other=0.1: needs the side"),
        ({"size": 64, "masks": "hair"}, "masks=hair: give one of"),
        ({"size": 64, "enlarge": 0}, "enlarge=0"),
        ({"size": 512, "enlarge": 0.5}, "every one of 3 photos would be enlarged more"),
        ({"size": 64, "train_span": (0, 0.1)}, "holds none of 3 photos"),
        ({"size": 64, "masks": "head"}, "none of 3 samples has masks of the head"),
    ],
)
def test_what_cannot_be_is_named(root, settings, message):
    with pytest.raises(DataError, match=message):
        batches(root, **settings)


def test_photos_that_are_too_small_are_left_out(root, caplog):
    with caplog.at_level("INFO"):
        seen = by_key(root, size=320, enlarge=1.4)
    assert seen.keys() == {"group", "alone"}
    assert "1 without the size" in caplog.text


def test_crops_are_cut_out_where_the_shard_has_none(root, tmp_path):
    with ShardWriter(tmp_path) as writer:
        writer.write(photo("group", (240, 320), PEOPLE, seed=1, crops=False))
    cut = by_key(tmp_path, size=96, faces=112)["group"]["faces"]
    stored = by_key(root, size=96, faces=112)["group"]["faces"]
    assert difference(cut.numpy(), stored.numpy()) < 6
    larger = by_key(root, size=96, faces=224)["group"]["faces"][0, 0].numpy()
    reader = ClipReader(Catalog(shards(root)))
    np.testing.assert_array_equal(larger, reader.face_crop(0, 0, 0))
    assert Image.open(io.BytesIO(reader.sample(0, 0).tracks[0].faces[0])).size == (224, 224)


def test_buckets_of_one_area():
    from portraitgen.data.sizes import make_buckets, nearest_bucket

    buckets = make_buckets(512, step=64, max_aspect=2)
    assert (512, 512) in buckets
    assert all(height % 64 == width % 64 == 0 for height, width in buckets)
    assert all(0.8 * 512**2 < height * width <= 512**2 for height, width in buckets)
    assert all(max(size) <= 2 * min(size) for size in buckets)
    assert all(left[1] < right[1] for left, right in pairwise(buckets))
    sizes = np.array([[1000, 1000], [1024, 700], [400, 900], [300, 3000]])
    chosen = [buckets[number] for number in nearest_bucket(sizes, buckets)]
    assert chosen[0] == (512, 512)
    assert chosen[1][0] > chosen[1][1]
    assert chosen[2] == chosen[3] == buckets[-1]
