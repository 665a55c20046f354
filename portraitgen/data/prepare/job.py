"""Make one shard: every source in turn; what cannot be used is written down in the manifest and left out."""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from portraitgen.data.engines.engine import Report, WorkerDied
from portraitgen.data.manifest import manifest_path, write_json
from portraitgen.data.prepare.plan import ShardJob, discard_shard
from portraitgen.data.prepare.sources import Source, SourceError
from portraitgen.data.sample import ClipSample, DataError
from portraitgen.data.shards import ShardWriter
from portraitgen.media.decode import VideoError

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
    """

    root: str
    read: ReadSource
    config: Mapping[str, Any]
    steps: tuple[SampleStep, ...] = ()

    def __call__(self, job: ShardJob, report: Report, skip: Mapping[str, str]) -> None:
        """Write the shard, its index and, last, its manifest; a shard without samples has only a manifest.

        The work of an engine (see data/engines): items are sources, amounts are frames as `job.frames` has
        them. A shard that is finished is left as it is.

        Raises:
            ValueError: the shard cannot be written, or the face models are missing.
        """
        # One thread: the processes share the cores.
        cv2.setNumThreads(1)
        try:
            if job.is_finished():
                report(None, sum(job.frames))
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
        writer: ShardWriter | None = None  # made for the first sample: without one there is no shard
        with ExitStack() as stack:
            for source, num_frames in zip(job.sources, job.frames, strict=True):
                counted = _Counter(source.name, num_frames, report)
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
                        )
                        writer = stack.enter_context(shard)
                    writer.write(sample)
                counted.finish()
            report(None, 0)
            if writer is not None:
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
        """The samples of one source. What a file is to blame for is an omission; a defect ends the run."""

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


class _Counter:
    """Reports the frames of one source, all of them in the end and never more than it was said to have."""

    def __init__(self, name: str, num_frames: float, report: Report) -> None:
        self._name, self._left, self._report = name, num_frames, report
        report(name, 0)

    def __call__(self, amount: float) -> None:
        amount = min(amount, self._left)
        self._left -= amount
        self._report(self._name, amount)

    def finish(self) -> None:
        self(self._left)


def _crashed(source: Source, job: ShardJob, how: str) -> WorkerDied:
    return WorkerDied(
        f"{source.name}: its worker process {how}; left out. To try it again, delete "
        f"{manifest_path(job.path)} and run the same command, with fewer workers if memory was short"
    )
