"""Hundreds of damaged and hostile files: each is read, or refused in one message; none does any harm."""

import pytest

from tests.security.fuzz import Fuzzer, run, snapshot

INPUTS = {
    **dict.fromkeys(("facts of weights", "json in shards", "samples.jsonl", "results.json, frames.csv"), 70),
    **dict.fromkeys(("bytes of weights", "bytes of shards", "bytes of indexes", "landmark files"), 50),
    "files of runs": 40,
    "experiments": 25,
    **dict.fromkeys(("files of data sets", "features", "tables of ConsisID", "labels and requests"), 40),
}
MADE_ANEW = "bytes of indexes"
"""A damaged index is no error: it is made of the tar again, and a line says so."""


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory) -> Fuzzer:
    root = tmp_path_factory.mktemp("fuzz")
    (root / "beside").mkdir()
    (root / "beside" / "file").write_text("as it was")
    return Fuzzer(root / "work", root / "marker")


def check(fuzzer: Fuzzer, kind: str, inputs: int, seed: int) -> None:
    root = fuzzer.folder.parent
    before = snapshot(root / "beside")
    outcome = run(fuzzer, kind, inputs=inputs, seed=seed)
    assert outcome.defects == []
    assert outcome.total == inputs
    if kind not in MADE_ANEW:
        assert outcome.refused > inputs // 10, "the inputs are hostile"
    assert not (root / "marker").exists(), "something was run"
    assert snapshot(root / "beside") == before
    assert {path.name for path in root.iterdir()} == {"beside", "work"}, "something was written outside"


@pytest.mark.parametrize("kind", INPUTS)
def test_hostile_files_do_no_harm(fuzzer, kind):
    check(fuzzer, kind, INPUTS[kind], seed=0)


@pytest.mark.parametrize(
    ("kind", "seed", "number"),
    [
        ("samples.jsonl", 5, 56),
        ("experiments", 1, 117),
        ("files of data sets", 3, 46),
        *(("results.json, frames.csv", 1, number) for number in (11, 168)),
        *(("results.json, frames.csv", 3, number) for number in (155, 252, 266, 344)),
    ],
)
def test_what_once_ended_in_a_traceback_is_told(fuzzer, kind, seed, number):
    outcome = run(fuzzer, kind, inputs=1, seed=seed, first=number)
    assert outcome.defects == []
    assert outcome.total == 1


def test_they_are_five_hundred():
    assert sum(INPUTS.values()) >= 500


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("kind", INPUTS)
def test_many_more_do_no_harm(fuzzer, kind, seed):
    check(fuzzer, kind, 5 * INPUTS[kind], seed=seed)
