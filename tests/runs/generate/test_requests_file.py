"""Rows of requests files: what lies beside the file, elsewhere, and what is not run."""

import json

import pytest

from portraitgen.runs.generate.requests_file import read_requests
from portraitgen.training.inputs import Input

KNOWN = {
    "shards": Input("shards", "shards", "prepared clips"),
    "reference": Input("reference", "photos", "photos of the person"),
    "driving": Input("driving", "video", "what moves it"),
    "prompt": Input("prompt", "text", "words"),
}


def only_row(path, row):
    path.write_text(json.dumps(row) + "\n")
    ((_, given),) = read_requests(str(path), KNOWN, ())
    return given


def test_addresses_stay_and_paths_lie_beside_the_file(tmp_path):
    """Addresses became paths in the folder of the file."""
    row = {
        "shards": ["s3://bucket/shards/train-*.tar", "https://host/a.tar?X=1", "more/train-*.tar"],
        "reference": [["ann.png", "/photos/ann.png"], "https://host/bob.jpg"],
        "driving": "file:///clips/talk.mp4",
        "prompt": "pipe:dream",
    }
    assert only_row(tmp_path / "many.jsonl", row) == {
        "shards": [*row["shards"][:2], f"{tmp_path}/more/train-*.tar"],
        "reference": [[f"{tmp_path}/ann.png", "/photos/ann.png"], "https://host/bob.jpg"],
        "driving": "/clips/talk.mp4",
        "prompt": "pipe:dream",
    }


@pytest.mark.parametrize("key", ["shards", "reference", "driving"])
@pytest.mark.parametrize("value", ["pipe:cat a.tar", " pipe:cat a.tar", ["a.tar", ["pipe:cat a.tar"]]])
def test_a_command_in_a_file_is_refused(tmp_path, key, value):
    with pytest.raises(ValueError, match=rf"many\.jsonl, line 1: {key}: a shell command .* is not run"):
        only_row(tmp_path / "many.jsonl", {key: value})
