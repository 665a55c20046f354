"""Animates a portrait by landmark drawings: windows, guidance and codec around the denoising loop."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from portraitgen.diffusion.guidance import Guidance, guided
from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators, draw_noise
from portraitgen.diffusion.sampling import Scheduler, sample
from portraitgen.diffusion.windows import Blend, WindowBatch, context_windows, windowed
from portraitgen.nn.reference_attention import ReferenceKeyValues
from portraitgen.systems.aniportrait.network import AniPortraitNetwork, check_drawings


class AniPortraitPipeline:
    """Samples clips of any length.

    What does not change from one denoising step to the next is computed once: reference features, their
    keys and values, pose maps.

    Args:
        network, codec, image_encoder: as trained; without an image encoder the context token is zero.
        scheduler: a diffusers scheduler with the schedule of the training objective.
        num_steps: denoising steps.
        guidance_scale: 1 samples the conditional prediction alone; above 1 it is pushed away from the
            prediction without reference and image embedding (the pose stays in both).
        window_frames, window_overlap, closed_loop, blend: see `context_windows` and `blend_weights`. Networks
            for images take windows of one frame.
        window_batch: windows predicted at once.
    """

    def __init__(
        self,
        network: AniPortraitNetwork,
        codec: LatentCodec,
        *,
        scheduler: Scheduler,
        image_encoder: nn.Module | None = None,
        num_steps: int = 25,
        guidance_scale: float = 3.5,
        window_frames: int = 16,
        window_overlap: int = 4,
        closed_loop: bool = False,
        blend: Blend = "mean",
        window_batch: int = 1,
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"sampling.num_steps is {num_steps}: it must be 1 or more")
        self.network = network
        self.codec = codec
        self.image_encoder = image_encoder
        self.scheduler = scheduler
        self.num_steps = num_steps
        self.guidance = Guidance([("unconditional", 1.0), ("conditional", guidance_scale)])
        self.window_frames = window_frames
        self.window_overlap = window_overlap
        self.closed_loop = closed_loop
        self.blend: Blend = blend
        self.window_batch = window_batch

    def embed_image(self, reference: Tensor) -> Tensor:
        """Context token [B, 1, D] of the reference images [B, 3, H, W]; zeros without an image encoder."""
        if self.image_encoder is None:
            return reference.new_zeros(len(reference), 1, self.network.context_dim)
        embeds: Tensor = self.image_encoder(reference)
        return embeds

    @torch.no_grad()
    def __call__(
        self,
        reference: Tensor,
        pose: Tensor,
        *,
        generator: Generators | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Clips [B, T, 3, H, W] in [-1, 1].

        Args:
            reference: images [B, 3, H, W] in [-1, 1].
            pose: drawn landmarks [B, T, 3, 8h, 8w] in [-1, 1], where [h, w] is the size of the latents.
            generator: source of all noise, one or one a sample; CPU generators give the same clip on every
                machine.
            on_step: called after each denoising step with how many are done and how many there are.

        Raises:
            ValueError: the drawings do not fit the latents of the reference.
        """
        latents = self.codec.encode(reference)
        check_drawings(pose, latents)
        image = self.embed_image(reference)
        features = self.network.encode_reference(latents, image)
        keys_values = self.network.project_reference(features)
        maps = self._encode_pose(pose)

        def predict(condition_set: str, noisy: Tensor, time: Tensor, rows: WindowBatch) -> Tensor:
            conditional = condition_set == "conditional"
            context = rows.of_samples(image)
            return self.network(
                noisy,
                time,
                reference=_of_samples(keys_values, rows) if conditional else None,
                pose=[rows.of_frames(each) for each in maps],
                image_embeds=context if conditional else torch.zeros_like(context),
            )

        num_frames = pose.shape[1]
        windows = context_windows(
            num_frames,
            self.window_frames,
            min(self.window_overlap, self.window_frames - 1),
            closed_loop=self.closed_loop,
        )
        noise = draw_noise(
            (len(pose), num_frames, *latents.shape[1:]), device=pose.device, generator=generator
        )
        clean = sample(
            windowed(guided(predict, self.guidance), windows, blend=self.blend, batch_size=self.window_batch),
            self.scheduler,
            noise,
            num_steps=self.num_steps,
            generator=generator,
            on_step=on_step,
        )
        return self.codec.decode(clean).clamp(-1, 1)

    def _encode_pose(self, pose: Tensor) -> tuple[Tensor, ...]:
        """Pose maps of all frames, a window's worth at a time to bound the memory."""
        parts = [self.network.encode_pose(chunk) for chunk in pose.split(self.window_frames, dim=1)]
        return tuple(torch.cat(level, dim=1) for level in zip(*parts, strict=True))


def _of_samples(keys_values: ReferenceKeyValues, rows: WindowBatch) -> ReferenceKeyValues:
    return ReferenceKeyValues(
        tuple((rows.of_samples(key), rows.of_samples(value)) for key, value in keys_values.pairs)
    )
