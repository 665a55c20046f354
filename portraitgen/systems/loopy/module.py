"""Training of Loopy (arXiv:2409.02634): stage 1 on frames, stage 2 on clips with sound, a module for both."""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from portraitgen.diffusion.conditions import ConditionDropout, ConditionMasks
from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators
from portraitgen.diffusion.objective import Objective
from portraitgen.nn.speech_encoders import SpeechEncoder
from portraitgen.systems.loopy.head_motion import head_motion
from portraitgen.systems.loopy.motion_latents import CONDITIONS
from portraitgen.systems.loopy.network import LoopyNetwork
from portraitgen.systems.loopy.pipeline import Hear, LoopyPipeline
from portraitgen.systems.loopy.sound import Ears
from portraitgen.training.generator import Batch, Denoised, Encoded, Generator
from portraitgen.training.optim import MakeOptimizer
from portraitgen.training.stored_latents import latents_of

BY = tuple(f"by_{name}" for name in CONDITIONS[:-1])


class Loopy(Generator):
    """Learns to draw the frames of a clip from a frame of it, its sound, and what came before.

    Conditions, by the names that condition dropout uses:

    reference       drop: spatial attention reads the clip itself alone
    motion          zero: its features, of all motion frames; drop: inter-clip layers read the clip alone
    audio           zero: the sound's features
    motion_latents  zero: what audio-to-latents gives
    by_audio, by_landmarks, by_movement
                    audio-to-latents goes by the first of these that is not dropped, by expression if all are

    Args:
        network: with temporal and audio layers for clips, without for frames.
        codec, objective, optimizer, lr_scheduler, condition_dropout: see `Generator`.
        sampling: `LoopyPipeline` with its settings bound.
        speech_encoder: hears the sound, frozen and in its own precision; None: of stage 1, or where the
            features are stored, and then needed again to generate.
        sound_margin: frames of sound that are heard around a clip; as many as `data.examples.sound_margin`.
        frame_rate: of the clips, and of the videos that are generated.
        landmark_scheme: of the shards, for audio-to-latents.
        nose_tip, expression_points: which landmarks movement and expression are measured at; None: those of
            the scheme.
        log_variance: whether that reads variances or log(1 + variance), see `head_motion`.
        gradient_checkpointing: trade time for memory; the gradients are equal.

    Raises:
        ValueError: the speech encoder gives other features than the network hears, or there are no such
            landmarks.
    """

    network: LoopyNetwork
    zeroed_inside: ClassVar[frozenset[str]] = frozenset({"motion", "motion_latents", *BY})

    def __init__(
        self,
        network: LoopyNetwork,
        codec: LatentCodec,
        objective: Objective,
        *,
        sampling: Callable[..., LoopyPipeline],
        optimizer: MakeOptimizer,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        condition_dropout: ConditionDropout | None = None,
        speech_encoder: SpeechEncoder | None = None,
        sound_margin: int = 12,
        frame_rate: float = 25.0,
        landmark_scheme: str = "ibug68",
        nose_tip: int | None = None,
        expression_points: Sequence[int] | None = None,
        log_variance: bool = True,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(
            network,
            codec,
            objective,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            condition_dropout=condition_dropout,
        )
        network.set_gradient_checkpointing(gradient_checkpointing)
        self.speech_encoder = speech_encoder
        self.landmark_scheme, self.frame_rate = landmark_scheme, frame_rate
        self.nose_tip, self.expression_points = nose_tip, expression_points
        self.log_variance = log_variance
        if network.motion_latents is not None:
            known = network.motion_latents.num_landmarks
            chosen = [*([] if nose_tip is None else [nose_tip]), *(expression_points or ())]
            if any(not 0 <= point < known for point in chosen):
                raise ValueError(
                    f"nose_tip and expression_points name landmarks 0 to {known - 1}, there are {known} "
                    "(network.motion_latents.num_landmarks)"
                )
        self.ears: Ears | None = None
        if network.audio_tokens is not None:
            window, layers, width = network.audio_tokens.heard
            self.ears = Ears(speech_encoder, window=window, margin=sound_margin, frame_rate=frame_rate)
            given = (layers, width)
            if speech_encoder is not None:
                given = (speech_encoder.layers, speech_encoder.width)
            if given != (layers, width):
                raise ValueError(
                    f"the speech encoder gives {given[0]} x {given[1]} numbers a frame, the network hears "
                    f"{layers} x {width}: set model.network.audio.layers and model.network.audio.width"
                )
        self.pipeline = self.make_pipeline(sampling, network, codec)

    def encode(self, batch: Batch) -> Encoded:
        """As `Generator.encode`; stored latents and speech features take the place of pictures and sound.

        Raises:
            ValueError: something is missing, or does not fit the network.
        """
        reference = latents_of(self.codec, batch, "reference", sample=False)
        clean = latents_of(self.codec, batch, "frames", sample=True)
        conditions = {"reference": reference}
        if self.ears is not None:
            if "motion_found" not in batch:
                raise ValueError(
                    "the batches hold no motion frames: set data.examples.motion (data=motion_clips)"
                )
            if clean.shape[1] != self.network.clip_frames:
                raise ValueError(
                    f"clips of {clean.shape[1]} frames, the network draws {self.network.clip_frames} at "
                    f"once: set data.examples.clip_frames={self.network.clip_frames}"
                )
            conditions["motion"] = latents_of(self.codec, batch, "motion", sample=False)
            conditions["motion_found"] = batch["motion_found"]
            conditions["audio"] = self.ears.of_batch(batch, clean.shape[1])
            if self.network.motion_latents is not None:
                height = reference.shape[-2] * self.codec.factor
                conditions |= self._head_motion(batch["landmarks"], height)
        return Encoded(clean, conditions)

    def _head_motion(self, landmarks: Tensor, height: int) -> dict[str, Tensor]:
        assert self.network.motion_latents is not None
        known = self.network.motion_latents.num_landmarks
        if landmarks.shape[2] != known:
            raise ValueError(
                f"the shards have {landmarks.shape[2]} landmarks, the network reads {known}: set "
                f"model.network.motion_latents.num_landmarks and model.landmark_scheme"
            )
        return head_motion(
            landmarks,
            scheme=self.landmark_scheme,
            height=height,
            nose_tip=self.nose_tip,
            expression_points=self.expression_points,
            log_variance=self.log_variance,
        )

    def denoise(
        self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], masks: ConditionMasks
    ) -> Denoised:
        if self.ears is None:
            context = self.network.read(conditions["reference"])
            keep = masks.keep.get("reference")
            return Denoised(self.network(noisy, time, context, keep_reference=keep))
        found = conditions["motion_found"]
        if "motion" in masks.nonzero:
            found = found & masks.nonzero["motion"][:, None]
        context = self.network.read(conditions["reference"], conditions["motion"], found)
        tokens = self.network.hear(conditions["audio"])
        latents = self.network.latents_of_motion(tokens, conditions, self._choice(masks))
        if latents is not None:
            latents = masks.zeroed("motion_latents", latents)
        prediction = self.network(
            noisy,
            time,
            context,
            tokens=tokens,
            motion_latents=latents,
            keep_reference=masks.keep.get("reference"),
            keep_motion=masks.keep.get("motion"),
        )
        return Denoised(prediction)

    def _choice(self, masks: ConditionMasks) -> Tensor | None:
        """Which of `CONDITIONS` audio-to-latents goes by, int64 [B]; None: all by sound."""
        if not any(name in masks.keep for name in BY):
            return None
        some = next(iter(masks.keep.values()))
        kept = [masks.keep.get(name, torch.ones_like(some)) for name in BY]
        return torch.stack([*kept, torch.ones_like(some)]).int().argmax(dim=0)

    def sample(self, batch: Batch, *, generator: Generators | None = None) -> Tensor:
        return torch.cat([*self.stream(batch, generator=generator)], dim=1)

    def stream(
        self,
        batch: Batch,
        *,
        generator: Generators | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Iterator[Tensor]:
        """As `Generator.stream`, of a batch of training, or of a request, whose `audio` [B, N] is that of the
        frames `frame_index` [B, T] and no more.

        Raises:
            ValueError: there is no sound, or nothing to hear it with.
        """
        num_frames = batch["frame_index"].shape[1]
        hear: Hear | None = None
        if self.ears is not None and "motion_found" in batch:
            heard = self.ears.of_batch(batch, num_frames)

            def hear(frames: range) -> Tensor:
                return heard

        elif self.ears is not None:
            hear = self.ears.of_sound(batch["audio"])
        return self.pipeline.stream(
            batch["reference"], num_frames, hear, generator=generator, on_step=on_step
        )

    def shown(self, batch: Batch) -> dict[str, Tensor]:
        """The reference, and of a batch of clips their frames."""
        pictures = {"reference": "reference", "truth": "frames"}
        return {label: batch[key] for label, key in pictures.items() if key in batch}
