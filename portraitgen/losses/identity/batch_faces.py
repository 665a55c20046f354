"""Where the true faces of a batch are, of photos and of clips alike."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

PHOTOS = ("image", "result")
"""Keys of the picture that a batch of photos shows."""


@dataclass(frozen=True)
class BatchFaces:
    """People of a batch: B samples, T frames (1 of photos), P places for people (1 of clips).

    Attributes:
        pictures: [B, T, 3, H, W] in [-1, 1]; None where the batch holds none, only what is stored of them.
        key_points: [B, T, P, 5, 2] in pixels of the pictures; None where the batch holds none.
        boxes: [B, T, P, 4] xyxy in pixels; None where the batch holds none.
        there: bool [B, T, P], whether a place holds a person.
    """

    pictures: Tensor | None
    key_points: Tensor | None
    boxes: Tensor | None
    there: Tensor

    def frames(self, chosen: slice) -> "BatchFaces":
        """Those in some of the frames."""
        pictures, key_points, boxes = (
            None if value is None else value[:, chosen]
            for value in (self.pictures, self.key_points, self.boxes)
        )
        return BatchFaces(pictures, key_points, boxes, self.there[:, chosen])

    def among(self, rows: Tensor) -> "BatchFaces":
        """With nobody in the samples where bool [B] is false."""
        return replace(self, there=self.there & rows[:, None, None])

    def first(self) -> "BatchFaces":
        """With nobody in the places behind the first."""
        only = torch.zeros_like(self.there)
        only[..., 0] = True
        return replace(self, there=self.there & only)


def faces_of_batch(batch: Mapping[str, Any], *, device: torch.device) -> BatchFaces:
    """The faces that a batch tells of; its keys stand in `data/batch`.

    A batch is one of photos if it has their picture (`image`, or `result` where the picture is one of several
    that make a sample); key points and boxes may then lack the axis of people. Else it is one of clips.

    Raises:
        ValueError: the batch has neither pictures, key points nor boxes of anything.
    """
    photo = next((key for key in PHOTOS if key in batch), None)
    pictures = batch.get(photo or "frames")
    points, boxes, people = batch.get("key_points"), batch.get("boxes"), batch.get("people")
    if photo is not None:
        pictures = batch[photo].unsqueeze(1)
        points = (
            None if points is None else (points if points.ndim == 4 else points.unsqueeze(1)).unsqueeze(1)
        )
        boxes = None if boxes is None else (boxes if boxes.ndim == 3 else boxes.unsqueeze(1)).unsqueeze(1)
    else:
        points = None if points is None else points.unsqueeze(2)
        boxes = None if boxes is None else boxes.unsqueeze(2)
    shape = next((each.shape[:3] for each in (points, boxes) if each is not None), None)
    if shape is None:
        if pictures is None:
            raise ValueError(
                "losses: the batch holds neither pictures nor key points, so no face can be found in it"
            )
        shape = (*pictures.shape[:2], 1)
    there = torch.ones(shape, dtype=torch.bool, device=device)
    if people is not None:
        there &= people[:, None]
    return BatchFaces(pictures, points, boxes, there)


def of_types(batch: Mapping[str, Any], allowed: Collection[str], *, device: torch.device) -> Tensor:
    """bool [B]: samples whose `data_type` is allowed; all of a batch that names none."""
    if "data_type" not in batch:
        return torch.ones(len(batch["key"]), dtype=torch.bool, device=device)
    return torch.tensor([each in allowed for each in batch["data_type"]], device=device)
