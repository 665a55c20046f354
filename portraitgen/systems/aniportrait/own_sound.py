"""Prepared clips whose face speaks their own sound: the way to grade Audio2Mesh against the truth."""

import math
from dataclasses import replace

import numpy as np
import torch

from portraitgen.faces.measure import mouth_closed_frame
from portraitgen.faces.planar_motion import move_planar, planar_motion
from portraitgen.media.audio import SAMPLE_RATE
from portraitgen.media.sound import SOUND_RATE
from portraitgen.systems.aniportrait.driven_clip import DrivenClip
from portraitgen.systems.aniportrait.sound_driving import Speech
from portraitgen.training.request import StoredClip


class CannotSpeak(ValueError):
    """A clip that cannot be driven by its sound; others of the same shards may."""


def driven_by_own_sound(stored: StoredClip, speech: Speech) -> DrivenClip:
    """A prepared clip, drawn from its sound and from the frame of it in which the mouth is most closed.

    The head moves as it did, so that frame and truth can be compared; what the face does beside that is what
    `speech.mesh` makes of the sound. With `speech.shift_s` it is the sound of another moment: a control.

    Raises:
        CannotSpeak: the clip is silent, or its frames have a gap.
        ValueError: it is of another frame rate or other landmarks than Audio2Mesh knows, or `speech.shift_s`
            changes nothing.
    """
    key, frames, length, rate = stored.key, stored.frames, stored.length, stored.rate
    everything = stored.valid_frames((0.0, 1.0))
    landmarks = stored.landmarks(everything)
    neutral = mouth_closed_frame(landmarks, stored.landmark_scheme)
    waveform = stored.sound(np.arange(length), sample_rate=SAMPLE_RATE)
    sound = stored.sound(np.arange(length), sample_rate=SOUND_RATE)
    if waveform is None or sound is None or rate is None:
        raise CannotSpeak(f"{key} has no sound")
    if np.any(np.diff(frames) != 1):
        raise CannotSpeak(f"{key} shows no face in some of its frames within the span")
    known = speech.mesh.frame_rate
    if stored.landmark_scheme != speech.mesh.landmark_scheme or abs(rate / known - 1) > 0.01 or speech.in_3d:
        raise ValueError(
            f"{key} has {stored.landmark_scheme} landmarks at {float(rate):g} frames a second, "
            f"inputs.audio2mesh moves {speech.mesh.landmark_scheme} {'in 3D ' if speech.in_3d else ''}at "
            f"{known:g}: give an Audio2Mesh that was trained on such shards"
        )
    if speech.shift_s and math.isclose(speech.shift_s % float(length / rate), 0, abs_tol=0.5 / rate):
        raise ValueError(f"inputs.shift_s={speech.shift_s:g} shifts the sound of {key} by its whole length")
    # As many samples as make `length` frames for the network: a frame that has begun counts there.
    heard = np.roll(waveform, round(speech.shift_s * SAMPLE_RATE))[: int(length * SAMPLE_RATE / known)]
    offsets = speech.mesh.offsets(torch.from_numpy(heard).to(speech.mesh.device))[frames]
    clip = DrivenClip.of_stored(stored, reference=int(everything[neutral]))
    origin = torch.from_numpy(landmarks[neutral]).double()
    _, poses = planar_motion(torch.from_numpy(clip.landmarks).double(), origin, scheme=clip.scheme)
    spoken = move_planar(origin, torch.from_numpy(offsets).double(), poses, scheme=clip.scheme)
    begin, end = (round(float(frame / clip.fps) * SOUND_RATE) for frame in (frames[0], frames[-1] + 1))
    return replace(
        clip,
        landmarks=spoken.numpy().astype(np.float32),
        sound=np.roll(sound, round(speech.shift_s * SOUND_RATE))[begin:end],
        source={**clip.source, "speech": "own sound", "speech_shift_s": speech.shift_s},
    )
