"""Photos as examples: a picture of one size or of a bucket of sizes, and everybody in it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from portraitgen.data.archive import Place
from portraitgen.data.batch import BOOL, FLOAT32, UINT8, BatchLayout, Field
from portraitgen.data.catalog import Catalog, Range
from portraitgen.data.examples import Span, Texts
from portraitgen.data.face_crops import FaceCrops
from portraitgen.data.features.reader import FeatureReader, empty_values
from portraitgen.data.identities import FacePlace, Identities
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import DataError
from portraitgen.data.selection import Candidates, Selection, check_region
from portraitgen.data.sizes import Size, as_buckets, as_size, nearest_bucket
from portraitgen.faces.mirror import KEY_POINTS, mirror_boxes, mirror_order, mirror_points
from portraitgen.media.framing import Framing, faces_frame


class PhotoExamples:
    """Photos and the people in them, for data/datamodule. Keys of the batches stand in data/batch.

    As much of a photo is shown as has the proportion wanted, all faces in it where they fit; where they do
    not, the smallest are given up. Whose key points are not all in the picture is not among its people.
    Samples that lack what is asked for are left out, and counted in the log. Spans are shares of the photos,
    by their order in the shards.

    Args:
        size: a side, or [height, width]: square, portrait or landscape.
        buckets: instead of it, several sizes, of which each photo has the one of the nearest proportion; a
            batch is of one bucket. A list [[height, width], ...], or {side: 512, step: 64, max_aspect: 2} for
            sizes of about side² pixels. How often which bucket comes, and what becomes of remainders, see
            BucketOrder.
        enlarge: leave out photos that must be enlarged by more than this; null for no limit.
        people: places for people in a batch, those with the largest faces first; others in the picture are
            left unnamed (data.filters={num_faces: [1, 2]} takes photos without others).
        flip: probability that a photo is mirrored, with all that lies in it; left and right of key points and
            landmarks change places.
        landmarks: read the landmarks.
        masks: region of the people whose masks are read: "face", "head" or "person"; null for none.
        captions: read the caption in the shard.
        faces: side of the upright face crops (ArcFace's template), a multiple of 112; null for none. They are
            those in the shard, or cut out of the photo where there are none.
        identities: give the names.
        other: probability, for each person, of a crop of another of the photos used, which shows the same
            person; 0 for none. It is mirrored with the photo, so that both show the same side of the face.
        features: precomputed features of people, texts or prompts to read, such as ["identity"].

    Raises:
        DataError: settings that make no sense, naming the key.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int] | None = None,
        buckets: Sequence[Sequence[int]] | Mapping[str, float] | None = None,
        enlarge: float | None = None,
        people: int = 1,
        flip: float = 0.0,
        landmarks: bool = False,
        masks: str | None = None,
        captions: bool = False,
        faces: int | None = None,
        identities: bool = False,
        other: float = 0.0,
        features: Sequence[str] | None = None,
    ) -> None:
        if (size is None) == (buckets is None):
            raise DataError("data.examples: photos need either size or buckets, the other null")
        single = as_size("size", size)
        self.sizes: tuple[Size, ...] = as_buckets(buckets) if buckets is not None else ()
        if single is not None:
            self.sizes = (single,)
        if people < 1:
            raise DataError(f"data.examples.people={people}: give 1 or more places")
        for name, probability in (("flip", flip), ("other", other)):
            if not 0 <= probability <= 1:
                raise DataError(f"data.examples.{name}={probability}: give a probability from 0 to 1")
        if faces is not None and (faces < 112 or faces % 112):
            raise DataError(
                f"data.examples.faces={faces}: give a multiple of 112, the side of ArcFace's crop"
            )
        if other and faces is None:
            raise DataError(
                f"data.examples.other={other}: needs the side of the crops, data.examples.faces=112"
            )
        if enlarge is not None and enlarge <= 0:
            raise DataError(f"data.examples.enlarge={enlarge}: give a factor above 0, or null")
        check_region("masks", masks)
        self.enlarge, self.people, self.flip, self.landmarks = enlarge, people, flip, landmarks
        self.masks, self.captions, self.faces = masks, captions, faces
        self.identities, self.other, self.features = identities, other, tuple(features or ())

    def open(
        self, catalog: Catalog, *, span: Span, filters: Mapping[str, Range], grading: bool
    ) -> "OpenPhotos":
        """See `Examples`. Grading mirrors nothing."""
        features = [FeatureReader(catalog, name) for name in self.features]
        for feature in features:
            if feature.kind.unit not in ("person", "text") and not feature.of_sample:
                raise DataError(
                    f"data.examples.features: {feature.name} is of whole pictures, and photos are framed"
                    " anew: take features of people, texts or prompts"
                )
        if self.landmarks and self.flip:
            mirror_order(catalog.landmark_scheme)
        candidates = Candidates(catalog, filters)
        photos = catalog.has_member("jpg")
        candidates.need(
            "a photo",
            photos,
            "data.examples: none of {count} samples is a photo; videos are for data=face_clips",
        )
        candidates.need(
            "a place in the span",
            _in_span(photos, span),
            f"the span {list(span)} holds none of {{count}} photos: widen it",
        )
        candidates.need_masks(self.masks)
        if self.captions:
            candidates.need_captions()
        candidates.need_features({feature.name: feature.has_values() for feature in features})
        stored = catalog.column("size")
        buckets = nearest_bucket(stored, self.sizes)
        if self.enlarge is not None:
            needed = (np.array(self.sizes)[buckets] / stored).max(axis=1)
            candidates.need(
                "the size",
                needed <= self.enlarge,
                f"data.examples.enlarge={self.enlarge}: every one of {{count}} photos would be enlarged more",
            )
        identities = None
        if self.needs_identities:
            identities = Identities(catalog, candidates.left)
            self._need_pairs(candidates, identities)
        sizes = Counter(buckets[candidates.left].tolist())
        shown = ", ".join(f"{number} at {_name(self.sizes[size])}" for size, number in sorted(sizes.items()))
        selection = candidates.selection(shown, buckets)
        return self._opened(selection, features, identities, flip=0.0 if grading else self.flip)

    @property
    def needs_identities(self) -> bool:
        """Whether it matters who is in a photo."""
        return self.identities or bool(self.other)

    def _need_pairs(self, candidates: Candidates, identities: Identities) -> None:
        """Leave out photos of people whom no other photo shows; nothing here."""

    def _opened(
        self,
        selection: Selection,
        features: Sequence[FeatureReader],
        identities: Identities | None,
        *,
        flip: float,
    ) -> "OpenPhotos":
        return OpenPhotos(self, selection, features, identities, flip=flip)


class OpenPhotos:
    """The photos of a catalog; see `OpenExamples`."""

    def __init__(
        self,
        settings: PhotoExamples,
        selection: Selection,
        features: Sequence[FeatureReader],
        identities: Identities | None,
        *,
        flip: float,
    ) -> None:
        self.selection = selection
        self._settings, self._features, self._identities, self._flip = settings, features, identities, flip
        self._catalog, self._reader = selection.catalog, ClipReader(selection.catalog)
        self._crops = None if settings.faces is None else FaceCrops(self._reader, settings.faces)
        self.constants = empty_values(features)
        self.layouts = tuple(BatchLayout(self._fields(size)) for size in settings.sizes)

    def places(self, sample: int, rng: np.random.Generator) -> list[Place]:
        """See `OpenExamples`. What is drawn of other photos is fetched when it is read."""
        shard, row = self.selection.place(sample)
        people = range(int(self._catalog.indexes[shard].num_tracks[row]))
        places = self._reader.sample_places(shard, row)
        for feature in self._features:
            for track in people if feature.kind.unit == "person" else people[:1]:
                places += feature.places(shard, row, track, np.zeros(1, np.int64))
        return places

    def fill(self, sample: int, rng: np.random.Generator, targets: dict[str, np.ndarray]) -> Texts:
        """See `OpenExamples`."""
        settings, reader = self._settings, self._reader
        shard, row = self.selection.place(sample)
        size = settings.sizes[int(self.selection.buckets[sample])]
        mirrored = bool(self._flip) and bool(rng.random() < self._flip)
        boxes, key_points = reader.people(shard, row)
        stored = tuple(self._catalog.indexes[shard].size[row].tolist())
        framing, reduced = _framing(boxes[np.isfinite(boxes).all(axis=1)], stored, size)

        part = framing.part(reader.photo(shard, row, reduced=reduced), reduced=reduced)
        cv2.cvtColor(cv2.flip(part, 1) if mirrored else part, cv2.COLOR_BGR2RGB, dst=targets["image"])

        view = View(framing, mirrored)
        shown = view.points(key_points)
        inside = ((shown >= 0) & (shown < (size[1], size[0]))).all(axis=(1, 2))
        chosen = np.flatnonzero(inside)[: settings.people]
        places = [FacePlace(shard, row, int(track)) for track in chosen]
        for name, target in targets.items():
            if name != "image":
                target[...] = 0
        count = len(chosen)
        targets["people"][:count] = True
        targets["boxes"][:count] = view.boxes(boxes[chosen])
        targets["key_points"][:count] = view.key_points(key_points[chosen])
        first = np.zeros(1, np.int64)
        for slot, place in enumerate(places):
            if settings.landmarks:
                points = view.points(reader.landmarks(*place, first)[0])
                order = mirror_order(self._catalog.landmark_scheme) if mirrored else slice(None)
                targets["landmarks"][slot] = points[order]
            if settings.masks is not None:
                masks = framing.cut_masks(reader.masks(*place, first, region=settings.masks))
                targets["masks"][slot] = masks[0, :, ::-1] if mirrored else masks[0]
            if self._crops is not None:
                targets["faces"][slot] = view.mirror(self._crops(place))
            if settings.other:
                self._fill_other(place, slot, view, rng, targets)
        texts: Texts = {"caption": reader.caption(shard, row)} if settings.captions else {}
        if settings.identities:
            assert self._identities is not None
            names = [self._identities.name_of(place) or "" for place in places]
            texts["identity_name"] = [*names, *[""] * (settings.people - count)]
        for feature in self._features:
            if feature.kind.unit == "text":
                texts[feature.kind.batch_key] = feature.text(shard, row)
            elif feature.of_sample:
                feature.fill_sample(shard, row, targets)
            else:
                targets[feature.kind.batch_key][:count] = feature.values(shard, row, chosen)
        return texts | self._fill_more(FacePlace(shard, row, 0), view, rng, targets)

    def _fill_more(
        self, main: FacePlace, view: "View", rng: np.random.Generator, targets: dict[str, np.ndarray]
    ) -> Texts:
        """What else there is of the person with the largest face; nothing here."""
        return {}

    def _fill_other(
        self,
        place: FacePlace,
        slot: int,
        view: "View",
        rng: np.random.Generator,
        targets: dict[str, np.ndarray],
    ) -> None:
        """Another picture of a person, if one is drawn and there is one."""
        assert self._identities is not None
        assert self._crops is not None
        if rng.random() >= self._settings.other:
            return
        found = self._identities.another(place, rng)
        if found is not None:
            targets["other"][slot] = view.mirror(self._crops(found))
            targets["other_found"][slot] = True

    def _fields(self, size: Size) -> dict[str, Field]:
        """The batch's fields, see data/batch."""
        settings, places = self._settings, self._settings.people
        table = {
            "image": Field((*size, 3), UINT8),
            "people": Field((places,), BOOL),
            "boxes": Field((places, 4), FLOAT32),
            "key_points": Field((places, 5, 2), FLOAT32),
        }
        if settings.landmarks:
            table["landmarks"] = Field((places, self._catalog.num_landmarks, 2), FLOAT32)
        if settings.masks is not None:
            table["masks"] = Field((places, *size), UINT8)
        if settings.faces is not None:
            table["faces"] = Field((places, settings.faces, settings.faces, 3), UINT8)
            if settings.other:
                table["other"] = table["faces"]
                table["other_found"] = Field((places,), BOOL)
        for feature in self._features:
            if feature.kind.unit == "person":
                table[feature.kind.batch_key] = Field((places, *feature.kind.shape), feature.kind.dtype)
            elif feature.of_sample:
                table |= dict(feature.fields(0))
        return table


class View(NamedTuple):
    """Where things of a photo are in what is shown of it."""

    framing: Framing
    mirrored: bool

    def points(self, points: np.ndarray) -> np.ndarray:
        moved = self.framing.to_frame(points)
        return mirror_points(moved, width=self.framing.size[1]) if self.mirrored else moved

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        moved = self.framing.boxes_to_frame(boxes)
        return mirror_boxes(moved, width=self.framing.size[1]) if self.mirrored else moved

    def key_points(self, key_points: np.ndarray) -> np.ndarray:
        """Of faces [..., 5, 2], left and right as seen."""
        moved = self.points(key_points)
        return moved[..., KEY_POINTS, :] if self.mirrored else moved

    def mirror(self, crop: np.ndarray) -> np.ndarray:
        return crop[:, ::-1] if self.mirrored else crop


def _framing(boxes: np.ndarray, stored: Size, size: Size) -> tuple[Framing, int]:
    """What is shown of a photo with faces at `boxes`, and by how much its JPEG may be reduced for that."""
    whole = np.array([0, 0, stored[1], stored[0]], np.float32)
    framing = faces_frame(boxes if len(boxes) else whole[None], image_size=stored, size=size)
    room = min(framing.height / size[0], framing.width / size[1])
    reduced = max(step for step in (1, 2, 4, 8) if step <= max(room, 1))
    return framing.on_grid(reduced), reduced


def _name(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def _in_span(photos: np.ndarray, span: Span) -> np.ndarray:
    """bool [N]: the share of the True ones of bool [N] that a span is, by their order."""
    count = int(photos.sum())
    low, high = (round(bound * count) for bound in span)
    numbers = np.cumsum(photos) - 1
    return np.asarray(photos & (numbers >= low) & (numbers < high))
