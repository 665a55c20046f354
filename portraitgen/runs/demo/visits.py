"""Visits: whose files are whose, and that nothing of a visit is left when it is over."""

import secrets
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from portraitgen.runs.demo.desk import Job
from portraitgen.runs.demo.result import Result

_UNCLAIMED_S = 120.0
"""Seconds after which an uploaded file that no visit has is removed: it may be on its way to one."""


@dataclass(eq=False)
class Visit:
    """What one open page has.

    Attributes:
        name: that nobody can guess; stands in the addresses of results.
        folder: of its results.
        uploads: files that its visitor gave.
        job: at work or waiting; None: none.
        results: newest last.
    """

    folder: Path
    name: str
    uploads: set[Path] = field(default_factory=set)
    job: Job | None = None
    results: list[Result] = field(default_factory=list)
    seen: float = field(default_factory=time.monotonic)
    made: int = 0

    def new_folder(self) -> Path:
        """An empty folder for the next result."""
        self.made += 1
        folder = self.folder / str(self.made)
        folder.mkdir(parents=True)
        return folder

    def discard(self, folder: Path) -> None:
        """Remove the folder of a job that made nothing."""
        shutil.rmtree(folder, ignore_errors=True)

    def keep(self, result: Result, *, most: int) -> None:
        """Add a result; the oldest beyond `most` is removed."""
        self.results.append(result)
        while len(self.results) > most:
            self.discard(self.results.pop(0).folder)


class Visits:
    """All visits, by the session that Gradio gives to an open page.

    Args:
        root: folder for all files.
        leave: stops a job.
        idle_s: seconds after which a visit is over of which nothing was heard.
    """

    def __init__(self, root: Path, *, leave: Callable[[Job], None], idle_s: float) -> None:
        self.uploads = root / "uploads"
        self._folder = root / "visits"
        for each in (self.uploads, self._folder):
            each.mkdir()
        self._leave, self._idle_s = leave, idle_s
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()

    def of(self, session: str | None) -> Visit:
        """The visit of a session; it begins where there was none."""
        key = session or ""
        with self._lock:
            if key not in self._visits:
                name = secrets.token_urlsafe(24)
                self._visits[key] = Visit(self._folder / name, name)
            visit = self._visits[key]
            visit.seen = time.monotonic()
            return visit

    def has(self, session: str) -> bool:
        """Whether a session has a visit."""
        with self._lock:
            return session in self._visits

    def result_file(self, name: str, number: str, file: str) -> Path | None:
        """The file of a result by what its address says; None: there is none."""
        with self._lock:
            visits = [*self._visits.values()]
        for visit in visits:
            if secrets.compare_digest(visit.name.encode(), name.encode()):
                for result in visit.results:
                    if result.folder.name == number:
                        return result.files.get(file)
        return None

    def end(self, session: str | None) -> None:
        """Stop the job of a visit and remove all its files."""
        with self._lock:
            visit = self._visits.pop(session or "", None)
        if visit is None:
            return
        if visit.job is not None:
            self._leave(visit.job)
            visit.job.finished.wait()
        shutil.rmtree(visit.folder, ignore_errors=True)
        self._remove_uploads(visit.uploads)

    def sweep(self) -> None:
        """End visits that are idle, and remove uploaded files that none has."""
        now = time.monotonic()
        with self._lock:
            idle = [
                key
                for key, visit in self._visits.items()
                if now - visit.seen > self._idle_s and (visit.job is None or visit.job.finished.is_set())
            ]
        for key in idle:
            self.end(key)
        old = time.time() - _UNCLAIMED_S
        self._remove_uploads({path for path in self.uploads.rglob("*") if _changed(path) < old})

    def stored_bytes(self) -> int:
        """Bytes of all uploaded files."""
        total = 0
        for path in self.uploads.rglob("*"):
            with suppress(FileNotFoundError):  # removed meanwhile
                total += path.stat().st_size if path.is_file() else 0
        return total

    def _remove_uploads(self, paths: set[Path]) -> None:
        """Remove those of these files that no visit has, and the folders that this leaves empty."""
        with self._lock:
            kept = {path for visit in self._visits.values() for path in visit.uploads}
        for path in sorted(paths - kept, key=lambda path: -len(path.parts)):
            if path.is_dir():
                _remove_empty(path)
            else:
                path.unlink(missing_ok=True)
                if path.parent != self.uploads:
                    _remove_empty(path.parent)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass  # something is in it


def _changed(path: Path) -> float:
    """When a file was written last, as time.time(); 0.0 of one that is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
