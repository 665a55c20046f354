"""What generate.py takes for Loopy: a photo and a sound, or prepared clips that speak their own."""

import dataclasses
import logging
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F

from portraitgen.faces.reference import Frame, Reference, read_reference
from portraitgen.media.audio import SAMPLE_RATE, read_audio
from portraitgen.media.sound import sound_of
from portraitgen.systems.loopy.module import Loopy
from portraitgen.systems.loopy.sound import Ears
from portraitgen.training.inputs import NUM_STEPS, Given, Input, Resources, SystemInputs, Way
from portraitgen.training.request import Request, StoredClip, request_key

log = logging.getLogger(__name__)


class Inputs(SystemInputs):
    """Makes clips as long as a sound, to the frame."""

    inputs = (
        Input("shards", "shards", "prepared clips with sound, each with its first frame as reference"),
        Input("reference", "photos", "photo of the face that speaks"),
        Input("audio", "sound", "what the face says: a sound, or a video with one"),
        Input("size", "size", "pixels of what is drawn; else data.examples.size of the weights' training"),
        Input(
            "inputs.frame",
            "choice",
            "what is shown of the photo: the face as in prepared clips, as much as has the proportion of "
            "size, or all of it with black bars",
            default="face",
            choices=tuple(each for each in get_args(Frame) if each != "aniportrait"),
        ),
        Input(
            "inputs.shift_s",
            "number",
            "seconds by which the sound that draws prepared clips is turned round: a control for grading",
            default=0.0,
        ),
    )
    sampling = (
        NUM_STEPS,
        Input("sampling.reference_scale", "number", "how strongly the photo is followed", low=0.0, high=20.0),
        Input("sampling.audio_scale", "number", "how strongly the sound is followed", low=0.0, high=20.0),
    )
    ways = (
        Way("a photo that speaks", ("reference", "audio"), ("size", "inputs.frame")),
        Way("prepared clips that speak their own sound", ("shards",), ("inputs.shift_s",)),
    )

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._references: dict[Any, Reference] = {}

    def requests(self, given: Given) -> Iterator[Request]:
        ears = self._ears()
        ((photo,),) = given["reference"]
        reference = self._reference(photo, given)
        audio: Path = given["audio"]
        waveform = read_audio(audio, name=f"audio={audio}")
        if waveform is None or not len(waveform):
            raise ValueError(f"audio={audio}: there is no sound in this file")
        rate = Fraction(ears.frame_rate).limit_denominator(100_000)
        length = ears.frames(len(waveform))
        padded = np.pad(waveform, (0, max(ears.samples(length) - len(waveform), 0)))
        yield Request(
            key=request_key(given["reference"], audio.stem),
            batch={
                "key": [f"{photo.stem}-{audio.stem}"],
                "reference": reference.picture[None],
                "audio": torch.from_numpy(padded)[None],
                "frame_index": torch.arange(length)[None],
            },
            length=length,
            fps=rate,
            sound=sound_of(audio, 0.0, length / rate),
            references=given["reference"],
            source={"mode": "sound", "audio": str(audio)},
        )

    def of_clip(self, clip: StoredClip, given: Given) -> Request | None:
        ears = self._ears()
        rate = clip.rate
        if rate is None or not math.isclose(rate, ears.frame_rate, rel_tol=1e-3):
            raise ValueError(
                f"shards={given['shards']}: {clip.key} has {float(rate or 0):g} frames a second, these "
                f"weights draw {ears.frame_rate:g}: prepare the clips with prepare.py fps={ears.frame_rate:g}"
            )
        request = clip.request()
        if "audio" not in request.batch:
            log.warning("left out: %s has no sound, or frames between are left out", clip.key)
            return None
        turned = round(given["inputs.shift_s"] * SAMPLE_RATE)
        wanted = ears.samples(request.count)
        audio = request.batch["audio"].roll(turned, dims=-1)[:, :wanted]
        audio = F.pad(audio, (0, wanted - audio.shape[-1]))
        return dataclasses.replace(request, batch={**request.batch, "audio": audio})

    def _ears(self) -> Ears:
        """Of the weights.

        Raises:
            ValueError: they are of stage 1, or have nothing to hear a sound with.
        """
        system = self.resources.system
        assert isinstance(system, Loopy)
        if system.ears is None:
            raise ValueError(
                "these weights are of Loopy's stage 1, which draws single frames without sound: train stage 2"
            )
        if system.ears.encoder is None:
            raise ValueError(
                "these weights were trained on stored speech features and name no speech encoder: set "
                "model.speech_encoder to the one that the features were made with"
            )
        return system.ears

    def _reference(self, photo: Path, given: Given) -> Reference:
        """Found once for all samples of a photo."""
        size = self._size(given["size"])
        name = (photo, size, given["inputs.frame"])
        if name not in self._references:
            backend = self.resources.faces()
            found = read_reference(photo, backend, size=size, frame=given["inputs.frame"])
            self._references = {name: found}
        return self._references[name]

    def _size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """(height, width) of what is drawn."""
        if size is None:
            trained = self.resources.facts.get("data", {}).get("examples", {}).get("size")
            if trained is None:
                raise ValueError("size: these weights do not say how large their clips were; give size=512")
            height, width = [trained] * 2 if isinstance(trained, int) else list(trained)
            size = (height, width)
        unit = math.lcm(self.resources.system.codec.factor, 2)
        if any(side < unit or side % unit for side in size):
            raise ValueError(f"size=[{size[0]},{size[1]}]: both sides must be multiples of {unit}")
        return size
