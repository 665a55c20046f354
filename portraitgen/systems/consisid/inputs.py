"""What ConsisID takes to generate: a photo of somebody and a prompt, or prepared clips."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.conditioner import FaceConditioner
from portraitgen.faces.identity_condition import shrink_long_side
from portraitgen.media.photo import read_photo
from portraitgen.training.inputs import NUM_STEPS, Given, Input, Resources, SystemInputs, Way
from portraitgen.training.request import Request, StoredClip, request_key

_SHOWN = ("negative_prompt", "size", "inputs.face_scale")


class Inputs(SystemInputs):
    """Makes videos of a person. A photo that several requests name is looked at once."""

    inputs = (
        Input("reference", "photos", "photo of the person"),
        Input("prompt", "text", "what is to be seen"),
        Input("negative_prompt", "text", "what is not to be seen; else that of the sampling settings"),
        Input("size", "size", "pixels; else as the weights were trained (the published ones know 480x720)"),
        Input("length", "count", "frames, 1 + 4k; else as the weights were trained", low=1),
        Input("fps", "rate", "frames a second; else those of the sampling settings"),
        Input("shards", "shards", "prepared clips of one person, with captions as prompts"),
        Input(
            "inputs.face_scale",
            "number",
            "how strongly face tokens are followed; else that of the sampling settings",
            low=0.0,
            high=2.0,
        ),
    )
    sampling = (
        NUM_STEPS,
        Input(
            "sampling.guidance_scale",
            "number",
            "how far videos are pushed away from the negative prompt",
            low=1.0,
            high=20.0,
        ),
    )
    ways = (
        Way("a video of a person", ("reference",), ("prompt", "length", "fps", *_SHOWN)),
        Way("videos of the people in prepared clips", ("shards",), ("length", *_SHOWN)),
    )

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._faces: dict[Path, dict[str, Tensor]] = {}

    @classmethod
    def check(cls, given: Given, facts: Mapping[str, Any]) -> None:
        settings = facts["config"]
        if settings.get("face_condition") is None:
            raise ValueError(
                "these weights do not name the networks that encode a face: set model.face_condition to the "
                "settings of conf/face_condition that they were trained with"
            )
        if settings.get("prompts") is None and given["prompt"] is not None:
            raise ValueError("prompt: these weights were trained without text; leave it out")
        if settings.get("prompts") is not None and given["reference"] and given["prompt"] is None:
            raise ValueError("prompt: not given; describe the picture or video in words")
        transformer = settings["network"].get("transformer") or {}
        if transformer.get("is_train_face") is False and given["inputs.face_scale"] is not None:
            raise ValueError("inputs.face_scale: these weights are of the global stage, without face modules")

    @cached_property
    def backend(self) -> FaceBackend:
        backend: FaceBackend = self.resources.faces()
        return backend

    def requests(self, given: Given) -> Iterator[Request]:
        """One video."""
        ((photo,),) = given["reference"]
        length = given["length"] or int(self._trained("clip_frames", 49))
        size = given["size"] or self._trained("size", None)
        size = self._native_size() if size is None else (size, size) if isinstance(size, int) else tuple(size)
        self._check_extent(size, length)
        if photo not in self._faces:
            self._faces[photo] = self._look_at(photo)
        batch = {**self._faces[photo], **self._settings(given), "size": size, "length": length}
        if given["prompt"] is not None:
            batch["caption"] = [given["prompt"]]
        yield Request(
            key=request_key(given["reference"], given["prompt"]),
            batch=batch,
            length=length,
            fps=given["fps"] or Fraction(self._system.pipeline.fps),
            references=given["reference"],
            prompt=given["prompt"],
            negative_prompt=given["negative_prompt"],
            source=self._approximations(),
        )

    def of_clip(self, clip: StoredClip, given: Given) -> Request | None:
        """As many frames of a clip as were trained, as far apart, and its caption; None where it is too short
        for one latent after the first.
        """
        stride = self._trained("stride", 1)
        stride = stride if isinstance(stride, int) else min(stride)
        time_factor = self._system.codec.time_factor
        longest = given["length"] or int(self._trained("clip_frames", 49))
        frames = _run(clip.frames, stride)[:longest]
        count = 1 + (len(frames) - 1) // time_factor * time_factor
        if clip.rate is None or count < 1 + time_factor:
            return None
        request = clip.request(frames=frames[:count])
        assert request.truth is not None
        assert request.fps is not None
        size = given["size"] or tuple(request.truth.shape[-2:])
        self._check_extent(size, count)
        batch = {**request.batch, **self._settings(given), "size": size, "length": count}
        return replace(
            request,
            batch=batch,
            fps=request.fps / stride,
            negative_prompt=given["negative_prompt"],
            landmarks=None,
            scheme=None,
            source={**request.source, **self._approximations()},
        )

    @property
    def _system(self) -> Any:
        return self.resources.system

    def _trained(self, name: str, default: Any) -> Any:
        """A setting of the examples that the weights were trained on."""
        return self.resources.facts.get("data", {}).get("examples", {}).get(name, default)

    def _native_size(self) -> tuple[int, int]:
        size, factor = self._system.network.native_size, self._system.codec.factor
        if size is None:
            raise ValueError(
                "size: not given, and these weights state none: give one, such as size=[480,832]"
            )
        return size[0] * factor, size[1] * factor

    def _check_extent(self, size: tuple[int, int], length: int) -> None:
        codec = self._system.codec
        height, width = size
        if height % codec.factor or width % codec.factor:
            raise ValueError(f"size=[{height},{width}]: both sides must be multiples of {codec.factor}")
        try:
            latents = codec.num_latents(length)
            self._system.network.check_size(latents, height // codec.factor, width // codec.factor)
        except ValueError as error:
            raise ValueError(f"size=[{height},{width}] length={length}: {error}") from error

    def _look_at(self, photo: Path) -> dict[str, Tensor]:
        conditioner: FaceConditioner = self._system.face_condition
        picture = shrink_long_side(read_photo(photo))
        try:
            found = conditioner.of_photos([picture], self.backend)
        except ValueError as error:
            raise ValueError(f"reference={photo}: {error}") from error
        return {name: value.cpu() for name, value in found.batch().items()}

    def _approximations(self) -> dict[str, Any]:
        """For samples.jsonl: what of the sampling, as the weights or a person asked for it, is not exact."""
        threshold = self._system.pipeline.cache_threshold
        return {} if threshold is None else {"approximate": {"step_cache": threshold}}

    def _settings(self, given: Given) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        if given["negative_prompt"] is not None:
            settings["negative_prompt"] = [given["negative_prompt"]]
        if given["inputs.face_scale"] is not None:
            settings["face_scale"] = given["inputs.face_scale"]
        return settings


def _run(frames: np.ndarray, stride: int) -> np.ndarray:
    """The first frames in a row of those that show the person, `stride` apart."""
    gaps = np.flatnonzero(np.diff(frames) != 1)
    end = int(gaps[0]) + 1 if len(gaps) else len(frames)
    return frames[:end:stride]
