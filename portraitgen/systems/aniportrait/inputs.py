"""What AniPortrait takes to generate: a photo and what moves it, or prepared clips."""

import logging
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.choice import LARGEST
from portraitgen.faces.mediapipe import MediaPipeBackend
from portraitgen.faces.motion import Motion, read_motion, with_mesh
from portraitgen.faces.reference import MARGIN, Frame, Reference, read_reference
from portraitgen.nn.pose_guider import DRAWING_FACTOR
from portraitgen.systems.aniportrait.driven_clip import DrivenClip
from portraitgen.systems.aniportrait.face_driving import Retarget, driven_by_face
from portraitgen.systems.aniportrait.own_sound import CannotSpeak, driven_by_own_sound
from portraitgen.systems.aniportrait.sound_driving import Speech, driven_by_sound
from portraitgen.systems.aniportrait.speech_models import load_speech
from portraitgen.training.inputs import NUM_STEPS, Given, Input, Resources, SystemInputs, Way
from portraitgen.training.request import Request, StoredClip
from portraitgen.training.weights_header import stated_size

log = logging.getLogger(__name__)

_ORIGIN = (
    "train it (python train.py experiment=aniportrait/{name} data.shards=…), or convert the published "
    "{name}.pt (ZJYang/AniPortrait on the hub, Apache-2.0): python convert.py kind={name} source=… out=…"
)
_PHOTO = ("size", "fps", "inputs.frame", "inputs.margin", "inputs.face", "inputs.raw_points")


class Inputs(SystemInputs):
    """Makes clips of drawings: landmarks of prepared clips, of a driving face, or moved by a sound."""

    inputs = (
        Input("shards", "shards", "prepared clips, each with its first frame as reference"),
        Input("reference", "photos", "photo of the face that is brought to life"),
        Input("driving", "video", "what the face does: a video, a picture, or a landmark file (.npz)"),
        Input("audio", "sound", "what the face says: a sound, or a video with one"),
        Input("size", "size", "pixels of what is drawn, multiples of 8; else as the weights were trained"),
        Input("fps", "rate", "frames a second; else those of what drives"),
        Input(
            "inputs.frame",
            "choice",
            "what is shown of the photo: the face as in prepared clips, as much as has the proportion of "
            "size, all of it with black bars, or what the official code cuts out",
            default="face",
            choices=get_args(Frame),
        ),
        Input(
            "inputs.margin",
            "number",
            "space around the face with inputs.frame=face, in face sizes: more where the head moves out",
            default=MARGIN,
            low=0.0,
        ),
        Input(
            "inputs.face",
            "face",
            "which face of the photo: largest, left, right, or a number, 1 being on the left",
            default=LARGEST,
            of="reference",
        ),
        Input(
            "inputs.driving_face",
            "face",
            "which face of the driving video or picture, in the same words",
            default=LARGEST,
            of="driving",
        ),
        Input(
            "inputs.retarget",
            "choice",
            "how the photo's face follows the driving one: 3d (both found by mediapipe), 2d, auto (3d where "
            "there is depth), or none (the landmarks are of the photo itself)",
            default="auto",
            choices=("auto", "3d", "2d", "none"),
        ),
        Input(
            "inputs.raw_points",
            "switch",
            "draw MediaPipe's points uncorrected; else as the weights know them (the released ones so)",
        ),
        Input(
            "inputs.audio2mesh",
            "weights",
            "weights that turn sound into the face's motion",
            origin=_ORIGIN.format(name="audio2mesh"),
        ),
        Input(
            "inputs.audio2pose",
            "weights",
            "weights that turn sound into the head's motion",
            origin=_ORIGIN.format(name="audio2pose"),
        ),
        Input(
            "inputs.head",
            "file",
            "a video, landmark file or template (.npy) whose head is followed forth and back",
        ),
        Input("inputs.manner", "count", "manner of moving of audio2pose; else drawn from the seed", low=0),
        Input(
            "inputs.shift_s",
            "number",
            "seconds by which the sound of prepared clips is turned round: a control for grading",
            default=0.0,
        ),
    )
    sampling = (
        NUM_STEPS,
        Input(
            "sampling.guidance_scale",
            "number",
            "how far pictures are pushed away from those without a reference",
            low=1.0,
            high=20.0,
        ),
    )
    ways = (
        Way("prepared clips that move as they moved", ("shards",)),
        Way(
            "prepared clips that speak their own sound", ("shards", "inputs.audio2mesh"), ("inputs.shift_s",)
        ),
        Way(
            "a photo that moves as a face does",
            ("reference", "driving"),
            (*_PHOTO, "inputs.retarget", "inputs.driving_face"),
        ),
        Way("a photo that speaks, its head still", ("reference", "audio", "inputs.audio2mesh"), _PHOTO),
        Way(
            "a photo that speaks and moves its head",
            ("reference", "audio", "inputs.audio2mesh", "inputs.audio2pose"),
            (*_PHOTO, "inputs.manner"),
        ),
        Way(
            "a photo that speaks, its head as in a video",
            ("reference", "audio", "inputs.audio2mesh", "inputs.head"),
            _PHOTO,
        ),
    )

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._references: dict[Any, Reference] = {}
        self._motions: dict[Any, Motion] = {}
        self._speech: dict[Any, Speech] = {}

    @cached_property
    def backend(self) -> FaceBackend:
        backend: FaceBackend = self.resources.faces()
        return backend

    def requests(self, given: Given) -> Iterator[Request]:
        """One clip, or for a driving picture one picture."""
        facts = self.resources.facts
        backend = with_mesh(self.backend)
        known = facts.get("landmark_scheme", backend.landmark_scheme)
        if backend.landmark_scheme != known:
            raise ValueError(
                f"these weights were trained on {known} landmarks, faces={backend.name} finds "
                f"{backend.landmark_scheme}: choose the face backend of their training data"
            )
        raw = given["inputs.raw_points"]
        if raw is None:  # the released weights were trained on what MediaPipe says
            raw = "converted_from" in facts and isinstance(backend, MediaPipeBackend)
        ((photo,),) = given["reference"]
        reference = self._reference(photo, backend, given)
        if given["audio"] is not None:
            speech = self._load_speech(given, backend, raw=raw)
            clip = driven_by_sound(
                reference, given["audio"], speech, fps=given["fps"], raw=raw, seed=given.seed
            )
        else:
            retarget: Retarget = given["inputs.retarget"]
            if reference.landmarks.mesh is None and (raw or retarget == "3d"):
                setting = "inputs.raw_points=true" if raw else "inputs.retarget=3d"
                raise ValueError(f"{setting} needs MediaPipe's mesh: find the faces with faces=mediapipe")
            motion = self._motion(given["driving"], backend, given)
            clip = driven_by_face(reference, given["driving"], motion, retarget=retarget, raw=raw)
        yield clip.request(self.resources.system.codec.factor, references=given["reference"])

    def of_clip(self, clip: StoredClip, given: Given) -> Request | None:
        """The clip as it moved; with `inputs.audio2mesh` as its own sound moves it."""
        known = self.resources.facts.get("landmark_scheme", clip.landmark_scheme)
        if clip.landmark_scheme != known:
            raise ValueError(
                f"these weights were trained on {known} landmarks, shards={given['shards']} hold "
                f"{clip.landmark_scheme}: prepare them with the face backend of the weights' training data "
                "(prepare.py faces=…)"
            )
        if given["inputs.audio2mesh"] is None:
            driven = DrivenClip.of_stored(clip)
        else:
            speech = self._load_speech(given, self.backend, raw=False)
            try:
                driven = driven_by_own_sound(clip, speech)
            except CannotSpeak as error:
                log.warning("left out: %s", error)
                return None
        return driven.request(self.resources.system.codec.factor)

    def _reference(self, photo: Path, backend: FaceBackend, given: Given) -> Reference:
        """Found once for all samples of a photo."""
        size = _picture_size(given["size"], self.resources.facts, self.resources.system.codec.factor)
        frame, which, margin = (given[f"inputs.{name}"] for name in ("frame", "face", "margin"))
        name = (photo, size, frame, which, margin)
        if name not in self._references:
            found = read_reference(photo, backend, size=size, frame=frame, which=which, margin=margin)
            self._references = {name: found}
        return self._references[name]

    def _motion(self, driving: Path, backend: FaceBackend, given: Given) -> Motion:
        """Found once for all samples of a video."""
        which = given["inputs.driving_face"]
        name = (driving, given["fps"], which)
        if name not in self._motions:
            with self.resources.progress(f"{driving.name}: looking for the face") as on_frame:
                motion = read_motion(driving, backend, fps=given["fps"], which=which, on_frame=on_frame)
            self._motions = {name: motion}
        return self._motions[name]

    def _load_speech(self, given: Given, backend: FaceBackend, *, raw: bool) -> Speech:
        """Loaded once for all clips that ask for the same."""
        names = ("audio2mesh", "audio2pose", "head", "manner", "shift_s")
        settings = {name: given[f"inputs.{name}"] for name in names}
        key = (*settings.values(), raw)
        if key not in self._speech:
            self._speech = {
                key: load_speech(
                    **settings,
                    backend=backend,
                    load=self.resources.load,
                    raw=raw,
                    progress=self.resources.progress,
                )
            }
        return self._speech[key]


def _picture_size(size: tuple[int, int] | None, facts: Mapping[str, Any], factor: int) -> tuple[int, int]:
    """(height, width) of what is drawn: as asked for, or as the network was trained.

    Raises:
        ValueError: the network or the video codec cannot have this size.
    """
    if size is None:
        height, width = (side * factor // DRAWING_FACTOR for side in stated_size(facts, "pose_size"))
    else:
        height, width = size
    unit = math.lcm(factor, 2)
    if any(side < unit or side % unit for side in (height, width)):
        raise ValueError(f"size=[{height},{width}]: both sides must be multiples of {unit}")
    return height, width
