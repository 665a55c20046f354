"""Draws a video of a person as a prompt says: face tokens once, then guided denoising."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import torch
from torch import Tensor, nn

from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators, draw_noise
from portraitgen.diffusion.sampling import Scheduler, sample, times_of
from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.nn.text.prompts import Prompts
from portraitgen.systems.consisid.face_pictures import shown_pictures
from portraitgen.systems.consisid.host import Host
from portraitgen.systems.consisid.step_cache import skipped_steps

OnStep = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Face:
    """What is known of the faces of B samples.

    Attributes:
        picture: [B, 3, S, S] in [-1, 1], upright and on white.
        embedding: [B, E].
        hidden: [B, L, N, C].
        key_points: [B, 5, 2] in pixels of the picture, where the network is shown them.
    """

    picture: Tensor
    embedding: Tensor
    hidden: Tensor
    key_points: Tensor | None = None


class ConsisIDPipeline:
    """Samples latents of videos; decoding them is for the codec.

    What does not change from one denoising step to the next is computed once: face tokens, text, positions.
    The transformer computes in the precision of its weights; latents, guidance and the scheduler's steps are
    float32. Adapters are part of the weights meanwhile.

    Args:
        network, codec, prompts: as trained; without prompts the text is one zero.
        scheduler: a diffusers scheduler with the schedule of the training objective.
        num_steps: denoising steps.
        guidance_scale: 1 samples with the prompt alone; above 1 it is pushed away from the negative prompt.
        face_scale: of the attention to face tokens.
        negative_prompt: where a batch gives none.
        fps: frames a second that videos are shown at; the transformer knows of none.
        cache_threshold, cache_rescale: skip the blocks at steps that change little, see `skipped_steps`;
            approximate. Without a threshold every step is computed whole.
        offload: keep on the GPU what is at work only: text encoder, transformer or VAE, one after the other;
            "blocks": of the transformer one block at a time.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        network: Host,
        codec: LatentCodec,
        *,
        scheduler: Scheduler,
        prompts: Prompts | None = None,
        num_steps: int = 50,
        guidance_scale: float = 6.0,
        face_scale: float = 1.0,
        negative_prompt: str = "",
        fps: float = 8.0,
        cache_threshold: float | None = None,
        cache_rescale: Sequence[float] = (1.0, 0.0),
        offload: bool | Literal["blocks"] = False,
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"sampling.num_steps is {num_steps}: it must be 1 or more")
        if cache_threshold is not None and not 0 <= cache_threshold <= 1:
            raise ValueError(f"sampling.cache_threshold is {cache_threshold}: it must be from 0 to 1")
        if offload not in (False, True, "blocks"):
            raise ValueError(f"sampling.offload is {offload!r}: give false, true or blocks")
        self.network, self.codec, self.prompts = network, codec, prompts
        self.scheduler = scheduler
        self.num_steps, self.guidance_scale, self.face_scale = num_steps, guidance_scale, face_scale
        self.cache_threshold, self.cache_rescale = cache_threshold, tuple(cache_rescale)
        self.negative_prompt, self.fps, self.offload = negative_prompt, fps, offload

    def embed_text(self, prompts: Sequence[str] | None, *, batch: int, like: Tensor) -> TextEncoding:
        """Of prompts; one zero a sample without a text encoder, and the empty prompt where none is given."""
        if self.prompts is None:
            return TextEncoding.zeros(batch, self.network.text_dim, like=like)
        return self.prompts.encode(prompts or [""] * batch, like=like)

    def place(self, part: nn.Module, device: torch.device) -> None:
        """Bring transformer or codec to the device, and the other to the CPU; nothing without `offload`. A
        transformer whose blocks come one at a time stays where it is.
        """
        if self.offload:
            for other in (self.network, self.codec):
                if other is not part:
                    other.to("cpu")
            if part is self.codec or self.offload != "blocks":
                part.to(device)

    @torch.no_grad()
    def __call__(
        self,
        text: TextEncoding,
        negative: TextEncoding,
        face: Face,
        *,
        size: tuple[int, int],
        num_frames: int,
        face_scale: float | None = None,
        generator: Generators | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Clean latents [B, t, C, h, w].

        Args:
            text, negative: of prompts and negative prompts.
            size: (height, width) in pixels.
            num_frames: 1 + time_factor·k of the codec.
            face_scale: None: the pipeline's.
            generator: of the noise; the pictures' posteriors are drawn first, as in diffusers' pipeline.
        """
        codec, network, count = self.codec, self.network, len(face.picture)
        height, width = (side // codec.factor for side in size)
        frames = codec.num_latents(num_frames)
        network.check_size(frames, height, width)
        device = face.picture.device
        if self.offload and self.prompts is not None:
            self.prompts.offload()
        picture = None
        if network.shows_picture:
            self.place(codec, device)
            shown = shown_pictures(face.picture, face.key_points, size)
            picture = torch.cat(
                [codec.encode_image(each, sample=True, generator=generator) for each in shown], dim=1
            )
        shape = (count, frames, codec.channels, height, width)
        noise = draw_noise(shape, device=device, generator=generator)
        self.place(network, device)
        guide = self.guidance_scale != 1
        read = torch.cat([negative.embeds, text.embeds]) if guide else text.embeds
        scale = self.face_scale if face_scale is None else face_scale
        faces = None
        if network.extractor is not None:
            if self.offload == "blocks":
                network.extractor.to(device)
            faces = network.face_tokens(face.embedding, face.hidden)
        if guide:
            picture, faces = (None if each is None else torch.cat([each, each]) for each in (picture, faces))

        steps = self._steps()

        def predict(noisy: Tensor, time: Tensor) -> Tensor:
            if guide:
                noisy, time = torch.cat([noisy, noisy]), torch.cat([time, time])
            with next(steps):
                found = network(noisy, time, text=read, picture=picture, faces=faces, face_scale=scale)
            if not guide:
                return found
            without, wanted = found.chunk(2)
            return without + self.guidance_scale * (wanted - without)

        one_by_one = network.blocks_offloaded(device) if self.offload == "blocks" else nullcontext()
        with network.adapted(), one_by_one:
            return sample(
                predict,
                self.scheduler,
                noise,
                num_steps=self.num_steps,
                generator=generator,
                on_step=on_step,
            )

    def _steps(self) -> Iterator[AbstractContextManager[None]]:
        """What the predictions of a video are made inside of, one after the other; begun when the loop is."""
        threshold = self.cache_threshold
        if threshold is None:
            yield from repeat(nullcontext())
            return
        embeddings = self.network.time_embeddings(times_of(self.scheduler))
        memory = self.network.block_memory()
        for skip in skipped_steps(embeddings, threshold=threshold, rescale=self.cache_rescale):
            yield memory.step(skip=skip)
