"""Upright crops of the faces in photos: those that preparation stored, or cut out where there are none."""

import cv2
import numpy as np

from portraitgen.data.identities import FacePlace
from portraitgen.data.reader import ClipReader
from portraitgen.faces.templates import ARCFACE, upright_crop


class FaceCrops:
    """Crops as recognition networks look at them, by ArcFace's template.

    Args:
        side: a multiple of 112.
    """

    def __init__(self, reader: ClipReader, side: int) -> None:
        self._reader, self._side = reader, side

    def __call__(self, place: FacePlace) -> np.ndarray:
        """The face of somebody in a photo: uint8 [side, side, 3] RGB.

        Raises:
            ValueError: the picture is damaged, or the face has no key points.
        """
        if self._reader.has_face_crop(*place):
            crop = self._reader.face_crop(*place)
            if len(crop) == self._side:
                return crop
            how = cv2.INTER_AREA if len(crop) > self._side else cv2.INTER_CUBIC
            return np.asarray(cv2.resize(crop, (self._side, self._side), interpolation=how))
        _, key_points = self._reader.people(place.shard, place.row)
        photo = self._reader.photo(place.shard, place.row)
        crop = upright_crop(photo, key_points[place.track], ARCFACE.scaled(self._side))
        return cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)
