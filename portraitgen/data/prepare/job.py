"""Make one shard: every source in turn; what cannot be used is written down in the manifest and left out."""

import errno
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2

from portraitgen.data.engines.engine import Report, WorkerDied
from portraitgen.data.manifest import manifest_path, write_json
from portraitgen.data.prepare.plan import ShardJob, discard_shard
from portraitgen.data.prepare.sources import Source, SourceError
from portraitgen.data.sample import ClipSample, DataError
from portraitgen.data.shards import ShardWriter
from portraitgen.media.blame import raised_here
from portraitgen.media.container import VideoError
from portraitgen.media.decode import stated_frames

log = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ENOMEM)
"""Errors of the machine, for which no source is to blame."""

# Source, stage, and why: an exception where the whole source is left out, words where a part of it is.
Omission = tuple[str, str, Exception | str]

ReadSource = Callable[
    [Source, Path, Callable[[str, str], None], Callable[[float], None]], Iterator[ClipSample]
]
"""Gives the samples of a source; can be pickled, and loads its models at first use.

Besides the source it is given an empty folder that is there until the last sample was taken, a function to
call with (stage, what happened) for each part that is left out, and one to call with the frames that were
dealt with. It raises SourceError or VideoError where the file is to blame.
"""

SampleStep = Callable[[ClipSample], ClipSample]
"""Adds to a sample what can be told from it; can be pickled, and loads its models at first use.

A sample that it raises DataError for is left out.
"""


@dataclass(frozen=True, slots=True)
class ShardMaker:
    """The work on one `ShardJob`; travels to the worker processes.

    Args:
        root: folder of the data set.
        read: gives the samples of each source.
        config: recorded in the manifest beside the job's fingerprint.
        steps: what is done with every sample before it is written, in this order: masks, further scores.
        fps: of the clips, None for each source's own; for the progress alone.
    """

    root: str
    read: ReadSource
    config: Mapping[str, Any]
    steps: tuple[SampleStep, ...] = ()
    fps: Fraction | None = None

    def __call__(self, job: ShardJob, report: Report, skip: Mapping[str, str]) -> None:
        """Write the shard, its index and, last, its manifest; a shard without samples has only a manifest.

        The work of an engine (see data/engines): items are sources, amounts are shares of `job.weights`. A
        shard that is finished is left as it is.

        Raises:
            ValueError: the shard cannot be written, or the face models are missing.
        """
        # One thread: the processes share the cores.
        cv2.setNumThreads(1)
        try:
            if job.is_finished():
                report(None, sum(job.weights))
                return
            discard_shard(job.path)
            self._write(job, report, skip)
        except OSError as error:
            raise ValueError(
                f"{job.path} cannot be written ({error.strerror}). Finished shards are kept: make room, then "
                "run the same command again"
            ) from error

    def _write(self, job: ShardJob, report: Report, skip: Mapping[str, str]) -> None:
        config = {**self.config, "fingerprint": job.fingerprint}
        omissions: list[Omission] = []
        digests: dict[str, str | None] = {}
        writer: ShardWriter | None = None  # made for the first sample: without one there is no shard
        with ExitStack() as stack:
            for source, weight in zip(job.sources, job.weights, strict=True):
                counted = _Counter(source, weight, report, fps=self.fps)
                if source.name in skip:
                    omissions.append((source.name, "crash", _crashed(source, job, skip[source.name])))
                    counted.finish()
                    continue
                for sample in self._samples(source, job, omissions, counted):
                    if writer is None:
                        shard = ShardWriter(
                            self.root,
                            job.split,
                            max_bytes=sys.maxsize,
                            max_samples=sys.maxsize,
                            first_shard=job.number,
                            config=config,
                            summarize=False,
                        )
                        writer = stack.enter_context(shard)
                    writer.write(sample)
                counted.finish()
                digests[source.name] = _digest(source)
            report(None, 0)
            config["sources"] = digests
            if writer is not None:
                writer.record(sources=digests)
                for name, stage, error in omissions:
                    writer.record_error(name, stage=stage, error=error)
        if writer is None:
            errors = [
                {"source": name, "stage": stage, "type": type(error).__name__, "message": str(error)}
                for name, stage, error in omissions
            ]
            counts = {"samples": 0, "frames": 0, "bytes": 0}
            manifest_path(job.path).parent.mkdir(parents=True, exist_ok=True)
            write_json(manifest_path(job.path), {**counts, "errors": errors, "config": config})

    def _samples(
        self,
        source: Source,
        job: ShardJob,
        omissions: list[Omission],
        progress: Callable[[float], None],
    ) -> Iterator[ClipSample]:
        """The samples of one source. Whatever goes wrong with it is an omission, and the others go on."""

        def note(stage: str, message: str) -> None:
            omissions.append((source.name, stage, message))

        folder = job.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # Under a name that `discard_shard` clears away, should this process be killed.
            with tempfile.TemporaryDirectory(prefix=f".{job.path.name}.", suffix=".tmp", dir=folder) as rough:
                for sample in self.read(source, Path(rough), note, progress):
                    try:
                        for step in self.steps:
                            sample = step(sample)
                    except DataError as error:
                        note("sample", f"{source.name}: {error}")
                        continue
                    yield sample
        except SourceError as error:
            omissions.append((source.name, error.stage, error))
        except VideoError as error:
            omissions.append((source.name, "decode", error))
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise
            omissions.append(
                (source.name, "read", f"{source.name}: cannot be read ({error.strerror or error})")
            )
        except Exception as error:  # of decoders and detectors, on content that nobody thought of
            if type(error) is ValueError and raised_here(error):
                raise  # a setting, or a model that is missing: all sources need it
            log.exception("%s", source.name)
            reason = f"{source.name}: {type(error).__name__} ({error}); it is left out, please report it"
            omissions.append((source.name, "defect", SourceError(source, "defect", reason)))


def _digest(source: Source) -> str | None:
    """SHA-256 of its content; None where that can no longer be read."""
    try:
        return source.sha256()
    except OSError:
        return None


class _Counter:
    """Reports the work on one source, all of its weight in the end and never more.

    It is called with the frames that were dealt with, of those that the header states.
    """

    def __init__(self, source: Source, weight: float, report: Report, *, fps: Fraction | None) -> None:
        self._name, self._left, self._report = source.name, weight, report
        report(source.name, 0)
        frames = stated_frames(source.path, fps=fps) if source.is_video else 1.0
        self._share = weight / max(frames, 1.0)

    def __call__(self, frames: float) -> None:
        self._done(min(frames * self._share, self._left))

    def finish(self) -> None:
        self._done(self._left)

    def _done(self, amount: float) -> None:
        self._left -= amount
        self._report(self._name, amount)


def _crashed(source: Source, job: ShardJob, how: str) -> WorkerDied:
    return WorkerDied(
        f"{source.name}: its worker process {how}; left out. To try it again, delete "
        f"{manifest_path(job.path)} and run the same command, with fewer workers if memory was short"
    )
