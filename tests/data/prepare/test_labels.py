"""Captions and names from files beside the sources, from tables, and from folders."""

import json
import os

import pytest

from portraitgen.data.prepare.labels import MAX_CAPTION_BYTES, label_sources
from portraitgen.data.prepare.sources import find_sources


@pytest.fixture
def folder(tmp_path):
    for name in ("top.jpg", "ann/1.jpg", "ann/2.jpg", "bob/talk.mp4"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"x")
    (tmp_path / "data" / "ann" / "1.txt").write_text("a café\n", encoding="utf-8")
    return tmp_path / "data"


def label(folder, labels=None, folder_identities=False):
    sources = find_sources(str(folder))
    labelled, missing = label_sources(sources, labels=labels, folder_identities=folder_identities)
    return {source.name: (source.caption, source.identity_name) for source in labelled}, missing


def test_text_beside_a_source_is_its_caption(folder):
    found, _ = label(folder)
    assert found.pop("ann/1.jpg") == ("a café", None)
    assert set(found.values()) == {(None, None)}


def test_folders_name_people_when_asked(folder):
    found, _ = label(folder, folder_identities=True)
    assert {name: identity_name for name, (_, identity_name) in found.items()} == {
        "top.jpg": None,
        "ann/1.jpg": "ann",
        "ann/2.jpg": "ann",
        "bob/talk.mp4": "bob",
    }


ROWS = [
    {"file": "ann/1.jpg", "caption": 'two words, "quoted"', "identity": ""},
    {"file": "./top.jpg", "caption": "", "identity": "Zoë"},
    {"file": "absent.jpg", "caption": "nobody", "identity": ""},
]


def as_csv(rows):
    quoted = [",".join('"' + value.replace('"', '""') + '"' for value in row.values()) for row in rows]
    return "\n".join(["file,caption,identity", *quoted])


@pytest.mark.parametrize(
    ("suffix", "text"), [("csv", as_csv(ROWS)), ("jsonl", "\n".join(map(json.dumps, ROWS)) + "\n\n")]
)
def test_tables_go_before_files_and_folders(folder, suffix, text):
    table = folder.parent / f"labels.{suffix}"
    table.write_text(text, encoding="utf-8")
    found, missing = label(folder, table, folder_identities=True)
    assert missing == 1
    assert found["ann/1.jpg"] == ('two words, "quoted"', "ann"), (
        "what the table leaves open comes from the rest"
    )
    assert found["top.jpg"] == (None, "Zoë")
    assert found["ann/2.jpg"] == (None, "ann")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "path,caption\na,b\n", "line 2: unknown column 'caption'|line 2: unknown column 'path'"),
        ("l.csv", "caption\nb\n", "line 2: no column 'file'"),
        ("l.csv", "file,caption\ntop.jpg,a,b\n", "line 2: unknown column 'too many values'"),
        ("l.csv", "file,caption\ntop.jpg,a\ntop.jpg,b\n", "line 3: top.jpg is there twice"),
        ("l.csv", 'file,caption\ntop.jpg,"a\n', "labels="),
        ("l.jsonl", '{"file": "top.jpg"}\n{', "line 2: not JSON"),
        ("l.jsonl", "[1]", "line 1: must be a JSON object"),
        ("l.jsonl", '{"file": 3}', "line 1: file must be text"),
        (
            "l.jsonl",
            '{"file": "elsewhere/top.jpg"}',
            r"none of its 1 files is among the 4 sources, such as ann/1",
        ),
        ("l.txt", "", r"give a \.csv or a \.jsonl file"),
    ],
)
def test_tables_that_cannot_be_used_are_named(folder, name, text, message):
    (folder.parent / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        label(folder, folder.parent / name)
    assert f"labels={folder.parent / name}" in str(error.value)


def test_a_table_that_is_not_there_is_named(folder):
    with pytest.raises(ValueError, match=r"absent\.csv cannot be read \(No such file"):
        label(folder, folder / "absent.csv")


@pytest.mark.parametrize("kind", ["latin-1", "folder", "fifo", "endless", "huge"])
def test_what_is_no_caption_is_left_out_with_a_line(folder, caplog, kind):
    """One such file used to end the whole preparation, or to hang it."""
    caption = folder / "ann" / "2.txt"
    caption.unlink(missing_ok=True)
    if kind == "latin-1":
        caption.write_bytes(b"caf\xe9")
    elif kind == "folder":
        caption.mkdir()
    elif kind == "fifo":
        os.mkfifo(caption)
    elif kind == "endless":
        caption.symlink_to("/dev/zero")
    else:
        caption.write_bytes(b"a" * (MAX_CAPTION_BYTES + 1))
    sources, _ = label_sources(find_sources(str(folder)), labels=None, folder_identities=False)
    assert {source.name: source.caption for source in sources}["ann/2.jpg"] is None
    assert "ann/2.jpg: the caption 2.txt" in caplog.text


def test_half_a_character_in_a_table_is_left_out(folder, tmp_path, caplog):
    table = tmp_path / "labels.jsonl"
    table.write_text('{"file": "top.jpg", "caption": "\\ud800", "identity": "Zo\u00eb"}\n')
    sources, _ = label_sources(find_sources(str(folder)), labels=table, folder_identities=False)
    found = {source.name: (source.caption, source.identity_name) for source in sources}
    assert found["top.jpg"] == (None, "Zo\u00eb")
    assert "no valid Unicode" in caplog.text
