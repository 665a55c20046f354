"""Two commands, one folder."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from portraitgen.media import one_writer as module
from portraitgen.media.one_writer import DEAD_AFTER_S, FILE_NAME, FolderInUse, one_writer


def hold(folder: Path, ready: Any, end: Any) -> None:
    with one_writer(folder):
        ready.set()
        end.wait(60)


def attempt(folder: Path, start: Any, results: Any) -> None:
    start.wait(60)
    try:
        with one_writer(folder):
            time.sleep(2.5)
            results.put("held")
    except FolderInUse:
        results.put("refused")


def leave(folder: Path, *, age: float = 0.0, **changes: Any) -> None:
    """What a writer of another machine leaves."""
    folder.mkdir(exist_ok=True)
    holder = module._describe() | {"machine": "other", "host": "node7", "user": "ann"} | changes
    (folder / FILE_NAME).write_text(json.dumps(holder))
    then = time.time() - age
    os.utime(folder / FILE_NAME, (then, then))


def test_the_folder_is_free_again_after_the_block(tmp_path: Path) -> None:
    with one_writer(tmp_path / "new"):
        assert (tmp_path / "new" / FILE_NAME).is_file()
    assert not list((tmp_path / "new").iterdir())
    with one_writer(tmp_path / "new"):
        pass


def test_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready, end))
    process.start()
    assert ready.wait(60)
    with (
        pytest.raises(FolderInUse, match=rf"written by process {process.pid} of .* since 20"),
        one_writer(tmp_path),
    ):
        pass
    end.set()
    process.join(60)
    with one_writer(tmp_path):
        pass


def test_who_has_just_begun_to_write_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.touch()
    content = json.dumps(module._describe())
    writing = threading.Timer(0.2, path.write_text, [content])
    writing.start()
    with pytest.raises(FolderInUse, match=f"by process {os.getpid()} of "), one_writer(tmp_path):
        pass
    writing.join()


@pytest.mark.parametrize("left", [False, True], ids=["free", "left by a crash"])
def test_of_many_that_start_together_one_has_it(tmp_path: Path, left: bool) -> None:
    if left:
        leave(tmp_path, age=DEAD_AFTER_S + 60)
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=attempt, args=(tmp_path, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    found = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    assert found == ["held", "refused", "refused", "refused"]


def test_what_a_killed_process_of_this_machine_left_is_taken_over_at_once(tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; from portraitgen.media.one_writer import one_writer\n"
        f"with one_writer(Path({str(tmp_path)!r})): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / FILE_NAME).is_file()
    with one_writer(tmp_path):
        pass


def test_a_writer_of_another_machine_lives_while_its_heart_beats(tmp_path: Path) -> None:
    leave(tmp_path, age=60)
    with (
        pytest.raises(FolderInUse, match=r"of ann on node7.* sign of life 60 s ago.* again in"),
        one_writer(tmp_path),
    ):
        pass
    leave(tmp_path, age=DEAD_AFTER_S + 1)
    with one_writer(tmp_path):
        pass


def test_a_requeued_job_takes_over_from_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path, job="42, start 0")
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    with pytest.raises(FolderInUse, match="job 42"), one_writer(tmp_path):
        pass
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with one_writer(tmp_path):
        pass


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_EVERY_S", 0.02)
    with one_writer(tmp_path):
        path = tmp_path / FILE_NAME
        os.utime(path, (1.0, 1.0))
        deadline = time.monotonic() + 20
        while path.stat().st_mtime == 1.0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime > 1.0
