"""Read single samples through the index: chosen frames, their landmarks, or the whole sample."""

import io

import cv2
import numpy as np

from portraitgen.data.archive import Member, OpenArchives, Place
from portraitgen.data.catalog import Catalog
from portraitgen.data.members import sample_from_members
from portraitgen.data.pictures import decode_jpeg, photo_planes
from portraitgen.data.sample import DAMAGE, ClipSample, DataError
from portraitgen.media.audio import SAMPLE_RATE, decode_wav
from portraitgen.media.bounded import read_arrays
from portraitgen.media.gop import GopDecoder, packet_spans
from portraitgen.media.masks import decode_rle, unpack_runs

_WAV_HEADER = 44


class ClipReader:
    """Reads samples of a catalog, named by the number of their shard and the row in its index.

    Archives are opened when first read. One reader a process.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._archives = OpenArchives(catalog.shards)
        self._decoder = GopDecoder()
        self._last_tracks: tuple[tuple[int, int], dict[str, np.ndarray]] | None = None

    def frames(self, shard: int, row: int, frames: np.ndarray, *, out: np.ndarray) -> None:
        """Decode frames (int64 [n], increasing) into `out`, uint8 [n, 3H/2, W] I420 planes.

        Raises:
            ValueError: the picture is damaged.
        """
        index = self._catalog.indexes[shard]
        members = index.members(row)
        packets = index.packets(row)
        if packets is None:
            out[:] = photo_planes(self._archives[shard].read(members["jpg"]))
        else:
            video = self._archives[shard].part(members["mp4"])
            self._decoder.decode_frames(video, frames, table=packets, out=out, name="mp4")

    def frame_places(self, shard: int, row: int, frames: np.ndarray) -> list[Place]:
        """What `frames` reads."""
        index, archive = self._catalog.indexes[shard], self._archives[shard]
        members, packets = index.members(row), index.packets(row)
        if packets is None:
            return [archive.place(members["jpg"])]
        begin = members["mp4"].offset
        return [Place(archive, begin + first, begin + end) for first, end in packet_spans(packets, frames)]

    def landmark_places(self, shard: int, row: int, frames: np.ndarray) -> list[Place]:
        """What `landmarks` reads."""
        return self._archives[shard].row_places(*self._landmark_rows(shard, row), frames)

    def mask_places(self, shard: int, row: int, track: int, frames: np.ndarray, region: str) -> list[Place]:
        """What `masks` reads; for where that is, something has to be read now."""
        return [self._archives[shard].place(self._mask_cuts(shard, row, track, frames, region)[0])]

    def member_places(self, shard: int, row: int, *names: str) -> list[Place]:
        """Whole members, of those that the sample has."""
        members = self._catalog.indexes[shard].members(row)
        return [self._archives[shard].place(members[name]) for name in names if name in members]

    def sample_places(self, shard: int, row: int) -> list[Place]:
        """All members of a sample."""
        return self.member_places(shard, row, *self._catalog.indexes[shard].members(row))

    def audio_places(self, shard: int, row: int, begin: int, count: int) -> list[Place]:
        """What `audio` reads."""
        wav, archive = self._catalog.indexes[shard].members(row)["wav"], self._archives[shard]
        first, end = (wav.offset + _WAV_HEADER + 2 * max(sample, 0) for sample in (begin, begin + count))
        limit = wav.offset + wav.size
        header = Place(archive, wav.offset, min(wav.offset + io.DEFAULT_BUFFER_SIZE, limit))
        return [header, Place(archive, min(first, limit), min(end, limit))]

    def landmarks(self, shard: int, row: int, track: int, frames: np.ndarray) -> np.ndarray:
        """Landmarks of person `track` in these frames: float32 [n, K, 2], pixels; NaN where not found."""
        index = self._catalog.indexes[shard]
        offset, row_bytes = self._landmark_rows(shard, row)
        stored = self._archives[shard].rows(offset, row_bytes, frames).view("<f4")
        shape = (len(frames), int(index.num_tracks[row]), self._catalog.num_landmarks, 2)
        found = stored.reshape(shape)[:, track]
        # Where there is no face they are NaN, all of them; an infinite one would reach the loss.
        if np.isinf(found).any():
            raise DataError(f"landmarks of person {track + 1} are infinite")
        return found

    def key_points(self, shard: int, row: int, track: int, frames: np.ndarray) -> np.ndarray:
        """The five key points of person `track` in these frames: float32 [n, 5, 2]; NaN where not found."""
        return self._tracks(shard, row)["kps"][frames, track]

    def boxes(self, shard: int, row: int, track: int, frames: np.ndarray) -> np.ndarray:
        """Boxes of the face of person `track` in these frames: float32 [n, 4] xyxy; NaN where not found."""
        return self._tracks(shard, row)["box"][frames, track, 0]

    def people(self, shard: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes float32 [N, 4] and key points float32 [N, 5, 2] of everybody in a photo."""
        arrays = self._tracks(shard, row)
        return arrays["box"][0, :, 0], arrays["kps"][0]

    def photo(self, shard: int, row: int, *, reduced: int = 1) -> np.ndarray:
        """A photo at its size, or at a half, a quarter, an eighth of it: uint8 [H, W, 3] BGR.

        JPEG gives the smaller ones for less: they are means of 8x8 blocks of its own.

        Raises:
            DataError: it is damaged, or not what the index says.
        """
        index = self._catalog.indexes[shard]
        jpeg = self._archives[shard].read(index.members(row)["jpg"])
        image = decode_jpeg(jpeg, "the photo", reduced=reduced)
        expected = tuple(-(-side // reduced) for side in index.size[row].tolist())
        if image.shape[:2] != expected:
            raise DataError(f"the photo has {image.shape[:2]} pixels, the index says {expected}")
        return image

    def caption(self, shard: int, row: int) -> str:
        """The caption in the shard. DataError where there is none."""
        member = self._catalog.indexes[shard].members(row).get("txt")
        if member is None:
            raise DataError("has no caption")
        return bytes(self._archives[shard].read(member)).decode()

    def masks(
        self, shard: int, row: int, track: int, frames: np.ndarray, *, region: str = "face"
    ) -> np.ndarray:
        """Masks of person `track` in these frames: bool [n, H, W], False all over where it was not found.

        Raises:
            ValueError: the person has no mask of this region, or a mask is damaged.
        """
        height, width = self._catalog.indexes[shard].size[row].tolist()
        place, cuts = self._mask_cuts(shard, row, track, frames, region)
        packed = self._archives[shard].read(place)
        chosen = [unpack_runs(packed[begin:end]) for begin, end in cuts]
        return np.stack([decode_rle(runs, (height, width)) for runs in chosen])

    def has_face_crop(self, shard: int, row: int, track: int) -> bool:
        """Whether preparation stored a crop of the face of person `track`."""
        return f"face.{track + 1}_0.jpg" in self._catalog.indexes[shard].members(row)

    def face_crop(self, shard: int, row: int, track: int, *, rank: int = 0) -> np.ndarray:
        """The best crop (or the next ones) of the face of person `track`: uint8 [S, S, 3] RGB.

        Raises:
            ValueError: there is no such crop, or it is damaged.
        """
        member = self._catalog.indexes[shard].members(row).get(f"face.{track + 1}_{rank}.jpg")
        if member is None:
            raise DataError(f"has no crop {rank} of the face of person {track + 1}")
        return cv2.cvtColor(decode_jpeg(self._archives[shard].read(member), member.name), cv2.COLOR_BGR2RGB)

    def audio(self, shard: int, row: int, begin: int, *, out: np.ndarray) -> None:
        """The clip's sound from sample `begin` on into `out`, float32 [N] at 16 kHz; silence around it.

        Raises:
            ValueError: the sound is damaged or of another rate.
        """
        place = self._catalog.indexes[shard].members(row)["wav"]
        before = min(max(-begin, 0), len(out))
        out[:before] = 0
        begin, out = max(begin, 0), out[before:]
        file = io.BufferedReader(self._archives[shard].part(place))
        sound, sample_rate = decode_wav(file, begin=begin, count=len(out))
        if sample_rate != SAMPLE_RATE:
            raise DataError(f"its sound has {sample_rate} samples a second, shards have {SAMPLE_RATE}")
        out[: len(sound)] = sound
        out[len(sound) :] = 0

    def sample(self, shard: int, row: int) -> ClipSample:
        """The whole sample, video and audio as bytes."""
        members = self._catalog.indexes[shard].members(row)
        archive = self._archives[shard]
        return sample_from_members({name: archive.read(member) for name, member in members.items()})

    def _landmark_rows(self, shard: int, row: int) -> tuple[int, int]:
        """Where the landmarks of a sample begin, and how many bytes those of a frame are."""
        index = self._catalog.indexes[shard]
        row_bytes = 8 * int(index.num_tracks[row]) * self._catalog.num_landmarks
        return int(index.landmarks_offset[row]), row_bytes

    def _mask_cuts(
        self, shard: int, row: int, track: int, frames: np.ndarray, region: str
    ) -> tuple[Member, list[tuple[int, int]]]:
        """Bytes that hold the masks of all these frames, and which of them are each one's."""
        index = self._catalog.indexes[shard]
        column = index.mask_column(row, track, region)
        if column < 0:
            raise DataError(f"has no mask of the {region} of person {track + 1}")
        number = int(index.num_masks[row])
        num_cuts = int(index.num_frames[row]) * number + 1
        cuts = self._archives[shard].read(Member("off", int(index.mask_cuts_offset[row]), 8 * num_cuts))
        offsets = np.frombuffer(cuts, "<i8")
        places = frames * number + column
        begins, ends = offsets[places], offsets[places + 1]
        first = int(begins.min())
        member = Member("packed", int(index.mask_packed_offset[row]) + first, int(ends.max()) - first)
        return member, list(zip((begins - first).tolist(), (ends - first).tolist(), strict=True))

    def _tracks(self, shard: int, row: int) -> dict[str, np.ndarray]:
        """Boxes and key points of a sample, kept until another one is asked for."""
        if self._last_tracks is None or self._last_tracks[0] != (shard, row):
            index = self._catalog.indexes[shard]
            member = index.members(row)["tracks.npz"]
            names = ("box", "kps")
            try:
                arrays = read_arrays(self._archives[shard].read(member), names)
                frames, people = int(index.num_frames[row]), int(index.num_tracks[row])
                if [arrays[name].shape[:2] for name in names] != [(frames, people)] * 2:
                    raise ValueError("arrays of other shapes than the index says")
            except DAMAGE as error:
                raise DataError(f"tracks.npz is damaged ({error})") from error
            self._last_tracks = (shard, row), arrays
        return self._last_tracks[1]
