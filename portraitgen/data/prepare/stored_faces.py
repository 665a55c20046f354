"""The faces of a video on the disk: memory does not grow with its length."""

from array import array
from collections.abc import Sequence
from typing import BinaryIO, overload

import numpy as np

from portraitgen.faces.types import Face


class StoredFaces(Sequence[list[Face]]):
    """The faces of each frame, appended once and read any number of times; exactly what was put in.

    Meshes are not kept. All faces have as many landmarks as the first.

    Args:
        file: open for reading and writing, empty; all that is held in memory is where each frame begins.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._counts = array("I")
        self._ends = array("Q", [0])
        self._record = np.dtype([])

    def append(self, faces: Sequence[Face]) -> None:
        """Write the faces of the next frame: all records, then the embeddings of those that have one."""
        if faces and not self._record.names:
            self._record = np.dtype(
                [
                    ("box", "<f4", 4),
                    ("score", "<f8"),
                    ("landmarks", "<f4", faces[0].landmarks.shape),
                    ("keypoints", "<f4", (5, 2)),
                    ("embedded", "?"),
                ],
                align=True,
            )
        records = np.zeros(len(faces), self._record)
        for record, face in zip(records, faces, strict=True):
            record["box"], record["score"] = face.box, face.score
            record["landmarks"], record["keypoints"] = face.landmarks, face.keypoints
            record["embedded"] = face.embedding is not None
        embeddings = [face.embedding.tobytes() for face in faces if face.embedding is not None]
        data = b"".join([records.tobytes() if faces else b"", *embeddings])
        self._file.seek(self._ends[-1])
        self._file.write(data)
        self._counts.append(len(faces))
        self._ends.append(self._ends[-1] + len(data))

    def __len__(self) -> int:
        return len(self._counts)

    @overload
    def __getitem__(self, frame: int) -> list[Face]: ...
    @overload
    def __getitem__(self, frame: slice) -> list[list[Face]]: ...
    def __getitem__(self, frame: int | slice) -> list[Face] | list[list[Face]]:
        if isinstance(frame, slice):
            return [self[each] for each in range(*frame.indices(len(self)))]
        frame = range(len(self))[frame]
        count = self._counts[frame]
        if not count:
            return []
        self._file.seek(self._ends[frame])
        data = self._file.read(self._ends[frame + 1] - self._ends[frame])
        records = np.frombuffer(data, self._record, count)
        embedded = int(records["embedded"].sum())
        rest = np.frombuffer(data, "<f4", offset=records.nbytes)
        embeddings = iter(rest.reshape(embedded, -1) if embedded else ())
        return [
            Face(
                record["box"],
                float(record["score"]),
                record["landmarks"],
                record["keypoints"],
                next(embeddings) if record["embedded"] else None,
            )
            for record in records
        ]
