"""Masks by SAM 2 (Ravi et al. 2024): each region with boxes, followed to both ends from where it was surest.

As ConsisID's data was made, with its faults mended: all people and regions of a clip are followed together,
so that each frame goes through the image encoder once a direction and not once an object, and an object that
is surest in the middle is also followed backwards from there.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from portraitgen.data.pictures import SamplePictures
from portraitgen.data.sample import ClipMasks, ClipSample, DataError
from portraitgen.media.masks import encode_rle

if TYPE_CHECKING:
    from transformers import Sam2VideoModel

_DTYPES = ("float32", "bfloat16", "float16")
# Of the pictures that SAM 2 was trained on (ImageNet's), RGB in [0, 1].
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Labels of the points that are a box's upper left and lower right corner.
_BOX_CORNERS = (2, 3)
_CHUNK = 12


class Prompt(NamedTuple):
    """Where an object is shown to SAM 2: the box [4], in pixels, in one frame."""

    frame: int
    box: np.ndarray


@dataclass(frozen=True, slots=True)
class Sam2Masks:
    """Masks of all regions that somebody has boxes of; `control_frames` say where each was shown to SAM 2.

    That is the valid frame with the highest detection score (the first of equals). Ids count from 1, person
    by person, in each the face before the head and the whole.

    Attributes:
        model: folder with config.json and model.safetensors of a `Sam2VideoModel`, or its hub id, such as
            facebook/sam2.1-hiera-large (Apache-2.0).
        device: "auto" takes a GPU where there is one.
        dtype: of the network: float32, bfloat16 or float16.

    Raises:
        ValueError: when it is made, if the weights cannot be found or are of another kind of model.
    """

    model: str
    device: str = "auto"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ValueError(f"masks.dtype={self.dtype}: give one of {', '.join(_DTYPES)}")
        _check_weights(self.model)

    def __call__(self, sample: ClipSample) -> ClipSample:
        prompts: dict[int, Prompt] = {}
        tracks = []
        for track in sample.tracks:
            ids, control_frames = {}, {}
            for name, region in track.regions().items():
                scores = np.where(
                    region.valid & np.isfinite(region.boxes).all(axis=1), region.scores, -np.inf
                )
                if np.isfinite(scores).any():
                    number, frame = len(prompts) + 1, int(scores.argmax())
                    prompts[number] = Prompt(frame, region.boxes[frame])
                    ids[name], control_frames[name] = number, frame
            tracks.append(replace(track, mask_ids=ids, control_frames=control_frames))
        if not prompts:
            raise DataError(f"sample {sample.key}: no person has a valid box from which SAM 2 could start")
        network = _load(self.model, self.device, self.dtype)
        size = (sample.height, sample.width)
        runs = follow(network, _pictures(sample), sample.num_frames, prompts, size)
        offsets = np.cumsum([0, *map(len, runs)], dtype=np.int64)
        masks = ClipMasks(np.concatenate(runs), offsets, tuple(prompts), "sam2")
        return replace(sample, masks=masks, tracks=tuple(tracks))


def follow(
    network: "Sam2VideoModel",
    picture: Callable[[int], Tensor],
    num_frames: int,
    prompts: dict[int, Prompt],
    size: tuple[int, int],
) -> list[np.ndarray]:
    """Run lengths, as media/masks codes them, of all objects in all frames, objects within frames.

    Each object is followed forwards from the frame of its prompt, then backwards. What SAM 2 no longer needs
    is forgotten on the way, so that memory does not grow with the clip. Objects are independent, but for
    rounding, and for the library's memory of frames in which another object joins (binary, not soft).

    Args:
        picture: frame -> float [3, H, W] in [-1, 1]; asked in the order of frames, then against it.
        prompts: object id -> where it is shown.
        size: (height, width) of the masks and of the boxes' pictures.
    """
    first = min(prompt.frame for prompt in prompts.values())
    last = max(prompt.frame for prompt in prompts.values())
    empty = encode_rle(np.zeros(size, bool))
    masks: dict[tuple[int, int], np.ndarray] = defaultdict(lambda: empty)
    for order in (range(first, num_frames), range(last, -1, -1)):
        for frame, found in _propagate(network, picture, prompts, order, size):
            for number, mask in found.items():
                masks[frame, number] = encode_rle(mask)
    return [masks[frame, number] for frame in range(num_frames) for number in prompts]


@torch.inference_mode()
def _propagate(
    network: "Sam2VideoModel",
    picture: Callable[[int], Tensor],
    prompts: dict[int, Prompt],
    order: range,
    size: tuple[int, int],
) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
    """Frames in this order with the masks, bool [H, W], of those objects whose prompt has been passed."""
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    device, dtype = network.device, network.dtype
    session = Sam2VideoInferenceSession(
        video_height=size[0],
        video_width=size[1],
        inference_device=device,
        inference_state_device=device,
        video_storage_device=device,
        dtype=dtype,
    )
    side = network.config.image_size
    assert isinstance(side, int)
    scale = torch.tensor([side / size[1], side / size[0]])
    for frame in order:
        for number, prompt in prompts.items():
            # An object joins at its prompt: before, there is nothing to follow.
            if prompt.frame == frame:
                corners = torch.from_numpy(prompt.box).reshape(1, 1, 2, 2) * scale
                labels = torch.tensor(_BOX_CORNERS, dtype=torch.int32).reshape(1, 1, 2)
                points = {"point_coords": corners.to(dtype), "point_labels": labels}
                session.add_point_inputs(session.obj_id_to_idx(number), frame, points)
                session.obj_with_new_inputs.append(number)
        pixels = _as_sam2_sees(picture(frame).to(device), side).to(dtype)
        output = network(session, frame_idx=frame, frame=pixels, reverse=order.step < 0)
        logits = F.interpolate(output.pred_masks.float(), size, mode="bilinear", align_corners=False)
        yield frame, dict(zip(output.object_ids, (logits[:, 0] > 0).cpu().numpy(), strict=True))
        _forget(session, network.config, frame)


def _forget(session: Any, config: Any, frame: int) -> None:
    """Drop a frame's picture and full-size masks, and the memory that is too old to be looked at again."""
    del session.processed_frames[frame]
    horizon = max(config.num_maskmem, config.max_object_pointers_in_encoder)
    for outputs in session.output_dict_per_obj.values():
        for kept in outputs.values():
            if frame in kept:
                del kept[frame]["high_res_masks"]
        recent = outputs["non_cond_frame_outputs"]
        for old in [other for other in recent if abs(frame - other) >= horizon]:
            del recent[old]


def _as_sam2_sees(picture: Tensor, side: int) -> Tensor:
    """[3, H, W] in [-1, 1] -> [3, side, side], normalised; the aspect is not kept, as published."""
    resized = F.interpolate(
        picture[None], (side, side), mode="bilinear", align_corners=False, antialias=True
    )[0]
    mean, std = (torch.tensor(values, device=picture.device)[:, None, None] for values in (_MEAN, _STD))
    return ((resized + 1) / 2 - mean) / std


def _pictures(sample: ClipSample) -> Callable[[int], Tensor]:
    """Frame -> float [3, H, W] in [-1, 1]; decoded a few frames at a time, in either direction."""
    pictures, chunks = SamplePictures(sample), dict[int, Tensor]()

    def picture(frame: int) -> Tensor:
        start = frame // _CHUNK * _CHUNK
        if start not in chunks:
            chunks.clear()
            chunks[start] = pictures.rgb(start, min(_CHUNK, sample.num_frames - start))
        return chunks[start][frame - start]

    return picture


def _check_weights(model: str) -> None:
    """ValueError unless `model` is a folder or a hub id with the weights of a Sam2VideoModel."""
    folder = Path(model).expanduser()
    published = "the folder of a SAM 2 model, such as facebook/sam2.1-hiera-large (Apache-2.0)"
    names = ("config.json", "model.safetensors")
    if folder.is_dir():
        config: str | Path | None = folder / names[0]
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"masks.model={model}: {' and '.join(missing)} not there; give {published}")
    else:
        from transformers.utils import cached_file

        try:
            config, _ = [cached_file(model, name) for name in names]
        except OSError as error:
            raise ValueError(
                f"masks.model={model}: no such folder, and not to be had from the hub"
                f" ({str(error).splitlines()[0]}); fetch it and give {published}"
            ) from error
    assert config is not None
    kind = json.loads(Path(config).read_bytes()).get("model_type")
    if kind != "sam2_video":
        raise ValueError(f"masks.model={model} is a {kind!r} model, not a 'sam2_video'; give {published}")


@cache
def _load(model: str, device: str, dtype: str) -> "Sam2VideoModel":
    from transformers import Sam2VideoModel

    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    folder = Path(model).expanduser()
    source = str(folder) if folder.is_dir() else model
    network = Sam2VideoModel.from_pretrained(source, dtype=getattr(torch, dtype), use_safetensors=True)
    return network.requires_grad_(False).eval().to(chosen)
