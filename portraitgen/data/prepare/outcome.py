"""What came of a preparation, read from the manifests, so that it covers what earlier runs finished."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from portraitgen.data.manifest import read_manifest
from portraitgen.data.prepare.plan import ShardJob

_SHOWN = 20


@dataclass(slots=True)
class Outcome:
    """Counts over all shards.

    `skipped` says why a source gave nothing, `partly` what was left out of others.
    """

    videos: int = 0
    photos: int = 0
    clips: int = 0
    frames: int = 0
    used_photos: int = 0
    skipped: list[str] = field(default_factory=list)
    partly: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, jobs: Sequence[ShardJob]) -> "Outcome":
        """Of shards that are all finished."""
        outcome = cls()
        for job in jobs:
            manifest = read_manifest(job.path)
            assert manifest is not None
            if job.sources[0].is_video:
                outcome.videos += len(job.sources)
                outcome.clips += manifest["samples"]
                outcome.frames += manifest["frames"]
            else:
                outcome.photos += len(job.sources)
                outcome.used_photos += manifest["samples"]
            for error in manifest.get("errors", []):
                # Words stand for a part that is missing, exceptions for all (see job.Omission).
                kind = outcome.partly if error["type"] in ("skipped", "str") else outcome.skipped
                kind.append(error["message"])
        return outcome

    @property
    def samples(self) -> int:
        return self.clips + self.used_photos

    def lines(self) -> list[str]:
        """A sentence with the counts, then one line for each source that is not all there."""
        read = [count(self.videos, "video")] if self.videos else []
        read += [count(self.photos, "photo")] if self.photos else []
        made = [f"{count(self.clips, 'clip')} ({count(self.frames, 'frame')})"] if self.videos else []
        made += [count(self.used_photos, "photo")] if self.photos else []
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        omissions = [f"  skipped {line}" for line in self.skipped] + [
            f"  in part {line}" for line in self.partly
        ]
        more = [f"  … and {len(omissions) - _SHOWN} more: see manifests/"] if len(omissions) > _SHOWN else []
        return [f"{' and '.join(read)}: {' and '.join(made)} written{skipped}", *omissions[:_SHOWN], *more]


def count(number: int, noun: str) -> str:
    """`1 video`, `2 videos`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
