"""Read single samples through the index: chosen frames, their landmarks, or the whole sample."""

import cv2
import numpy as np

from portraitgen.data.archive import Member, OpenArchives
from portraitgen.data.catalog import Catalog
from portraitgen.data.members import sample_from_members
from portraitgen.data.pictures import decode_jpeg, photo_planes
from portraitgen.data.sample import ClipSample, DataError
from portraitgen.media.audio import SAMPLE_RATE, decode_wav
from portraitgen.media.gop import GopDecoder
from portraitgen.media.masks import decode_rle, unpack_runs


class ClipReader:
    """Reads samples of a catalog, named by the number of their shard and the row in its index.

    Archives are opened when first read. One reader a process.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._archives = OpenArchives(catalog.shards)
        self._decoder = GopDecoder()

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
            video = self._archives[shard].read(members["mp4"])
            self._decoder.decode_frames(video, frames, table=packets, out=out, name="mp4")

    def landmarks(self, shard: int, row: int, track: int, frames: np.ndarray) -> np.ndarray:
        """Landmarks of person `track` in these frames: float32 [n, K, 2], pixels; NaN where not found."""
        index = self._catalog.indexes[shard]
        shape = (int(index.num_frames[row]), int(index.num_tracks[row]), self._catalog.num_landmarks, 2)
        place = Member("lmk", int(index.landmarks_offset[row]), 4 * int(np.prod(shape)))
        return np.frombuffer(self._archives[shard].read(place), "<f4").reshape(shape)[frames, track]

    def masks(
        self, shard: int, row: int, track: int, frames: np.ndarray, *, region: str = "face"
    ) -> np.ndarray:
        """Masks of person `track` in these frames: bool [n, H, W], False all over where it was not found.

        Raises:
            ValueError: the person has no mask of this region, or a mask is damaged.
        """
        index = self._catalog.indexes[shard]
        column = index.mask_column(row, track, region)
        if column < 0:
            raise DataError(f"has no mask of the {region} of person {track + 1}")
        height, width = index.size[row].tolist()
        number, archive = int(index.num_masks[row]), self._archives[shard]
        num_cuts = int(index.num_frames[row]) * number + 1
        cuts = archive.read(Member("off", int(index.mask_cuts_offset[row]), 8 * num_cuts))
        offsets = np.frombuffer(cuts, "<i8")
        packed = archive.read(Member("packed", int(index.mask_packed_offset[row]), int(offsets[-1])))
        places = (frames * number + column).tolist()
        chosen = [unpack_runs(packed[offsets[place] : offsets[place + 1]]) for place in places]
        return np.stack([decode_rle(runs, (height, width)) for runs in chosen])

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
        """The clip's sound from sample `begin` on into `out`, float32 [N] at 16 kHz; silence after its end.

        Raises:
            ValueError: the sound is damaged or of another rate.
        """
        place = self._catalog.indexes[shard].members(row)["wav"]
        sound, sample_rate = decode_wav(self._archives[shard].read(place), begin=begin, count=len(out))
        if sample_rate != SAMPLE_RATE:
            raise DataError(f"its sound has {sample_rate} samples a second, shards have {SAMPLE_RATE}")
        out[: len(sound)] = sound
        out[len(sound) :] = 0

    def sample(self, shard: int, row: int) -> ClipSample:
        """The whole sample, video and audio as bytes."""
        members = self._catalog.indexes[shard].members(row)
        archive = self._archives[shard]
        return sample_from_members({name: archive.read(member) for name, member in members.items()})
