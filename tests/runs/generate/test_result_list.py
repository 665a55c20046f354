"""Results of several runs in one folder."""

from pathlib import Path

import pytest

from portraitgen.runs.generate.formats import result_folder, wanted_formats, write_single_file
from portraitgen.runs.generate.result_list import ResultList


def result(folder: Path, name: str, **facts: object) -> str:
    """A run of its own that makes one result."""
    results = ResultList(folder)
    key = results.key_for(name, facts)
    video = folder / f"generated/{key}.mp4"
    video.parent.mkdir(exist_ok=True)
    video.write_text(str(facts))
    results.add({"key": key, "video": f"generated/{key}.mp4", **facts, "config": results.save_config(facts)})
    return key


def test_earlier_results_stay(tmp_path: Path) -> None:
    """A second run replaced samples.jsonl, and videos of one name."""
    assert [result(tmp_path, "talk", seed=seed) for seed in (0, 1, 2)] == ["talk", "talk-2", "talk-3"]
    assert result(tmp_path, "talk", seed=1) == "talk-2"  # made again, as it was
    assert result(tmp_path, "other", seed=1) == "other"
    rows = ResultList(tmp_path)._stored()
    assert [(row["key"], row["seed"]) for row in rows] == [
        ("talk", 0),
        ("talk-2", 1),
        ("talk-3", 2),
        ("other", 1),
    ]
    assert (tmp_path / "generated/talk.mp4").read_text() == str({"seed": 0})
    assert all((tmp_path / row["config"]).is_file() for row in rows)


def test_two_of_one_run_are_two_even_if_they_are_made_alike(tmp_path: Path) -> None:
    results = ResultList(tmp_path)
    results.add({"key": "a", "seed": 0})
    assert results.key_for("a", {"seed": 0}) == "a-2"


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    for name in ("generated", "panels"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".talk.mp4.999.tmp").touch()
    ResultList(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_damaged_list_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text('{"key": "a"}\n{"key"')
    with pytest.raises(ValueError, match=r"samples\.jsonl lists earlier results, and cannot be read"):
        ResultList(tmp_path)


def test_one_file_is_written_beside_the_folder(tmp_path: Path) -> None:
    out = str(tmp_path / "result.mp4")
    folder = result_folder(out)
    assert folder == tmp_path / "result"
    assert wanted_formats(str(tmp_path / "a.gif"), ["frames"]) == ["frames", "gif"]
    with pytest.raises(ValueError, match="formats: there is no avi; give some of gif, webm, frames"):
        wanted_formats(out, ["avi"])
    results = ResultList(folder)
    (folder / "generated").mkdir()
    (folder / "generated/talk.mp4").write_text("video")
    results.add({"key": "talk", "video": "generated/talk.mp4"})
    assert write_single_file(out, results) == tmp_path / "result.mp4"
    assert (tmp_path / "result.mp4").read_text() == "video"
    assert write_single_file(str(folder), results) is None
    results.add({"key": "more", "video": "generated/more.mp4"})
    with pytest.raises(ValueError, match=r"result\.mp4 is one file, but there are 2 results"):
        write_single_file(out, results)
