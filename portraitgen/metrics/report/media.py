"""Videos and pictures that a report page holds in itself."""

import base64
from dataclasses import dataclass
from pathlib import Path

_MEDIA_TYPES = {".mp4": "video/mp4", ".png": "image/png", ".jpg": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class Media:
    """A video (.mp4) or picture (.png, .jpg) shown in the report.

    Raises:
        ValueError: a file of another kind.
    """

    path: Path
    caption: str

    def __post_init__(self) -> None:
        if self.path.suffix.lower() not in _MEDIA_TYPES:
            raise ValueError(f"{self.path}: a report shows {', '.join(_MEDIA_TYPES)} files")

    @property
    def is_video(self) -> bool:
        return self._type.startswith("video/")

    @property
    def data_uri(self) -> str:
        """The whole file as an address.

        Raises:
            OSError: it cannot be read.
        """
        return f"data:{self._type};base64,{base64.b64encode(self.path.read_bytes()).decode('ascii')}"

    @property
    def _type(self) -> str:
        return _MEDIA_TYPES[self.path.suffix.lower()]
