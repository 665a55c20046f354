"""Known people: recognised in their other photos, in groups, and nobody else taken for them."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from portraitgen.data.prepare.gallery import Gallery, find_people, people_digest, read_gallery
from portraitgen.data.prepare.photo import prepare_photo
from portraitgen.data.prepare.sources import find_sources
from portraitgen.faces.dlib import DlibBackend
from tests.data.prepare.small_settings import small_settings
from tests.synthetic import synthetic_clip

BACKEND = DlibBackend(min_score=0.15)
SETTINGS = small_settings(photo_size=1024)


@pytest.fixture(scope="module")
def gallery(shared, tmp_path_factory):
    """Everybody's first photo but two: of whom there are only two, the first."""
    folder = tmp_path_factory.mktemp("people")
    for person in (shared / "testdata" / "photos" / "ids").iterdir():
        photos = sorted(person.iterdir())
        (folder / person.name).mkdir()
        for photo in photos[: max(len(photos) - 2, 1)]:
            shutil.copy(photo, folder / person.name)
    return read_gallery(find_people(str(folder)), BACKEND)


def names_in(gallery, path):
    (source,) = find_sources(str(path))
    sample = gallery(prepare_photo(source, BACKEND, SETTINGS))
    return [track.identity_name for track in sample.tracks], sample


def test_known_people_match_their_other_photos_and_nobody_else(gallery, shared):
    photos = shared / "testdata" / "photos"
    assert sorted(gallery.names) == ["alex", "biden", "kit", "obama"]
    for name, numbers in {"alex": [2], "biden": [2], "kit": [2, 3], "obama": [3, 4]}.items():
        for number in numbers:
            assert names_in(gallery, photos / "ids" / name / f"{number}.jpg")[0] == [name]
    for name in ("astronaut.png", "ffhq_0100.jpg", "ffhq_0293.jpg", "ffhq_0381.jpg", "left_profile.jpg"):
        assert names_in(gallery, photos / "single" / name)[0] == [None], name


def test_everybody_in_a_group_is_recognised_or_left_alone(gallery, shared):
    multi = shared / "testdata" / "photos" / "multi"
    for name in ("obama_biden.jpg", "obama_biden_2.jpg"):
        names, sample = names_in(gallery, multi / name)
        assert {name for name in names if name} == {"obama", "biden"}
        assert len([name for name in names if name]) == 2, "a bystander is nobody"
        # Obama stands to the left of Biden in the one photo, to the right in the other.
        x = {name: track.boxes[0, 0] for name, track in zip(names, sample.tracks, strict=True)}
        assert (x["obama"] < x["biden"]) == (name == "obama_biden.jpg")
    assert names_in(gallery, multi / "six_faces.jpg")[0] == [None] * 6


def people(*vectors):
    vectors = np.array(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_nobody_is_in_a_picture_twice():
    gallery = Gallery(("ann", "bob"), people([1, 0, 0], [0, 1, 0]), threshold=0.6)
    assert gallery.name_faces(people([1, 0.1, 0], [1, 0, 0], [0, 0, 1])) == [None, "ann", None]
    # Both would be Ann, one could also be Bob.
    assert gallery.name_faces(people([1, 0, 0.1], [1, 0.95, 0])) == ["ann", "bob"]


def test_labels_stay_where_nobody_is_recognised():
    gallery = Gallery(("ann",), people([1, 0]), threshold=0.9)
    clip = synthetic_clip("x", num_frames=2, size=32)

    def named(*tracks):
        labelled = tuple(
            replace(clip.tracks[0], embedding=people(vector)[0], identity_name=label)
            for vector, label in tracks
        )
        return [track.identity_name for track in gallery(replace(clip, tracks=labelled)).tracks]

    assert named(([0, 1], "bob"), ([1, 0], None)) == ["bob", "ann"]
    assert named(([0, 1], "ann"), ([1, 0], None)) == [None, "ann"], "the label was of the other one"
    assert named(([1, 0], "bob")) == ["ann"]
    assert gallery(clip) is clip, "without embeddings nobody is recognised"


def test_a_person_needs_a_face(shared, tmp_path, caplog):
    ids = shared / "testdata" / "photos" / "ids"
    shutil.copytree(ids / "alex", tmp_path / "alex")
    (tmp_path / "nobody").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "nobody" / "black.png")
    with pytest.raises(ValueError, match="no face found in any photo of nobody"):
        read_gallery(find_people(str(tmp_path)), BACKEND)
    assert "no face found in nobody/black.png" in caplog.text


def test_one_person_under_two_names_is_refused(shared, tmp_path):
    ids = shared / "testdata" / "photos" / "ids"
    for name, number in (("alex", 1), ("alexandra", 2)):
        (tmp_path / name).mkdir()
        shutil.copy(ids / "alex" / f"{number}.jpg", tmp_path / name)
    with pytest.raises(ValueError, match=r"alex and alexandra look like one person \(cosine 0\.9"):
        read_gallery(find_people(str(tmp_path)), BACKEND)


def test_a_strange_photo_is_named(shared, tmp_path, caplog):
    ids = shared / "testdata" / "photos" / "ids"
    shutil.copytree(ids / "alex", tmp_path / "alex")
    shutil.copy(ids / "kit" / "2.jpg", tmp_path / "alex" / "3.jpg")
    read_gallery(find_people(str(tmp_path)), BACKEND)
    assert "a photo of alex is not like the others" in caplog.text


def test_only_folders_of_people_will_do(tmp_path):
    for name, message in (("1.jpg", "1.jpg is not a photo in a person's folder"), ("a/b/c.jpg", "a/b/c.jpg")):
        path = tmp_path / name[0] / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        with pytest.raises(ValueError, match=message):
            find_people(str(tmp_path / name[0]))
    with pytest.raises(ValueError, match="identities=absent: no such"):
        find_people("absent")


def test_the_digest_knows_the_photos(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    before = people_digest(find_people(str(tmp_path)))
    assert before == people_digest(find_people(str(tmp_path)))
    (tmp_path / "a" / "1.jpg").write_bytes(b"y")
    assert people_digest(find_people(str(tmp_path))) != before
