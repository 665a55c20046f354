"""What a visitor has left with is not found, and no fault of ours."""

import pytest

pytest.importorskip("gradio", reason="needs the extra demo")
from starlette.testclient import TestClient

from portraitgen.runs.demo.passing_file import PassingFile


@pytest.mark.parametrize("headers", [{}, {"range": "bytes=2-4"}], ids=["whole", "a part, as players ask"])
def test_a_file_that_goes_after_it_was_found(tmp_path, headers):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"0123456789")
    answer = TestClient(PassingFile(path)).get("/", headers=headers)
    assert answer.content == (b"234" if headers else b"0123456789")
    assert answer.headers["cache-control"] == "private, no-store"
    gone = TestClient(PassingFile(path))
    path.unlink()
    assert gone.get("/", headers=headers).status_code == 404


def test_a_file_that_is_gone_already(tmp_path):
    with pytest.raises(FileNotFoundError):
        PassingFile(tmp_path / "a.mp4")
