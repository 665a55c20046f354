"""What preparing one source gives: clips of a video, or a photo."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from portraitgen.data.prepare.photo import prepare_photo
from portraitgen.data.prepare.settings import PrepareSettings
from portraitgen.data.prepare.sources import Source
from portraitgen.data.prepare.video import prepare_video
from portraitgen.data.sample import ClipSample
from portraitgen.faces.backend import FaceBackend


@dataclass(frozen=True, slots=True)
class Preparation:
    """Reads the samples of videos and photos (see `job.ReadSource`)."""

    backend: FaceBackend
    settings: PrepareSettings

    def __call__(
        self,
        source: Source,
        folder: Path,
        note: Callable[[str, str], None],
        progress: Callable[[float], None],
    ) -> Iterator[ClipSample]:
        if source.is_video:
            yield from prepare_video(source, self.backend, self.settings, folder, note, progress)
        else:
            yield prepare_photo(source, self.backend, self.settings)
