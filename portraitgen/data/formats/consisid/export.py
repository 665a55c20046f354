"""Clips of shards as files in ConsisID's layout: videos, captions, tables and masks, and the list of them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from portraitgen.data.formats.consisid.layout import KeyedBy
from portraitgen.data.formats.consisid.samples import annotations_of, export_clip
from portraitgen.data.sample import ClipSample, DataError
from portraitgen.media.decode import iter_frames
from portraitgen.media.encode import encode_clip
from portraitgen.media.files import replace_file

CAPTIONS = "captions/captions.json"
LIST = "total_train_data.txt"


class ConsisIDFolder:
    """Writes clips under a folder, each with its video, tables and masks; then captions and the list.

    A clip that is there already is left as it is, so that an export that was interrupted goes on.

    Args:
        out: the folder; the list names it as it is given here.
        originals: a folder with the videos that imported clips come from: they are copied, byte for byte,
            where the file is the very one. Other clips get the video of the shard.
        keyed_by: see `layout.write_annotations`.
    """

    def __init__(self, out: Path, *, originals: Path | None = None, keyed_by: KeyedBy | None = None) -> None:
        self._out, self._keyed_by = out, keyed_by
        found = originals.rglob("*.mp4") if originals is not None else ()
        self._originals: dict[str, list[Path]] = {}
        for path in sorted(found):
            self._originals.setdefault(path.name, []).append(path)
        self._captions: list[Mapping[str, Any]] = []
        self.copied = 0

    def add(self, sample: ClipSample) -> None:
        """Write one clip.

        Raises:
            DataError: the sample is a photo, or another clip has its name.
        """
        annotations = annotations_of(sample)
        name = annotations.name
        if any(entry["path"] == f"{name}.mp4" for entry in self._captions):
            raise DataError(f"sample {sample.key}: another clip is called {name}; export the shards apart")
        if not (self._out / "refine_bbox_jsons" / f"{name}.json").is_file():
            export_clip(sample, self._out, keyed_by=self._keyed_by)
        video = self._out / "videos" / f"{name}.mp4"
        data = self._video(sample)
        video.parent.mkdir(parents=True, exist_ok=True)
        replace_file(video, data)
        height, width = sample.source.get("consisid", {}).get("size", (sample.height, sample.width))
        told = {
            "cap": sample.caption or "",
            "size": len(data),
            "resolution": {"height": height, "width": width},
            "fps": float(sample.fps),
            "duration": float(sample.num_frames / sample.fps),
        }
        kept = sample.source.get("consisid", {}).get("caption", {})
        self._captions.append({**told, **kept, "path": f"{name}.mp4"})

    def finish(self) -> int:
        """Write the captions and the list; returns the number of clips."""
        captions = self._out / CAPTIONS
        captions.parent.mkdir(parents=True, exist_ok=True)
        replace_file(captions, json.dumps(self._captions, indent=4, ensure_ascii=False).encode())
        line = f"{self._out / 'videos'},{captions},{self._out}\n"
        replace_file(self._out / LIST, line.encode())
        return len(self._captions)

    def _video(self, sample: ClipSample) -> bytes:
        assert sample.video is not None
        about = sample.source.get("consisid", {})
        # Of any other clip the shard shows a part, in time or in the picture.
        for path in self._originals.get(str(sample.source.get("uri")), []) if about else ():
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == sample.source["sha256"]:
                self.copied += 1
                return data
        height, width = about.get("size", (sample.height, sample.width))
        if (height, width) == (sample.height, sample.width):
            return sample.video
        # The shard's picture was made larger at two sides. Odd sides cannot be encoded.
        pictures = (frame.image[: height // 2 * 2, : width // 2 * 2] for frame in iter_frames(sample.video))
        return encode_clip(pictures, fps=sample.fps)
