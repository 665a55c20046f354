"""What ConsisID is told of a face, of some frames of each person, so that training looks at none."""

import random
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from portraitgen.data.features.feature import FaceValues, Unit, weights_digest
from portraitgen.data.formats.consisid.native import detections_of
from portraitgen.data.formats.consisid.references import select_frames_with_distance_constraint
from portraitgen.data.pictures import SamplePictures
from portraitgen.data.sample import ClipSample, DataError
from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.conditioner import FaceConditioner, FaceView
from portraitgen.faces.types import Face
from portraitgen.media.geometry import box_iou
from portraitgen.media.yuv import rgb_to_uint8
from portraitgen.runs.prepare.features.face_latents import FaceLatents, source_name
from portraitgen.runs.prepare.features.pretrained import chosen_device

_BATCH = 8


@dataclass(frozen=True)
class FaceConditionFeature:
    """Of some frames of each person, of this person only: `FaceConditions`, the layers in float16; and
    `FaceLatents`, where they are asked for.

    A face is cut out by the key points in the shard. Where it has none (clips of ConsisID's that were
    imported without landmarks) `faces` looks for one where the person's box is.

    Attributes:
        conditioner: the networks.
        faces: finds key points and landmarks where the shard has none; null: such samples are left out.
        per_person: frames of each person at most: those in which face and head are surest, drawn as ConsisID
            draws its references, with the same result each time.
        min_distance: frames between them, where there are enough.
        latents: of the picture with noise on it, where it names a VAE.
        device: "auto" takes a GPU where there is one.
    """

    conditioner: FaceConditioner
    faces: FaceBackend | None = None
    per_person: int = 4
    min_distance: int = 12
    latents: FaceLatents = field(default_factory=FaceLatents)
    device: str = "auto"

    name: ClassVar[str] = "face"
    batch_key: ClassVar[str] = "face"
    unit: ClassVar[Unit] = "face"

    def __post_init__(self) -> None:
        for name in ("per_person", "min_distance"):
            if getattr(self, name) < 1:
                raise ValueError(f"features.face.{name}={getattr(self, name)}: give at least 1")

    def depends_on(self) -> Mapping[str, Any]:
        return {
            "weights": weights_digest(self.conditioner),
            **self.conditioner.facts(),
            "faces": None if self.faces is None else self.faces.name,
            "per_person": self.per_person,
            "min_distance": self.min_distance,
            # Absent where there are none, so that features made before there were keep their fingerprint.
            **({"latents": dict(self.latents.depends_on())} if self.latents.model else {}),
        }

    def __call__(self, sample: ClipSample) -> FaceValues:
        views = list(self._views(sample))
        if not views:
            raise DataError(
                "no key points of any face: import the clips with landmarks=true, or set features.face.faces"
            )
        conditioner = self.conditioner.to(chosen_device(self.device))
        parts = []
        for start in range(0, len(views), _BATCH):
            try:
                parts.append(conditioner([view for _, _, view in views[start : start + _BATCH]]))
            except ValueError as error:
                raise DataError(str(error)) from error
        columns = {
            "face_embedding": torch.cat([part.embedding for part in parts]).float(),
            "face_hidden": torch.cat([part.hidden for part in parts]).to(torch.float16),
            "face_picture": torch.cat([part.picture for part in parts]),
            "face_key_points": torch.cat([part.key_points for part in parts]).float(),
        }
        if self.latents.model:
            size = (sample.height, sample.width)
            seen = zip(columns["face_picture"], columns["face_key_points"], views, strict=True)
            columns["face_latent_distribution"] = torch.stack(
                [
                    self.latents(picture, points, size, source=source_name(sample.key, person, frame))
                    for picture, points, (person, frame, _) in seen
                ]
            )
        if not columns["face_hidden"].isfinite().all():
            raise DataError("its face's layers leave the range of float16")
        arrays = {name: column.cpu().numpy() for name, column in columns.items()}
        dtype = np.dtype([(name, array.dtype, array.shape[1:]) for name, array in arrays.items()])
        values = np.empty(len(views), dtype)
        for name, array in arrays.items():
            values[name] = array
        return FaceValues(np.array([(person, frame) for person, frame, _ in views], np.int64), values)

    def _views(self, sample: ClipSample) -> Iterator[tuple[int, int, FaceView]]:
        """Person, frame and face of those that are chosen and can be cut out."""
        pictures, detections = SamplePictures(sample), detections_of(sample.tracks)
        for person, track in enumerate(sample.tracks):
            usable = np.flatnonzero(track.valid & np.isfinite(track.boxes).all(axis=1)).tolist()
            if not usable:
                continue
            chosen = select_frames_with_distance_constraint(
                usable,
                min(self.per_person, len(usable)),
                self.min_distance,
                usable[0],
                detections,
                person + 1,
                rng=random.Random(zlib.crc32(f"{sample.key} {person}".encode())),
                ensure_control_frame=False,
            )
            assert chosen is not None, "no more are asked for than there are"
            for frame in sorted(chosen):
                picture = rgb_to_uint8(pictures.rgb(frame, 1))[0].movedim(0, -1).contiguous().cpu().numpy()
                points, landmarks = track.keypoints[frame], track.landmarks[frame]
                scheme = sample.landmark_scheme
                if not np.isfinite(points).all():
                    face = self._found(picture, track.boxes[frame])
                    if face is None or self.faces is None:
                        continue
                    points, landmarks, scheme = face.keypoints, face.landmarks, self.faces.landmark_scheme
                yield person, frame, FaceView(picture, points, landmarks, scheme)

    def _found(self, picture: np.ndarray, box: np.ndarray) -> Face | None:
        """The face of a picture that overlaps most with a person's box."""
        if self.faces is None:
            return None
        overlaps = [(float(box_iou(face.box, box)), face) for face in self.faces.detect(picture)]
        overlap, face = max(overlaps, key=lambda each: each[0], default=(0.0, None))
        return face if overlap > 0 else None
