"""Identities: from the tracks of the samples to another picture of the same person."""

import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from portraitgen.data.catalog import Catalog
from portraitgen.data.identities import FacePlace, Identities
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import DataError, make_key
from portraitgen.data.shards import ShardWriter
from tests.synthetic import synthetic_clip


def jpeg(level):
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Two shards; Ann is in three samples and twice in one of them, Bob in two, Cy in one, others unnamed."""
    root = tmp_path_factory.mktemp("named")
    clip = synthetic_clip("x", num_frames=2, size=32)
    people = [["Bob"], ["Ann", None], [None], ["Ann", "Ann", "Bob"], ["Cy"], [None, "Ann"]]
    with ShardWriter(root, max_samples=4) as writer:
        for number, names in enumerate(people):
            tracks = tuple(
                replace(clip.tracks[0], identity_name=name, faces=(jpeg(10 * number + place), jpeg(200)))
                for place, name in enumerate(names)
            )
            writer.write(replace(clip, key=make_key(f"s{number}"), tracks=tracks))
    return Catalog(str(root / "shards" / "*.tar"))


def test_everybody_is_found_again(catalog):
    identities = Identities(catalog)
    assert len(catalog.shards) == 2
    assert identities.names == ["Ann", "Bob", "Cy"]
    assert identities.faces("Ann") == [(0, 1, 0), (0, 3, 0), (0, 3, 1), (1, 1, 1)]
    assert identities.faces("Bob") == [(0, 0, 0), (0, 3, 2)]
    assert identities.name_of(FacePlace(1, 1, 1)) == "Ann"
    assert identities.name_of(FacePlace(0, 1, 1)) is None
    with pytest.raises(ValueError, match="Dan"):
        identities.faces("Dan")


def test_another_picture_is_of_the_same_person_in_another_sample(catalog):
    identities = Identities(catalog)
    rng = np.random.default_rng(0)
    drawn = Counter(identities.another(FacePlace(0, 3, 0), rng) for _ in range(200))
    assert drawn.keys() == {(0, 1, 0), (1, 1, 1)}, "not the second Ann of the same picture"
    assert min(drawn.values()) > 60, "all alike"
    assert identities.another(FacePlace(1, 0, 0), rng) is None, "Cy is there once"
    assert identities.another(FacePlace(0, 2, 0), rng) is None, "nobody knows who it is"


def test_face_crops_are_read_by_their_place(catalog):
    reader = ClipReader(catalog)
    crop = reader.face_crop(1, 1, 1)
    assert crop.shape == (16, 16, 3)
    assert abs(crop.astype(int) - 51).max() <= 2
    assert reader.face_crop(1, 1, 1, rank=1).mean() > 190
    with pytest.raises(DataError, match="no crop 2 of the face of person 2"):
        reader.face_crop(1, 1, 1, rank=2)
    # The person is known to the sample itself too.
    assert [track.identity_name for track in reader.sample(0, 3).tracks] == ["Ann", "Ann", "Bob"]


def test_nobody_is_known_without_names(tmp_path):
    with ShardWriter(tmp_path) as writer:
        writer.write(synthetic_clip("x", num_frames=2, size=32))
    identities = Identities(Catalog(str(tmp_path / "shards" / "*.tar")))
    assert len(identities) == 0
    assert identities.name_of(FacePlace(0, 0, 0)) is None
