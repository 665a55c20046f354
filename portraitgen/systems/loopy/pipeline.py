"""A chain of clips from a photo and a sound: motion frames, triple guidance and codec around denoising."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from portraitgen.diffusion.guidance import Guidance, guided
from portraitgen.diffusion.latent_history import LatentHistory
from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators, draw_noise
from portraitgen.diffusion.sampling import Scheduler, sample
from portraitgen.media.segments import TemporalSegments
from portraitgen.nn.options import reject_unknown
from portraitgen.systems.loopy.network import ClipContext, LoopyNetwork

PASSES: dict[str, Sequence[str]] = {
    "base": (),
    "reference": ("reference", "motion"),
    "audio": ("reference", "motion", "audio", "motion_latents"),
}
"""The predictions that guidance goes through, and which conditions each of them sees."""
PASTS = ("latents", "pictures")
Hear = Callable[[range], Tensor]
"""Frames of the sound → features [B, n, window, layers, width]; beyond its end there is silence."""


@dataclass(frozen=True, slots=True)
class _Passes:
    """The inputs of the network for some condition sets, one behind the other in the batch."""

    context: ClipContext
    tokens: Tensor | None
    motion_latents: Tensor | None
    keep_reference: Tensor
    keep_motion: Tensor


class LoopyPipeline:
    """Samples talking heads of any length, clip by clip; each sees what came before it.

    The past stays latents unless `past` says otherwise: no frame is decoded and encoded again, which would
    shift its colours a little each time. What does not change over the steps and guidance passes is computed
    once: the reference once a chain, the motion frames once a clip, tokens and motion latents of the sound
    once a clip.

    Args:
        network, codec: as trained.
        scheduler: a diffusers scheduler with the schedule of the training objective.
        num_steps: denoising steps.
        reference_scale, audio_scale: guidance, from the prediction "base" to "reference", and from there to
            "audio" (the paper: 3 and 5). An audio scale of 0 leaves the sound out.
        passes: which conditions each prediction sees, changes to `PASSES`. Who does not see the audio hears
            features of zero, and who sees motion latents without it has those of these.
        past: the motion frames are the sampled "latents", or "pictures" decoded from them and encoded again.
        batch_passes: predict the passes of a step at once; else one after the other, in less memory.
        segments: options of `TemporalSegments`: which frames of the past are motion frames.
        decode_frames: frames that exist as pictures at once.

    Raises:
        ValueError: a setting is out of range, or there are other motion frames than the network takes.
    """

    def __init__(
        self,
        network: LoopyNetwork,
        codec: LatentCodec,
        *,
        scheduler: Scheduler,
        num_steps: int = 25,
        reference_scale: float = 3.0,
        audio_scale: float = 5.0,
        passes: Mapping[str, Sequence[str]] | None = None,
        past: str = "latents",
        batch_passes: bool = True,
        segments: Mapping[str, Any] | None = None,
        decode_frames: int = 8,
    ) -> None:
        for name, value in (("num_steps", num_steps), ("decode_frames", decode_frames)):
            if value < 1:
                raise ValueError(f"sampling.{name} is {value}: it must be 1 or more")
        self.segments = TemporalSegments(**(segments or {}))
        if network.has_clips and self.segments.count != network.motion_frames:
            raise ValueError(
                f"sampling.segments give {self.segments.count} motion frames, the network takes "
                f"{network.motion_frames} (model.network.temporal.motion_frames): set both alike"
            )
        if past not in PASTS:
            raise ValueError(f"sampling.past={past!r}: choose {' or '.join(PASTS)}")
        self.past = past
        self.passes = _checked_passes(passes or {})
        self.network, self.codec, self.scheduler = network, codec, scheduler
        self.num_steps, self.batch_passes, self.decode_frames = num_steps, batch_passes, decode_frames
        terms = [("base", 1.0), ("reference", reference_scale)]
        if network.has_clips:
            terms.append(("audio", audio_scale))
        self.guidance = Guidance(terms)

    def stream(
        self,
        reference: Tensor,
        num_frames: int,
        hear: Hear | None = None,
        *,
        generator: Generators | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Iterator[Tensor]:
        """Chunks [B, n, 3, H, W] in [-1, 1] of the frames, in order; arguments as `clips_of_latents`."""
        for latents in self.clips_of_latents(
            reference, num_frames, hear, generator=generator, on_step=on_step
        ):
            with torch.no_grad():
                for chunk in latents.split(self.decode_frames, dim=1):
                    yield self.codec.decode(chunk).clamp(-1, 1)

    def clips_of_latents(
        self,
        reference: Tensor,
        num_frames: int,
        hear: Hear | None = None,
        *,
        generator: Generators | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Iterator[Tensor]:
        """Latents [B, n, C, h, w] of one clip after the other, sampled when asked for.

        The last is drawn as long as the others, in silence beyond the end, and cut.

        Args:
            reference: images [B, 3, H, W] in [-1, 1], on the device of the network.
            num_frames: of the whole chain.
            hear: the sound; None for stage 1's network, whose clips have one frame.
            generator: source of all noise, one or one a sample.
            on_step: called after each denoising step with how many are done and how many there are.
        """
        assert (hear is not None) == self.network.has_clips, "stage 2's network, and it alone, hears"
        size = self.network.clip_frames if self.network.has_clips else 1
        starts = range(0, num_frames, size)
        history = LatentHistory(self.segments.length)
        picks = np.random.default_rng(0)
        weight = self.network.denoising_unet.conv_in.weight
        with torch.no_grad():
            encoded = self.codec.encode(reference)
            beginning = self.network.read(encoded.to(weight.dtype))
        for number, start in enumerate(starts):

            def count(done: int, total: int, number: int = number) -> None:
                if on_step is not None:
                    on_step(number * total + done, len(starts) * total)

            with torch.no_grad():
                context = beginning
                if self.network.has_clips and number:
                    context = self._continued(beginning, history, picks, weight.dtype)
                audio = None if hear is None else hear(range(start, start + size)).to(weight.dtype)
                noise = draw_noise(
                    (len(encoded), size, *encoded.shape[1:]), device=weight.device, generator=generator
                )
                latents = sample(
                    self._predictor(context, audio),
                    self.scheduler,
                    noise,
                    num_steps=self.num_steps,
                    generator=generator,
                    on_step=count,
                )
                if self.network.has_clips:
                    history.append(self._remembered(latents))
            yield latents[:, : num_frames - start]

    def _remembered(self, latents: Tensor) -> Tensor:
        """What the clips to come see of a clip's latents."""
        if self.past == "latents":
            return latents
        parts = latents.split(self.decode_frames, dim=1)
        return torch.cat([self.codec.encode(self.codec.decode(part).clamp(-1, 1)) for part in parts], dim=1)

    def _continued(
        self, context: ClipContext, history: LatentHistory, picks: np.random.Generator, dtype: torch.dtype
    ) -> ClipContext:
        """The context of a clip with frames before it; the oldest of these comes first."""
        if self.segments.pick == "mean":
            motion, found = history.meaned(self.segments.ranges[::-1].copy())
        else:
            motion, found = history.picked(self.segments.picks(picks)[::-1].copy())
        return self.network.with_motion(context, motion.to(dtype), found.expand(len(motion), -1))

    def _predictor(self, context: ClipContext, audio: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
        """The guided prediction of a clip's latents [B, T, C, h, w]."""
        names = [*self.guidance.coefficients]
        groups = [names] if self.batch_passes else [[name] for name in names]
        clips = len(context.reference.pairs[0][0])
        inputs = [(group, self._inputs(group, context, audio, clips)) for group in groups]

        def predict(noisy: Tensor, time: Tensor) -> Tensor:
            parts: dict[str, Tensor] = {}
            for group, passes in inputs:
                times = len(group)
                prediction = self.network(
                    noisy.to(context.reference.pairs[0][0].dtype).repeat(times, 1, 1, 1, 1),
                    time.repeat(times),
                    passes.context,
                    tokens=passes.tokens,
                    motion_latents=passes.motion_latents,
                    keep_reference=passes.keep_reference,
                    keep_motion=passes.keep_motion,
                )
                parts.update(zip(group, prediction.float().chunk(times), strict=True))
            return guided(lambda name: parts[name], self.guidance)()

        return predict

    def _inputs(self, names: list[str], context: ClipContext, audio: Tensor | None, clips: int) -> _Passes:
        device = context.reference.pairs[0][0].device

        def seen(condition: str) -> Tensor:
            sees = [condition in self.passes[name] for name in names for _ in range(clips)]
            return torch.tensor(sees, device=device)

        tokens = latents = None
        if audio is not None:
            heard = [audio if "audio" in self.passes[name] else torch.zeros_like(audio) for name in names]
            tokens = self.network.hear(torch.cat(heard))
            latents = self.network.latents_of_motion(tokens)
            if latents is not None:
                latents = latents.masked_fill(~seen("motion_latents")[:, None, None], 0)
        return _Passes(
            context.repeated(len(names)),
            tokens,
            latents,
            keep_reference=seen("reference"),
            keep_motion=seen("motion"),
        )


def _checked_passes(changes: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """`PASSES` with changes.

    Raises:
        ValueError: a pass or a condition that there is not.
    """
    reject_unknown("sampling.passes", changes, PASSES)
    for name, conditions in changes.items():
        unknown = sorted({*conditions} - {*PASSES["audio"]})
        if unknown:
            raise ValueError(
                f"sampling.passes.{name} names {', '.join(unknown)}: a pass sees {', '.join(PASSES['audio'])}"
            )
    return {**PASSES, **changes}
