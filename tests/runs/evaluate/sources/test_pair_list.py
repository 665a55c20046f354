"""What is graded against what: by name, or by a CSV whose mistakes are all listed."""

import unicodedata

import pytest

from portraitgen.runs.evaluate.sources.pair_list import pairs_by_name, pairs_from_csv


@pytest.fixture
def folders(tmp_path):
    for name in ("ours/a.mp4", "ours/deep/b.png", "theirs/a.mov", "theirs/deep/b.jpg", "theirs/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "ours/notes.txt").touch()
    return tmp_path


def test_files_of_one_name_go_together_whatever_their_suffix(folders):
    pairs = {pair.key: pair for pair in pairs_by_name(folders / "ours", folders / "theirs")}
    assert list(pairs) == ["a", "c", "deep/b"]
    assert pairs["deep/b"].generated == folders / "ours/deep/b.png"
    assert pairs["deep/b"].real == folders / "theirs/deep/b.jpg"
    assert pairs["c"].generated == folders / "ours/c.mp4", "without a partner it is a clip that failed"


def test_names_of_a_mac_meet_those_of_others(folders):
    """The same name in composed and in decomposed characters."""
    one, other = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    (folders / f"ours/{other}.mp4").touch()
    (folders / f"theirs/{one}.mp4").touch()
    pair = {pair.key: pair for pair in pairs_by_name(folders / "ours", folders / "theirs")}[one]
    assert (pair.generated.name, pair.real.name) == (f"{other}.mp4", f"{one}.mp4")
    (folders / "pairs.csv").write_text(f"generated,real\n{one}.mp4,{other}.mp4\n")
    (listed,) = pairs_from_csv(folders / "pairs.csv", generated=folders / "ours", real=folders / "theirs")
    assert listed == pair


def test_reports_and_hidden_files_are_no_clips(folders):
    for name in ("ours/.a/x.mp4", "ours/._a.mp4", "ours/report/media/a.mp4", "ours/report/results.json"):
        (folders / name).parent.mkdir(parents=True, exist_ok=True)
        (folders / name).touch()
    assert [pair.key for pair in pairs_by_name(folders / "ours", folders / "theirs")] == ["a", "c", "deep/b"]


def test_names_that_do_not_meet_are_an_error(folders):
    (folders / "ours/d.mp4").touch()
    with pytest.raises(ValueError, match=r"1 files of .*ours have no partner in .*theirs: d"):
        pairs_by_name(folders / "ours", folders / "theirs")
    (folders / "ours/a.webm").touch()
    with pytest.raises(ValueError, match=r"a\.mp4 and .*a\.webm differ in their suffix only"):
        pairs_by_name(folders / "ours", folders / "theirs")
    (folders / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no video or picture"):
        pairs_by_name(folders / "empty", folders / "theirs")
    with pytest.raises(ValueError, match="gone: no such folder"):
        pairs_by_name(folders / "gone", folders / "theirs")
    (folders / "empty/x.mp4").touch()
    with pytest.raises(ValueError, match=r"no file of .*empty has the name of one in .*theirs \(x …, a …\)"):
        pairs_by_name(folders / "empty", folders / "theirs")


def test_a_csv_says_the_rest(folders):
    (folders / "face.png").touch()
    (folders / "speech.wav").touch()
    (folders / "pairs.csv").write_text(
        'generated,real,reference,audio,prompt\na.mp4,c.mp4,face.png,speech.wav,"a man, talking"\n'
        "gone.mp4,,,,\n"
    )
    gone, first = reversed(
        pairs_from_csv(folders / "pairs.csv", generated=folders / "ours", real=folders / "theirs")
    )
    assert (first.key, first.prompt) == ("a", "a man, talking")
    assert first.real == folders / "theirs/c.mp4"
    assert (first.references, first.audio) == ((folders / "face.png",), folders / "speech.wav")
    assert (gone.generated, gone.real, gone.prompt) == (folders / "ours/gone.mp4", None, None)


def test_a_cell_may_list_a_reference_of_each_person(folders):
    for name in ("ann", "bob"):
        (folders / f"{name}.png").touch()
    path = folders / "pairs.csv"
    path.write_text('generated,reference\na.mp4,"[""ann.png"", ""bob.png""]"\n')
    (pair,) = pairs_from_csv(path, generated=folders / "ours", real=None)
    assert pair.references == (folders / "ann.png", folders / "bob.png")
    path.write_text('generated,reference\na.mp4,"[""ann.png"", ""eve.png""]"\nb.mp4,[ann.png]\n')
    with pytest.raises(
        ValueError, match=r"(?s)eve\.png: no such file.*line 3: reference: .* no list in JSON"
    ):
        pairs_from_csv(path, generated=folders / "ours", real=None)


def test_all_mistakes_of_a_csv_are_listed(folders):
    path = folders / "pairs.csv"
    path.write_text("generated,real\na.mp4,gone.mp4\na.mov,\n,c.mp4\nnotes.txt,\n")
    with pytest.raises(ValueError) as error:
        pairs_from_csv(path, generated=folders / "ours", real=folders / "theirs")
    message = str(error.value)
    for line in (
        r"line 2: real: ",
        "line 3: a is listed twice",
        "line 4: no generated file is named",
        "line 5: generated: ",
    ):
        assert line in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("generated,reel\n", "unknown column 'reel'; did you mean 'real'"),
        ("real\n", "no column; it needs `generated`"),
        ("generated\n", "the list is empty"),
    ],
)
def test_headings_of_a_csv(tmp_path, text, message):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        pairs_from_csv(tmp_path / "pairs.csv", generated=tmp_path, real=None)
    with pytest.raises(ValueError, match="cannot be read as CSV"):
        pairs_from_csv(tmp_path / "gone.csv", generated=tmp_path, real=None)
