"""Folders of results of somebody else, and what ours say: no foreign file, no markup, no secret gets in."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from portraitgen.metrics.csv_text import csv_lines, from_text
from portraitgen.metrics.report.tables import markdown_text
from portraitgen.metrics.saved import load_results
from portraitgen.runs.evaluate.kept_rows import KeptRows
from portraitgen.runs.evaluate.sources.sample_rows import read_rows
from portraitgen.runs.secrets import MASK, is_secret, without_secrets, words_without_secrets
from portraitgen.runs.train.rundir import RunDirectory
from portraitgen.training.run_log import CsvLog

ROW: dict[str, Any] = {
    "key": "a",
    "video": "a.mp4",
    "fps": "25",
    "frames": [0, 1],
    "train_span": None,
    "frames_trained_on": 0,
    "seed": 0,
    "sampling": {"num_steps": 2},
}


def rows(folder: Path, *lines: Any) -> list[dict[str, Any]]:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "samples.jsonl").write_text(text)
    return read_rows(folder / "samples.jsonl")


def test_a_sound_row_is_not_refused(tmp_path):
    assert rows(tmp_path, ROW, {**ROW, "key": "b", "fps": None, "image": "b.png"})[1]["key"] == "b"


@pytest.mark.parametrize("name", ["video", "image", "panel", "sheet", "landmarks"])
@pytest.mark.parametrize("value", ["/etc/passwd", "../secret.png", "link/secret.png", 3, None, ["a"]])
def test_files_of_a_row_lie_in_its_folder(name, value, tmp_path):
    """An absolute sheet put another file of the machine into report.html."""
    (tmp_path / "secret.png").write_bytes(b"x")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=f"line 1, {name}"):
        rows(folder, {**ROW, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", ""),
        ("key", ["a"]),
        ("key", "a" * 10_000),
        ("fps", "1e9999999"),
        ("fps", 0),
        ("fps", "-25"),
        ("fps", []),
        ("frames", []),
        ("frames", ["a"]),
        ("frames", [-1]),
        ("frames", [10**12]),
        ("frames", "0-9"),
        ("train_span", [1]),
        ("train_span", "x"),
        ("frames_trained_on", None),
        ("seed", "x"),
        ("seed", 10**30),
        ("sampling", []),
        ("sampling", {"a": {}}),
        ("system", 3),
        ("weights", []),
        ("shard", {}),
        ("shard", "pipe:touch MARKER"),
        ("reference_frame", "x"),
        ("part", [0, 0, 1, 1]),
        ("part", [0, 0, 10**9, 10**9, 8, 8]),
        ("references", ["a.png"]),
        ("references", [[]]),
        ("recognizers", ["x"]),
        ("shown", "x"),
        ("prompt", 3),
    ],
)
def test_entries_of_a_row_are_judged(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"line 1, {name}: must be"):
        rows(tmp_path, {**ROW, name: value})


@pytest.mark.parametrize("line", ["{", "[1]", "7", "null", "[" * 100_000, "\x00", '{"key": "a"}'])
def test_damaged_lines_are_named(line, tmp_path):
    with pytest.raises(ValueError, match="line 2"):
        rows(tmp_path, ROW, line)
    with pytest.raises(ValueError, match="stands there twice"):
        rows(tmp_path, ROW, ROW)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"protocol": 3}',
        '{"protocol": {"metrics": []}}',
        '{"protocol": {"metrics": {"a": {}}}}',
        '{"protocol": {"metrics": {}, "settings": {}}, "rows": [{}], "sets": {}}',
        '{"protocol": {"metrics": {}, "settings": []}, "rows": [], "sets": {}, "skipped": {}}',
        '{"protocol": {"metrics": {}, "settings": {}, "source": 3}, "rows": [], "sets": {}, "skipped": {}}',
        '{"protocol": {"metrics": {}, "settings": {}}, "rows": [], "sets": {"a": 3}, "skipped": {}}',
        '{"protocol": {"metrics": {}, "settings": {}}, "rows": 7, "sets": {}, "skipped": {}}',
    ],
)
def test_damaged_results_are_named(content, tmp_path):
    (tmp_path / "results.json").write_text(content)
    (tmp_path / "frames.csv").write_text("video,method,frame\n")
    with pytest.raises(ValueError, match=r"is not what this evaluate\.py writes"):
        load_results(tmp_path)


def test_rows_that_were_kept_and_are_damaged_are_graded_again(tmp_path):
    folder = tmp_path / "unfinished"
    folder.mkdir()
    kept = KeptRows(tmp_path, {})
    damaged = [
        "[1]",
        "7",
        "{",
        "[" * 100_000,
        '{"protocol": 3, "facts": 4}',
        f'{{"protocol": "{kept.protocol}"}}',
    ]
    damaged.append(json.dumps({"protocol": kept.protocol, "facts": {"video": "a"}}))
    (folder / "rows-0.jsonl").write_text("\n".join(damaged))
    assert KeptRows(tmp_path, {}).find("a", "stamp") is None


@pytest.mark.parametrize("word", ["=1+1", "@SUM(A1)", "+1", "-1", "\t=1", "'=1"])
def test_no_cell_is_a_formula(word):
    line = csv_lines([[word, 1.5]])
    assert line.startswith(("'", "\"'"))
    assert from_text("'" + word) == word


def test_no_markup_in_markdown():
    assert "<" not in markdown_text("<img src=x onerror=alert(1)>")
    assert markdown_text("a | b\n# c") == "a \\| b # c"


NAMES = (
    "password",
    "wandb.api_key",
    "HF_TOKEN",
    "WANDB_API_KEY",
    "db-password",
    "auth_key",
    "secret",
    "credentials",
)
PLAIN = ("max_tokens", "tokenizer", "num_tokens", "token_dim", "key", "keys", "author", "monkey", "passes")


TOKEN = "hf_0aB1cD2eF3gH4iJ5"
CREDENTIALS = (
    TOKEN,
    "3f0c1d5e-7a1b-4c6d-8e9f-001122334455",
    "1234567890:AAH-x_y",
    "eyJhbGciOiJI.eyJzdWIiOjF9.x4Z",
)
WORDS = (
    "person",
    "<|endoftext|>",
    "[CLS]",
    "a photo of ann 1",
    "last_hidden_state",
    5,
    49407,
    ["a", "b"],
    0.5,
)


def test_what_is_called_like_a_secret():
    assert all(is_secret(name, TOKEN) for name in NAMES)
    assert all(is_secret(name, "short") for name in NAMES if name != "HF_TOKEN")
    assert not any(is_secret(name, TOKEN) for name in PLAIN)
    assert not any(is_secret(name, value) for name in NAMES for value in (None, "", False, True))


@pytest.mark.parametrize("name", ["token", "HF_TOKEN", "hub.access_token"])
def test_a_token_is_a_secret_if_it_looks_like_a_credential(name):
    assert all(is_secret(name, value) for value in CREDENTIALS)
    assert not any(is_secret(name, value) for value in WORDS)


def test_tokens_of_networks_are_kept():
    config = {"context_token": "person", "num_id_token": 5, "eos_token": "<|endoftext|>", "hub_token": TOKEN}
    assert without_secrets(config) == {**config, "hub_token": MASK}
    words = ["model.context_token=person", "model.num_id_token=5", f"hub_token='{TOKEN}'", f"note={TOKEN}"]
    assert words_without_secrets(words) == [*words[:2], f"hub_token={MASK}", f"note={MASK}"]


def test_secrets_are_hidden_wherever_they_stand(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", TOKEN)
    config = {
        "logger": {"api_key": "abcdefgh", "note": "with abcdefgh in it", "none_token": None},
        "data": [{"password": "x"}, TOKEN, "sqlite://ann:pw@host/db"],
        "shards": "https://host/a.tar?X-Amz-Date=1&X-Amz-Signature=0123abcdef&x=1",
        "headers": {"Authorization": "Bearer x1", "Cookie": "a=b", "Accept": "*/*"},
        "model": {"max_tokens": 77, "tokenizer": "t5"},
    }
    hidden = without_secrets(config)
    assert hidden == {
        "logger": {"api_key": MASK, "note": f"with {MASK} in it", "none_token": None},
        "data": [{"password": MASK}, MASK, f"sqlite://{MASK}@host/db"],
        "shards": f"https://host/a.tar?X-Amz-Date=1&X-Amz-Signature={MASK}&x=1",
        "headers": {"Authorization": MASK, "Cookie": MASK, "Accept": "*/*"},
        "model": {"max_tokens": 77, "tokenizer": "t5"},
    }
    run = RunDirectory(tmp_path)
    run.record_start(config, step=0, changes=[])
    assert yaml.safe_load(run.config.read_text()) == hidden
    assert run.changes(config, allowed=False) == [], "what is hidden is no other setting"


def test_secrets_of_the_command_line_are_hidden(tmp_path, monkeypatch):
    words = ["seed=1", "+logger.wandb.api_key=abcdefgh", "note=abcdefgh", "model.max_tokens=7"]
    assert words_without_secrets(words) == [
        *("seed=1", f"+logger.wandb.api_key={MASK}", f"note={MASK}", "model.max_tokens=7"),
    ]
    monkeypatch.setattr("sys.argv", ["train.py", *words])
    run = RunDirectory(tmp_path)
    run.record_start({}, step=0, changes=[])
    assert "abcdefgh" not in run.versions.read_text()


@pytest.mark.parametrize("content", ["", "{", "{}", "7", "[" * 100_000])
def test_a_damaged_versions_file_is_set_aside(content, tmp_path):
    run = RunDirectory(tmp_path)
    run.versions.write_text(content)
    run.record_start({}, step=0, changes=[])
    assert len(json.loads(run.versions.read_text())) == 1
    assert (tmp_path / "versions.damaged.json").read_text() == content


@pytest.mark.parametrize("content", ["", "[", "7", "- a", "a: !!python/name:os.system", "a: [" * 100, "\x00"])
def test_a_damaged_configuration_of_a_run_is_named(content, tmp_path):
    run = RunDirectory(tmp_path)
    run.config.write_text(content)
    with pytest.raises(ValueError, match=r"config\.yaml"):
        run.changes({"seed": 1}, allowed=True)


@pytest.mark.parametrize(
    "content", ["", "step,val/loss\n1,abc\n", "step\n1\n", "\x00\n", 'step,val/loss\n1,"']
)
def test_a_damaged_log_of_figures_is_named_or_goes_on(content, tmp_path):
    (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(ValueError, match="val/loss"):
        RunDirectory(tmp_path).last_metric("val/loss")
    log = CsvLog(str(tmp_path))
    log.log_metrics({"train/loss": 0.5}, step=3)
    assert "train/loss" in (tmp_path / "metrics.csv").read_text()
    assert os.listdir(tmp_path) == ["metrics.csv"]
