"""Weights files of graders: found before anything is graded, and named in the protocol by their content."""

from pathlib import Path

from portraitgen.media.public_weights import PublicFile, file_digest
from portraitgen.metrics.grader import Fact, MissingWeights


def require(path: str | None, public: PublicFile, *, setting: str) -> Path:
    """The path of a weights file.

    Args:
        path: what the grader's argument `setting` says.
        public: the file that is wanted.

    Raises:
        MissingWeights: it is not set, or no such file.
    """
    found = None if path is None else Path(path).expanduser()
    if found is None or not found.is_file():
        raise MissingWeights(
            path, file=public.name, origin=public.source, licence=public.licence, setting=setting
        )
    return found


def weights_facts(path: Path, *, setting: str = "weights") -> dict[str, Fact]:
    """Name and SHA-256 of a weights file, for the protocol."""
    return {setting: path.name, f"{setting} sha256": file_digest(path)}
