"""What the recognition network looks at: faces cut out of pictures, upright by key points or by boxes."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.padded_search import find_face
from portraitgen.faces.recognition.alignment import upright_faces
from portraitgen.faces.recognition.box_crops import crop_boxes
from portraitgen.faces.templates import FaceTemplate

AlignMode = Literal["kps", "bbox"]


class FaceCrops:
    """Cuts one face out of each picture.

    Args:
        mode: "kps": upright, by a similarity that takes the five key points to the network's template
            (Umeyama); "bbox": a square around the box.
        template: of the recognition network.
    """

    def __init__(self, mode: AlignMode, template: FaceTemplate) -> None:
        self.mode: AlignMode = mode
        self.template = template

    def __call__(self, pictures: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Crops [N, 3, side, side] in [-1, 1] and bool [N], which of them show a face.

        What lies outside the picture is black, as in the crops that recognition networks were trained on (in
        bbox mode it is mirrored). A row without a face passes no gradient.

        Args:
            pictures: [N, 3, H, W] in [-1, 1], as they were drawn: clamping would stop the gradient of pixels
                that are too bright or too dark.
            places: key points [N, 5, 2] or boxes [N, 4], in pixels.
        """
        pictures = pictures.float()
        if self.mode == "bbox":
            return crop_boxes(pictures, places, side=self.template.side)
        return upright_faces(pictures, places, self.template)

    def detect(self, pictures: Tensor, backend: FaceBackend) -> Tensor:
        """Where the largest face of each picture [N, 3, H, W] is; NaN where none is found. Without gradient.

        The detector sees 8-bit pictures on the CPU, one at a time: it is slow, and waits for the device.
        """
        pixels = ((pictures.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte()
        places = []
        for picture in pixels.movedim(1, -1).cpu().numpy():
            face = find_face(np.ascontiguousarray(picture), backend)
            missing = np.full((5, 2) if self.mode == "kps" else (4,), np.nan, np.float32)
            found = None if face is None else (face.keypoints if self.mode == "kps" else face.box)
            places.append(missing if found is None else found)
        return torch.from_numpy(np.stack(places)).to(pictures.device)
