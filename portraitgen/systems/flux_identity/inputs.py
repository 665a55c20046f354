"""What Flux identity takes to generate: whom, where or how, or prepared photos."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.padded_search import find_face
from portraitgen.media.framing import Framing, face_frame, faces_frame
from portraitgen.media.geometry import expand_box
from portraitgen.media.photo import read_photo
from portraitgen.systems.flux_identity.conditioning import FillDiptych, Kontext, TextOnly
from portraitgen.training.inputs import NUM_STEPS, Given, Input, SystemInputs, Way
from portraitgen.training.request import Request, StoredClip, request_key

_WAYS = {each.__name__: each for each in (FillDiptych, Kontext, TextOnly)}
_ASKED = {
    "FillDiptych": "reference=… inputs.photo=…",
    "Kontext": "reference=… prompt=…",
    "TextOnly": "prompt=…",
}


class Inputs(SystemInputs):
    """Makes pictures of the person of a photo."""

    inputs = (
        Input("reference", "photos", "a photo of the person"),
        Input("prompt", "text", "what is to be seen"),
        Input("size", "size", "pixels, multiples of 16; else as the weights were trained"),
        Input("layout", "layout", "what of inputs.photo is drawn anew; else its largest face"),
        Input("shards", "shards", "prepared photos: each is drawn again, from itself as reference"),
        Input("inputs.photo", "file", "a photo in which the person is to be"),
        Input(
            "inputs.ref_margin",
            "number",
            "face sizes of the reference around its face; else as the weights were trained",
            low=0.0,
            high=10.0,
        ),
    )
    sampling = (
        NUM_STEPS,
        Input(
            "sampling.guidance_scale",
            "number",
            "what distilled bases are told: dev is made for 3.5, Kontext for 2.5, Fill for 30",
            low=0.0,
            high=50.0,
        ),
    )
    ways = (
        Way(
            "a photo with the person in the place of somebody",
            ("reference", "inputs.photo"),
            ("layout", "size", "inputs.ref_margin"),
        ),
        Way("a picture of the person", ("reference",), ("prompt", "size", "inputs.ref_margin")),
        Way("a picture of what a prompt says", ("prompt",), ("size",)),
        Way("pictures of people in prepared photos", ("shards",), ("size", "inputs.ref_margin")),
    )

    @classmethod
    def check(cls, given: Given, facts: Mapping[str, Any]) -> None:
        settings = facts["config"]
        way = str(settings["conditioning"]["_target_"]).rpartition(".")[2]
        known = given["shards"] is not None
        fits = {
            "FillDiptych": given["inputs.photo"] is not None,
            "Kontext": given["reference"] is not None and given["inputs.photo"] is None,
            "TextOnly": given["reference"] is None,
        }
        if not known and not fits[way]:
            raise ValueError(f"{given.way.usage}: these weights are of {way}; give {_ASKED[way]}")
        if settings.get("prompts") is None and given["prompt"] is not None:
            raise ValueError("prompt: these weights were trained without text; leave it out")
        if settings.get("prompts") is not None and not known and given["prompt"] is None:
            raise ValueError("prompt: not given; describe the picture or video in words")

    def requests(self, given: Given) -> Iterator[Request]:
        """One picture."""
        people = given["reference"] or ()
        size = self._size(given)
        prompt, photo = given["prompt"], given["inputs.photo"]
        key = request_key(people, None if photo is None else photo.stem, prompt)
        batch: dict[str, Any] = {"key": [key], "size": size}
        if prompt is not None:
            batch["caption"] = [prompt]
        if people:
            ((path,),) = people
            backend = self.resources.faces()
            picture = read_photo(path)
            box = _face_box("reference", path, picture, backend)
            batch["ref"] = _as_picture(self._reference_frame(box, picture, size, given).cut(picture))
            if photo is not None:
                picture = read_photo(photo)
                hole = _hole(given["layout"], photo, picture, backend, grow=self._trained("grow", 0.2))
                batch |= _photo_with_hole(picture, hole, size, name=str(photo))
        yield Request(key=key, batch=batch, references=people, prompt=prompt)

    def of_clip(self, clip: StoredClip, given: Given) -> Request | None:
        """The photo's main person again, as its caption says, or into the hole where the face was."""
        request = clip.request()
        picture: Tensor = request.batch["reference"]
        points = request.batch["reference_landmarks"][0].numpy()
        pixels = ((picture[0] + 1) * 127.5).round().clamp(0, 255).byte().movedim(0, -1).numpy()
        box = np.concatenate([points.min(axis=0), points.max(axis=0)])
        size = self._size(given)
        shown = faces_frame(box[None], image_size=pixels.shape[:2], size=size)
        truth = _as_picture(shown.cut(pixels))
        batch: dict[str, Any] = {"key": [clip.key], "size": size}
        conditioning: Any = self.resources.system.conditioning
        needs: tuple[str, ...] = conditioning.needs
        if "ref" in needs:
            batch["ref"] = _as_picture(self._reference_frame(box, pixels, size, given).cut(pixels))
        if "src" in needs:
            hole = _box_hole(expand_box(box, 1 + 2 * self._trained("grow", 0.2)), pixels)
            batch |= _photo_with_hole(pixels, hole, size, name=clip.key, framing=shown)
        if "caption" in request.batch:
            batch["caption"] = request.batch["caption"]
        # A picture, also of a clip: its landmarks, sound and rate are of what drives no picture.
        return replace(
            request,
            batch=batch,
            truth=truth,
            source={**request.source, "part": [shown.x, shown.y, shown.width, shown.height, *size[::-1]]},
            length=None,
            fps=None,
            sound=None,
            frames=None,
            landmarks=None,
            scheme=None,
        )

    def _reference_frame(
        self, box: np.ndarray, picture: np.ndarray, size: tuple[int, int], given: Given
    ) -> Framing:
        """What of a photo is the reference, as in training: a diptych's is of the size of the result."""
        trained = self._trained("ref_size", None)
        if trained is not None:
            size = (trained, trained) if isinstance(trained, int) else (trained[0], trained[1])
        margin = given["inputs.ref_margin"]
        margin = self._trained("ref_margin", 0.5) if margin is None else margin
        if margin is None:
            return faces_frame(box[None], image_size=picture.shape[:2], size=size)
        return face_frame(box, image_size=picture.shape[:2], size=size, margin=margin)

    def _size(self, given: Given) -> tuple[int, int]:
        """(height, width).

        Raises:
            ValueError: its tokens cannot be laid.
        """
        size = given["size"]
        if size is None:
            trained = self._trained("size", None) or 768
            size = (trained, trained) if isinstance(trained, int) else tuple(trained)
        system: Any = self.resources.system
        unit = system.network.side * system.codec.factor
        if any(side % unit for side in size):
            raise ValueError(f"size=[{size[0]},{size[1]}]: both sides must be multiples of {unit}")
        return size[0], size[1]

    def _trained(self, setting: str, otherwise: Any) -> Any:
        """A setting of the examples that the weights were trained on."""
        examples = (self.resources.facts.get("data") or {}).get("examples") or {}
        return examples.get(setting, otherwise)


def _as_picture(pixels: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] → float [1, 3, H, W] in [-1, 1]."""
    return (torch.from_numpy(pixels.copy()).movedim(-1, 0) / 127.5 - 1)[None]


def _face_box(setting: str, path: Path, picture: np.ndarray, backend: FaceBackend) -> np.ndarray:
    """xyxy of the largest face.

    Raises:
        ValueError: there is none.
    """
    face = find_face(picture, backend)
    if face is None:
        raise ValueError(
            f"{setting}={path}: {backend.name} finds no face in it; give a photo that shows the face "
            "larger and from the front, or another face backend (faces=insightface)"
        )
    return face.box


def _hole(
    layout: tuple[Path | tuple[float, ...], ...] | None,
    path: Path,
    picture: np.ndarray,
    backend: FaceBackend,
    *,
    grow: float,
) -> np.ndarray:
    """bool [H, W] of a photo: what is drawn anew.

    Raises:
        ValueError: nothing of it.
    """
    height, width = picture.shape[:2]
    if layout is None:
        box = _face_box("inputs.photo", path, picture, backend)
        return _box_hole(expand_box(box, 1 + 2 * grow), picture)
    (place,) = layout
    if not isinstance(place, Path):
        return _box_hole(np.array(place) * np.array([width, height] * 2), picture)
    mask = read_photo(place).max(axis=-1)
    if abs(mask.shape[1] / mask.shape[0] - width / height) > 0.02:
        raise ValueError(
            f"layout={place}: it is {mask.shape[1]}x{mask.shape[0]}, {path} is {width}x{height}: the mask "
            "must have the photo's proportion"
        )
    hole = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA) > 127
    if not hole.any():
        raise ValueError(f"layout={place}: it has no white pixel, so nothing would be generated")
    return np.asarray(hole)


def _box_hole(box: np.ndarray, picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    left, top, right, bottom = np.clip(np.round(box).astype(int), 0, [width, height] * 2)
    hole = np.zeros((height, width), bool)
    hole[top:bottom, left:right] = True
    return hole


def _photo_with_hole(
    picture: np.ndarray, hole: np.ndarray, size: tuple[int, int], *, name: str, framing: Framing | None = None
) -> dict[str, Tensor]:
    """`src` and `mask` of a batch: as much of the photo as has the proportion of `size`, the hole in it."""
    if framing is None:
        rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
        framing = faces_frame(box[None], image_size=picture.shape[:2], size=size)
    mask = torch.from_numpy(framing.cut_masks(hole[None]).copy())[None].float()
    if not mask.any():
        raise ValueError(f"{name}: the hole does not lie in what is shown of the photo")
    return {"src": _as_picture(framing.cut(picture)) * (1 - mask), "mask": mask}
