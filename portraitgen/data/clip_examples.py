"""Windows of clips as examples: frames, a reference frame and motion frames, and what is known of them."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from portraitgen.data.archive import Place
from portraitgen.data.batch import BOOL, FLOAT32, INT64, UINT8, BatchLayout, Field
from portraitgen.data.catalog import Catalog, Range
from portraitgen.data.clip_choice import ClipChoice
from portraitgen.data.clips import ClipWindows, Window, run_before
from portraitgen.data.examples import Span, Texts
from portraitgen.data.face_choice import FaceChoice
from portraitgen.data.features.reader import FeatureReader, empty_values
from portraitgen.data.motion import History, MotionFrames
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import DataError
from portraitgen.data.selection import Candidates, Selection, check_region
from portraitgen.data.sizes import as_size
from portraitgen.data.window_selection import need_starts, need_windows
from portraitgen.faces.drawing import draw_landmarks
from portraitgen.media.audio import frame_audio_window
from portraitgen.media.framing import Framing, largest_frame
from portraitgen.media.geometry import union_box

GROUPS = ("frames", "reference", "motion")
"""The groups that the frames of an example come in."""


class ClipExamples:
    """Windows of clips, for data/datamodule. Keys of the batches stand in data/batch.

    Samples that lack what is asked for are left out, and counted in the log.

    Args:
        clip_frames, stride: frames of a window and the distance between them, or several distances, see
            ClipWindows; 1 frame for single pictures.
        reference: "random", "first", "neutral" (see ClipWindows), or null for none.
        motion: frames from before the window; null for none.
        snap_keyframes, holes: see ClipWindows.
        size: show the clips at this size, a side or [height, width]: as much of the picture as has its
            proportion, the face in the middle; clips of all sizes then go together. null: as they are stored.
        pictures: decode the pictures of all groups (true), of none, or of those named: ["reference"].
            Grading sees all, unless this is false; [] decodes none for training alone.
        pose_size: draw the landmarks on a canvas of this size, a side or [height, width]; null for none.
        masks: region of the window's person whose masks are read: "face", "head" or "person"; null for none.
        key_points, boxes: read the five key points, the box of the face.
        captions: read the caption in the shard.
        fps: give the frames a second.
        audio: read the sound of the windows.
        sound_margin: give so many frames' sound before and after the window too: of `audio`, silent where the
            clip has none, and of the feature `speech`, where the first and last frame's stand in.
        features: precomputed features to read, such as ["vae"], or "vae@1a2b3c4d" where there are several.
        cross_face: of features of faces: probability of a face from elsewhere in the clip, see FaceChoice.

    Raises:
        DataError: settings that make no sense, naming the key.
    """

    def __init__(
        self,
        *,
        clip_frames: int,
        stride: int | Sequence[int] = 1,
        reference: str | None = "random",
        motion: MotionFrames | None = None,
        snap_keyframes: bool = True,
        holes: int = 0,
        size: int | Sequence[int] | None = None,
        pictures: bool | Sequence[str] = True,
        pose_size: int | Sequence[int] | None = None,
        masks: str | None = None,
        key_points: bool = False,
        boxes: bool = False,
        captions: bool = False,
        fps: bool = False,
        audio: bool = False,
        sound_margin: int = 0,
        features: Sequence[str] | None = None,
        cross_face: float = 0.0,
    ) -> None:
        if not isinstance(pictures, bool) and not set(pictures) <= set(GROUPS):
            raise DataError(
                f"data.examples.pictures={list(pictures)}: give true, false or some of {list(GROUPS)}"
            )
        check_region("masks", masks)
        asked_for = (True, reference is not None, motion is not None)
        groups = [name for name, there in zip(GROUPS, asked_for, strict=True) if there]
        self.clip_frames = clip_frames
        self.strides = (stride,) if isinstance(stride, int) else tuple(stride)
        self.reference, self.motion, self.holes = reference, motion, holes
        self.snap_keyframes = snap_keyframes
        self.groups = tuple(groups)
        self.pictures = tuple(name for name in groups if pictures is True or (pictures and name in pictures))
        self.graded_pictures = () if pictures is False else self.groups
        self.size, self.pose_size = as_size("size", size), as_size("pose_size", pose_size, multiple_of=1)
        self.masks, self.key_points, self.boxes = masks, key_points, boxes
        self.captions, self.fps, self.audio, self.sound_margin = captions, fps, audio, sound_margin
        self.features, self.face = tuple(features or ()), FaceChoice(cross_face)
        if sound_margin < 0 or (sound_margin and self.strides != (1,)):
            raise DataError(
                f"data.examples.sound_margin={sound_margin}: give 0 or more, and windows of stride 1"
            )
        # Neighbouring windows of one length may differ by a sample: all get the same number.
        for name, asked in (("sound", audio), ("motion frames", motion is not None)):
            if asked and len(self.strides) > 1:
                raise DataError(
                    f"data.examples.stride={list(self.strides)}: windows with {name} need one stride"
                )
        if motion is not None and motion.pick == "mean" and "motion" in self.pictures:
            raise DataError(
                "data.examples.motion.pick=mean: pictures are not averaged; read latents of the motion frames"
                " (data.examples.features=[vae]) and set data.examples.pictures=[reference], or false"
            )
        self.windows((0.0, 1.0))  # says what is wrong with the others

    def windows(self, span: Span) -> ClipWindows:
        """Which windows of a clip there are, in a share of it."""
        lead = self.motion.lead(self.strides[0]) if self.motion else 0
        kind = (self.clip_frames, self.strides, span, self.snap_keyframes, self.reference)
        return ClipWindows(*kind, lead, self.holes)

    def open(
        self, catalog: Catalog, *, span: Span, filters: Mapping[str, Range], grading: bool
    ) -> "OpenClips":
        """See `Examples`."""
        features = [FeatureReader(catalog, name) for name in self.features]
        of_pictures = [f.name for f in features if f.kind.unit in ("frame", "window")]
        if self.size is not None and of_pictures:
            raise DataError(
                f"data.examples.size={list(self.size)}: {of_pictures[0]} is of the frames as they are stored;"
                " set data.examples.size=null"
            )
        for feature in features:
            feature.check_windows(self.clip_frames, self.strides)
        windows = self.windows(span)
        candidates = Candidates(catalog, filters)
        candidates.need_masks(self.masks)
        candidates.need_features({feature.name: feature.has_values() for feature in features})
        if self.captions:
            if any(feature.kind.batch_key == "caption" for feature in features):
                raise DataError("data.examples.captions: the feature caption is the caption already; set one")
            candidates.need_captions()
        if self.audio:
            candidates.need(
                "sound",
                catalog.has_member("wav"),
                "none of {count} samples that pass data.filters has sound, and data.examples.audio is set:"
                " prepare videos that have some",
            )
        need_windows(candidates, windows)
        need_starts(candidates, windows, [f.window_starts for f in features if f.restricts_windows])
        low, high = windows.span
        selection = candidates.selection(f"from {low:.0%} to {high:.0%} of each")
        pictures = self.graded_pictures if grading else self.pictures
        return OpenClips(self, windows, selection, features, pictures)


class OpenClips:
    """Windows of the clips of a catalog; see `OpenExamples`."""

    def __init__(
        self,
        settings: ClipExamples,
        windows: ClipWindows,
        selection: Selection,
        features: Sequence[FeatureReader],
        pictures: tuple[str, ...],
    ) -> None:
        self.selection = selection
        self._settings, self._features, self._pictures = settings, features, pictures
        self._catalog, self._reader = selection.catalog, ClipReader(selection.catalog)
        self.constants = empty_values(features)
        self._choice = ClipChoice(
            self._catalog,
            windows,
            self._reader,
            motion=settings.motion,
            clip_frames=settings.clip_frames,
            stride=settings.strides[0],
            sound_margin=settings.sound_margin,
            features=features,
        )
        self._size = settings.size or selection.frame_size()
        self.layouts = (BatchLayout(self._fields()),)

    def places(self, sample: int, rng: np.random.Generator) -> list[Place]:
        """See `OpenExamples`."""
        settings, reader = self._settings, self._reader
        shard, row = self.selection.place(sample)
        chosen = self._choice.choose(shard, row, rng)
        (track, frames, _), groups = chosen.window, chosen.groups()
        points = np.concatenate(list(groups.values()))
        places = reader.landmark_places(shard, row, points)
        for name in self._pictures:
            places += reader.frame_places(shard, row, np.unique(groups[name]))
        if settings.key_points or settings.boxes or settings.size is not None:
            places += reader.member_places(shard, row, "tracks.npz")
        if settings.masks is not None:
            places += reader.mask_places(shard, row, track, frames, settings.masks)
        if settings.audio:
            places += reader.audio_places(shard, row, *self._choice.sound(shard, row, frames))
        if settings.captions:
            places += reader.member_places(shard, row, "txt")
        for feature in self._features:
            places += feature.places(shard, row, track, points)
        return places

    def fill(self, sample: int, rng: np.random.Generator, targets: dict[str, np.ndarray]) -> Texts:
        """See `OpenExamples`."""
        settings, reader = self._settings, self._reader
        shard, row = self.selection.place(sample)
        index = self._catalog.indexes[shard]
        chosen = self._choice.choose(shard, row, rng)
        window, history = chosen
        track, frames, reference = window
        groups = chosen.groups()
        points = np.concatenate(list(groups.values()))
        framing = self._framing(shard, row, track, points)

        landmarks = self._moved(framing, reader.landmarks(shard, row, track, points))
        by_group = dict(
            zip(groups, np.split(landmarks, np.cumsum([len(g) for g in groups.values()])[:-1]), strict=True)
        )
        targets["frame_index"][:], targets["landmarks"][:] = frames, by_group["frames"]
        if reference is not None:
            targets["reference_index"][...] = reference
            targets["reference_landmarks"][:] = by_group["reference"][0]
        if history is not None:
            targets["motion_index"][:], targets["motion_found"][:] = history
            targets["motion_landmarks"][:] = 0
            targets["motion_landmarks"][history.found] = by_group["motion"]
        self._fill_pictures(shard, row, framing, groups, history, targets)
        if settings.masks is not None:
            masks = reader.masks(shard, row, track, frames, region=settings.masks)
            targets["masks"][:] = masks if framing is None else framing.cut_masks(masks)
        if settings.key_points:
            targets["key_points"][:] = self._moved(framing, reader.key_points(shard, row, track, frames))
        if settings.boxes:
            boxes = reader.boxes(shard, row, track, frames)
            targets["boxes"][:] = boxes if framing is None else framing.boxes_to_frame(boxes)
        if settings.audio:
            begin, _ = self._choice.sound(shard, row, frames)
            reader.audio(shard, row, begin, out=targets["audio"])
        if settings.fps:
            targets["fps"][...] = float(Fraction(*index.fps[row].tolist()))
        if settings.pose_size is not None:
            draw_landmarks(
                by_group["frames"],
                image_size=self._size,
                canvas_size=settings.pose_size,
                scheme=self._catalog.landmark_scheme,
                out=targets["pose"],
            )
        texts: Texts = {"caption": reader.caption(shard, row)} if settings.captions else {}
        for feature in self._features:
            if feature.kind.unit == "face":
                number = settings.face.choose(feature.faces(shard, row), track, frames, rng)
                feature.fill_face(shard, row, number, targets)
                continue
            heard = self._choice.heard(feature, frames, int(index.num_frames[row]))
            texts |= feature.fill(shard, row, track, heard, reference, targets)
            if history is not None and feature.kind.unit == "frame":
                self._fill_motion(feature, shard, row, window, history, targets)
        return texts

    def _framing(self, shard: int, row: int, track: int, frames: np.ndarray) -> Framing | None:
        """What is shown of these frames, the same of all; None where all of it is, at its own size."""
        stored = tuple(self._catalog.indexes[shard].size[row].tolist())
        if self._settings.size in (None, stored):
            return None
        assert self._settings.size is not None
        boxes = self._reader.boxes(shard, row, track, frames)
        return largest_frame(union_box(boxes), image_size=stored, size=self._settings.size).on_grid(2)

    def _moved(self, framing: Framing | None, points: np.ndarray) -> np.ndarray:
        return points if framing is None else framing.to_frame(points)

    def _fill_pictures(
        self,
        shard: int,
        row: int,
        framing: Framing | None,
        groups: Mapping[str, np.ndarray],
        history: History | None,
        targets: dict[str, np.ndarray],
    ) -> None:
        for name in self._pictures:
            frames, target = groups[name], targets[name]
            target = target[None] if name == "reference" else target
            if name == "motion":
                assert history is not None
                target[~history.found] = 0
                self._decode_past(shard, row, framing, history, target)
            else:
                self._decode(shard, row, framing, frames, target)

    def _decode_past(
        self, shard: int, row: int, framing: Framing | None, history: History, target: np.ndarray
    ) -> None:
        """Decode each motion frame once, though the oldest may stand for many."""
        count = int(history.found.sum())
        if not count:
            return
        target = target[len(target) - count :]
        frames = np.unique(history.frames[history.found])
        repeated = count - len(frames)  # of the oldest; the others follow it
        self._decode(shard, row, framing, frames, target[repeated:])
        target[:repeated] = target[repeated]

    def _decode(
        self, shard: int, row: int, framing: Framing | None, frames: np.ndarray, out: np.ndarray
    ) -> None:
        if framing is None:
            self._reader.frames(shard, row, frames, out=out)
            return
        height, width = self._catalog.indexes[shard].size[row].tolist()
        planes = np.empty((len(frames), height * 3 // 2, width), np.uint8)
        self._reader.frames(shard, row, frames, out=planes)
        framing.cut_planes(planes, out=out)

    def _fill_motion(
        self,
        feature: FeatureReader,
        shard: int,
        row: int,
        window: Window,
        history: History,
        targets: dict[str, np.ndarray],
    ) -> None:
        """What a feature has of the motion frames: their values, or means of them."""
        motion = self._settings.motion
        assert motion is not None
        target = targets[f"motion_{feature.kind.batch_key}"]
        target[...] = 0
        if motion.pick != "mean":
            target[history.found] = feature.values(shard, row, history.frames[history.found])
            return
        first = int(window.frames[0])
        run_start = run_before(self._catalog.indexes[shard].clip_runs(row), window.track, first)
        ranges = motion.ranges_before(first, stride=self._settings.strides[0], run_start=run_start)
        for place in np.flatnonzero(history.found).tolist():
            target[place] = feature.values(shard, row, ranges[place]).mean(axis=0, dtype=np.float32)

    def _fields(self) -> dict[str, Field]:
        """The batch's fields, see data/batch."""
        settings, points = self._settings, (self._catalog.num_landmarks, 2)
        lead = {"frames": (settings.clip_frames,), "reference": (), "motion": ()}
        if settings.motion is not None:
            lead["motion"] = (settings.motion.past.count,)
        table: dict[str, Field] = {}
        for name in settings.groups:
            prefix = "" if name == "frames" else f"{name}_"
            if name in self._pictures:
                height, width = self._size
                table[name] = Field((*lead[name], height * 3 // 2, width), UINT8)
            table["frame_index" if name == "frames" else f"{name}_index"] = Field(lead[name], INT64)
            table[f"{prefix}landmarks"] = Field((*lead[name], *points), FLOAT32)
        if settings.motion is not None:
            table["motion_found"] = Field(lead["motion"], BOOL)
        if settings.audio:
            rate = self.selection.frame_rate()
            table["audio"] = Field((frame_audio_window(0, self._choice.audio_frames, fps=rate)[1],), FLOAT32)
        if settings.pose_size is not None:
            table["pose"] = Field((settings.clip_frames, 3, *settings.pose_size), UINT8)
        if settings.masks is not None:
            table["masks"] = Field((settings.clip_frames, *self._size), UINT8)
        if settings.key_points:
            table["key_points"] = Field((settings.clip_frames, 5, 2), FLOAT32)
        if settings.boxes:
            table["boxes"] = Field((settings.clip_frames, 4), FLOAT32)
        if settings.fps:
            table["fps"] = Field((), FLOAT32)
        for feature in self._features:
            table |= self._feature_fields(feature, lead["motion"])
        return table

    def _feature_fields(self, feature: FeatureReader, motion: tuple[int, ...]) -> dict[str, Field]:
        fields = dict(feature.fields(self._settings.clip_frames + 2 * self._choice.margin(feature)))
        key, unit, shape, dtype = feature.kind
        if unit == "frame":
            if self._settings.reference is None:
                del fields[f"reference_{key}"]
            if self._settings.motion is not None:
                fields[f"motion_{key}"] = Field((*motion, *shape), dtype)
        return fields
