"""One picture to judge prepared data by: samples with the boxes and landmarks that the shards hold."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from portraitgen.data.sample import ClipSample
from portraitgen.faces.drawing import DRAWN, draw_landmarks
from portraitgen.media.decode import iter_frames
from portraitgen.media.masks import decode_rle_batch

_CELL = 224
_COLUMNS = 6
_CAPTION = 22
_BOX_COLOURS = ((0, 255, 0), (255, 200, 0), (0, 200, 255), (255, 0, 255))


def contact_sheet(samples: Iterable[ClipSample]) -> np.ndarray:
    """Draw each sample as a row of uint8 [H, W, 3] RGB.

    A clip shows frames from its first to its last, a photo itself and its face crops.
    """
    rows = []
    for sample in samples:
        pictures = _photo_pictures(sample) if sample.image is not None else _clip_pictures(sample)
        row = np.zeros((_CAPTION + _CELL, _COLUMNS * _CELL, 3), np.uint8)
        for column, picture in enumerate(pictures[:_COLUMNS]):
            left = column * _CELL
            row[_CAPTION : _CAPTION + picture.shape[0], left : left + picture.shape[1]] = picture
        scores = "  ".join(f"{name} {value:.3g}" for name, value in sample.scores.items())
        caption = f"{sample.key}  {sample.num_frames} frames  {scores}"
        cv2.putText(row, caption, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
        rows.append(row)
    return np.concatenate(rows)


def _clip_pictures(sample: ClipSample) -> list[np.ndarray]:
    assert sample.video is not None
    chosen = np.linspace(0, sample.num_frames - 1, _COLUMNS).round().astype(int).tolist()
    frames = iter_frames(sample.video, name=sample.key)
    pictures = {frame.index: frame.image for frame in frames if frame.index in chosen}
    return [_annotated(pictures[index], sample, index) for index in chosen]


def _photo_pictures(sample: ClipSample) -> list[np.ndarray]:
    assert sample.image is not None
    crops: Sequence[np.ndarray] = [_decode_jpeg(crop) for track in sample.tracks for crop in track.faces]
    return [_annotated(_decode_jpeg(sample.image), sample, 0), *(_fitted(crop)[0] for crop in crops)]


def _annotated(image: np.ndarray, sample: ClipSample, frame: int) -> np.ndarray:
    """The frame as large as a cell, with masks, and everybody's box and landmarks.

    Outlines are masks, in the colours of their people (thin: the head, the person). The edge is red where
    nobody is valid.
    """
    picture, scale = _fitted(image)
    size = (picture.shape[0], picture.shape[1])
    for person, track in enumerate(sample.tracks):
        lines = _landmarks(sample, track.landmarks[frame], size)
        picture = np.maximum(picture // 2 + picture // 4, lines) if lines.any() else picture
        if np.isfinite(track.boxes[frame]).all():
            left, top, right, bottom = (track.boxes[frame] * scale).round().astype(int).tolist()
            cv2.rectangle(picture, (left, top), (right, bottom), _BOX_COLOURS[person % len(_BOX_COLOURS)], 1)
    for person, track in enumerate(sample.tracks):
        for region, number in track.mask_ids.items():
            outlines = _outlines(sample, number, frame, size)
            thickness = 2 if region == "face" else 1
            cv2.drawContours(picture, outlines, -1, _BOX_COLOURS[person % len(_BOX_COLOURS)], thickness)
    if not any(track.valid[frame] for track in sample.tracks):
        cv2.rectangle(picture, (0, 0), (size[1] - 1, size[0] - 1), (255, 0, 0), 3)
    return picture


def _landmarks(sample: ClipSample, landmarks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Landmarks [K, 2] on black, uint8 [*size, 3]: as curves, or as points where nobody knows their order."""
    image_size = (sample.height, sample.width)
    if sample.landmark_scheme in DRAWN:
        curves = draw_landmarks(
            landmarks[None], image_size=image_size, canvas_size=size, scheme=sample.landmark_scheme
        )
        return curves[0].transpose(1, 2, 0)
    canvas = np.zeros((*size, 3), np.uint8)
    known = landmarks[np.isfinite(landmarks).all(axis=1)]
    for point in (known * size[0] / sample.height).round().astype(int).tolist():
        cv2.circle(canvas, point, 1, (255, 255, 255), -1)
    return canvas


def _outlines(sample: ClipSample, mask_id: int, frame: int, size: tuple[int, int]) -> Sequence[np.ndarray]:
    """Outlines, in a picture of `size`, of a mask."""
    assert sample.masks is not None
    place = frame * len(sample.masks.ids) + sample.masks.ids.index(mask_id)
    whole = (sample.height, sample.width)
    mask = decode_rle_batch(sample.masks.runs, sample.masks.offsets, whole, np.array(place))
    scaled = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_AREA)
    return cv2.findContours(scaled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]


def _fitted(image: np.ndarray) -> tuple[np.ndarray, float]:
    """The picture with its longer side as long as a cell, and the factor."""
    scale = _CELL / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=how)), scale


def _decode_jpeg(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))
