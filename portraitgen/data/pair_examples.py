"""Pairs of photos of one person as examples: what shall come out, what of it is covered, and who it is.

Keys of the batches are those of trainers of identity by reference (Insert-Anything, OminiControl): `result`,
`src`, `mask`, `ref`, `data_type`.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from portraitgen.data.batch import FLOAT32, UINT8, Field
from portraitgen.data.examples import Texts
from portraitgen.data.features.reader import FeatureReader
from portraitgen.data.identities import FacePlace, Identities
from portraitgen.data.photo_examples import OpenPhotos, PhotoExamples, View
from portraitgen.data.sample import REGIONS, DataError
from portraitgen.data.selection import Candidates, Selection
from portraitgen.data.sizes import Size, as_size
from portraitgen.media.framing import face_frame, faces_frame
from portraitgen.media.geometry import expand_box

BOX = "box"
DATA_TYPES = {BOX: "person_head", "face": "person_head", "head": "person_head", "person": "person"}
"""Covered region → kind of the example, as losses of faces choose their rows by it."""


class PairExamples(PhotoExamples):
    """Photos of a person (`result`), each with a reference that shows the same person (`ref`).

    Who is in a photo is known from names (`prepare.py folder_identities=true`, `labels=`, `identities=`): a
    pair of photos is two photos with one name. Photos of whom there is no other are left out, and counted in
    the log.

    Args:
        size, buckets, enlarge, flip, captions, faces, features: see `PhotoExamples`; a mirrored photo has a
            mirrored reference. Faces and features are those of the person in `result`.
        ref: "other": another photo of the person, drawn anew each time; "own": the photo's own face, which
            teaches to copy, for photos without names.
        ref_size: side or [height, width] of the reference; null: that of the photo.
        ref_margin: the reference shows the face with so many face sizes to spare on each side; null: as much
            of the photo as has the proportion.
        regions: what `mask` covers of the person: "face", "head" or "person" (masks in the shard), or "box",
            that of the face; of several one is drawn for each example.
        grow: the covered region reaches so much beyond, in shares of the longer side of its box.

    Raises:
        DataError: settings that make no sense, naming the key.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int] | None = None,
        buckets: Sequence[Sequence[int]] | None = None,
        enlarge: float | None = None,
        flip: float = 0.0,
        captions: bool = False,
        faces: int | None = None,
        features: Sequence[str] | None = None,
        ref: str = "other",
        ref_size: int | Sequence[int] | None = None,
        ref_margin: float | None = 0.5,
        regions: Sequence[str] = (BOX,),
        grow: float = 0.2,
    ) -> None:
        super().__init__(
            size=size,
            buckets=buckets,
            enlarge=enlarge,
            flip=flip,
            captions=captions,
            faces=faces,
            features=features,
        )
        if ref not in ("other", "own"):
            raise DataError(f"data.examples.ref={ref}: give other or own")
        unknown = [region for region in regions if region not in DATA_TYPES]
        if unknown or not regions or isinstance(regions, str):
            raise DataError(f"data.examples.regions={regions}: give a list of {', '.join(DATA_TYPES)}")
        for name, value in (("grow", grow), ("ref_margin", ref_margin or 0.0)):
            if value < 0:
                raise DataError(f"data.examples.{name}={value}: give a share, 0 or more")
        self.ref, self.ref_margin, self.grow = ref, ref_margin, grow
        self.ref_size = as_size("ref_size", ref_size)
        self.regions = tuple(regions)

    @property
    def needs_identities(self) -> bool:
        return self.ref == "other"

    def _need_pairs(self, candidates: Candidates, identities: Identities) -> None:
        candidates.need(
            "another photo of the same person",
            identities.has_others(),
            "data.examples.ref=other: nobody in {count} photos is known by name and in another photo too;"
            " prepare them with folder_identities=true, labels= or identities=, or set data.examples.ref=own",
        )
        for region in self.regions:
            if region in REGIONS:
                candidates.need_masks(region, setting="regions")

    def _opened(
        self,
        selection: Selection,
        features: Sequence[FeatureReader],
        identities: Identities | None,
        *,
        flip: float,
    ) -> "OpenPairs":
        return OpenPairs(self, selection, features, identities, flip=flip)


class OpenPairs(OpenPhotos):
    """The pairs of a catalog; see `OpenExamples`."""

    _settings: PairExamples

    def fill(self, sample: int, rng: np.random.Generator, targets: dict[str, np.ndarray]) -> Texts:
        """See `OpenExamples`."""
        return super().fill(sample, rng, {("image" if k == "result" else k): v for k, v in targets.items()})

    def _fill_more(
        self, main: FacePlace, view: View, rng: np.random.Generator, targets: dict[str, np.ndarray]
    ) -> Texts:
        settings = self._settings
        # Both draws happen for every sample: what comes of one does not depend on the other's settings.
        region = settings.regions[int(rng.integers(len(settings.regions)))]
        place = main
        if self._identities is not None:
            other = self._identities.another(main, rng)
            assert other is not None, "photos without another one are no candidates"
            place = other
        self._fill_mask(main, region, view, targets["mask"])
        self._fill_ref(place, view.mirrored, targets)
        return {"data_type": DATA_TYPES[region]}

    def _fill_mask(self, main: FacePlace, region: str, view: View, target: np.ndarray) -> None:
        height, width = target.shape
        boxes, _ = self._reader.people(main.shard, main.row)
        if region == BOX:
            box = expand_box(view.boxes(boxes[main.track]), 1 + 2 * self._settings.grow)
            left, top, right, bottom = np.clip(np.round(box).astype(int), 0, [width, height] * 2)
            target[top:bottom, left:right] = 1
            return
        stored = self._reader.masks(*main, np.zeros(1, np.int64), region=region)
        covered = view.framing.cut_masks(stored)[0].astype(np.uint8)
        covered = covered[:, ::-1] if view.mirrored else covered
        rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
        if len(rows) and self._settings.grow:
            side = max(np.ptp(rows), np.ptp(columns)) + 1
            reach = 2 * round(self._settings.grow * float(side)) + 1
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
            covered = cv2.dilate(np.ascontiguousarray(covered), kernel)
        target[...] = covered

    def _fill_ref(self, place: FacePlace, mirrored: bool, targets: dict[str, np.ndarray]) -> None:
        """The reference, and where its key points are."""
        size: Size = targets["ref"].shape[:2]
        boxes, key_points = self._reader.people(place.shard, place.row)
        stored = tuple(self._catalog.indexes[place.shard].size[place.row].tolist())
        box, margin = boxes[place.track], self._settings.ref_margin
        if margin is None:
            framing = faces_frame(box[None], image_size=stored, size=size)
        else:
            framing = face_frame(box, image_size=stored, size=size, margin=margin)
        view = View(framing, mirrored)
        part = framing.part(self._reader.photo(place.shard, place.row))
        cv2.cvtColor(cv2.flip(part, 1) if mirrored else part, cv2.COLOR_BGR2RGB, dst=targets["ref"])
        targets["ref_key_points"][...] = view.key_points(key_points[place.track])

    def _fields(self, size: Size) -> dict[str, Field]:
        table = super()._fields(size)
        return {
            "result": table.pop("image"),
            "mask": Field(size, UINT8),
            "ref": Field((*(self._settings.ref_size or size), 3), UINT8),
            "ref_key_points": Field((5, 2), FLOAT32),
            **table,
        }
