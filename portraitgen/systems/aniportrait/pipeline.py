"""Animates a portrait by landmark drawings: windows, guidance and codec around the denoising loop."""

import itertools
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from portraitgen.diffusion.frame_conditions import FrameCondition, count_frames, take_frames
from portraitgen.diffusion.guidance import Guidance, guided
from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators, draw_noise
from portraitgen.diffusion.sampling import Scheduler, sample
from portraitgen.diffusion.windows import Blend, WindowBatch, context_windows, windowed
from portraitgen.nn.clip_image import ClipImageEncoder
from portraitgen.nn.reference_attention import ReferenceKeyValues
from portraitgen.systems.aniportrait.network import AniPortraitNetwork, check_drawings
from portraitgen.systems.aniportrait.pose_maps import PoseMaps, PoseRange, PoseStats

UnconditionalImage = Literal["zero", "gray"]
NoiseOrder = Literal["frames_first", "channels_first"]
OnStep = Callable[[int, int], None]


class AniPortraitPipeline:
    """Samples clips of any length, of any height and width that the codec takes.

    What does not change from one denoising step to the next is computed once: reference features, their
    keys and values, pose maps. The U-Nets compute in the precision of their weights, half precision if they
    are; latents, guidance and the scheduler's steps are float32.

    Args:
        network, codec, image_encoder: as trained; without an image encoder the context token is zero.
        scheduler: a diffusers scheduler with the schedule of the training objective.
        num_steps: denoising steps.
        guidance_scale: 1 samples the conditional prediction alone; above 1 it is pushed away from the
            prediction without reference and image embedding (the pose stays in both).
        unconditional_image: embedding that stands for no image: "zero", or "gray", that of CLIP's mean
            colour (upstream trains with gray and samples with zero).
        window_frames, window_overlap, closed_loop, blend: see `context_windows` and `blend_weights`. Networks
            for images take windows of one frame.
        shift_windows: other windows at each step, so that no seam stays in one place; pose maps are then
            made at every step.
        window_batch: windows predicted at once; the result does not depend on it.
        pose_stats: where a pose guider with batch norm takes its mean and variance: "running", those of its
            training; "window", of the frames of each window, as upstream does; "clip", of up to 32 frames
            spread over the clip, the same for all windows.
        pose_range: "training" gives drawings as they are trained with, in [-1, 1]; "upstream" as upstream's
            sampling does, in [-1, 509], which needs `pose_stats` other than "running".
        pose_cache_mb: megabytes of pose maps that are kept; beyond that they are made at each step anew.
        noise_order: "frames_first" gives a frame the same noise in clips of any length; "channels_first"
            gives the noise that upstream draws from the same seed.
        offload_latents: keep the latents in the CPU's memory; windows visit the device of the network.
        decode_frames: frames that exist as pictures at once.
        compile: compile the network, which takes minutes at the first step and pays off on a GPU.

    Raises:
        ValueError: a setting is out of range, or two contradict each other.
    """

    def __init__(
        self,
        network: AniPortraitNetwork,
        codec: LatentCodec,
        *,
        scheduler: Scheduler,
        image_encoder: ClipImageEncoder | None = None,
        num_steps: int = 25,
        guidance_scale: float = 3.5,
        unconditional_image: UnconditionalImage = "zero",
        window_frames: int = 16,
        window_overlap: int = 4,
        closed_loop: bool = False,
        shift_windows: bool = False,
        blend: Blend = "mean",
        window_batch: int = 1,
        pose_stats: PoseStats = "running",
        pose_range: PoseRange = "training",
        pose_cache_mb: float = 2048,
        noise_order: NoiseOrder = "frames_first",
        offload_latents: bool = False,
        decode_frames: int = 8,
        compile: bool = False,
    ) -> None:
        for name, value in (("num_steps", num_steps), ("decode_frames", decode_frames)):
            if value < 1:
                raise ValueError(f"sampling.{name} is {value}: it must be 1 or more")
        for name, choice, choices in (
            ("unconditional_image", unconditional_image, UnconditionalImage),
            ("pose_stats", pose_stats, PoseStats),
            ("pose_range", pose_range, PoseRange),
            ("noise_order", noise_order, NoiseOrder),
        ):
            if choice not in get_args(choices):
                raise ValueError(f"sampling.{name}={choice!r}: choose one of {', '.join(get_args(choices))}")
        if pose_range == "upstream" and pose_stats == "running":
            raise ValueError(
                "sampling.pose_range='upstream' gives drawings 255 times as large as those of the training: "
                "only sampling.pose_stats=window or clip brings them back into range"
            )
        self.network = network
        self.codec = codec
        self.image_encoder = image_encoder
        self.scheduler = scheduler
        self.num_steps = num_steps
        self.guidance = Guidance([("unconditional", 1.0), ("conditional", guidance_scale)])
        self.unconditional_image = unconditional_image
        self.window_frames = window_frames
        self.window_overlap = window_overlap
        self.closed_loop = closed_loop
        self.shift_windows = shift_windows
        self.blend: Blend = blend
        self.window_batch = window_batch
        self.pose_stats: PoseStats = pose_stats
        self.pose_range: PoseRange = pose_range
        self.pose_cache_bytes = int(pose_cache_mb * 2**20)
        self.noise_order = noise_order
        self.offload_latents = offload_latents
        self.decode_frames = decode_frames
        self._predict = torch.compile(network) if compile else network

    def embed_image(self, reference: Tensor) -> Tensor:
        """Context token [B, 1, D] of the reference images [B, 3, H, W]; zeros without an image encoder, which
        may then be given anything that has their batch axis.
        """
        if self.image_encoder is None:
            return reference.new_zeros(len(reference), 1, self.network.context_dim)
        embeds: Tensor = self.image_encoder(reference)
        return embeds

    def embed_no_image(self, image: Tensor) -> Tensor:
        """What stands for no image, of the shape of the embeddings `image` [B, 1, D]."""
        if self.unconditional_image == "zero" or self.image_encoder is None:
            return torch.zeros_like(image)
        return self.image_encoder.embed_gray().to(image).expand_as(image)

    def __call__(
        self,
        reference: Tensor,
        pose: FrameCondition,
        *,
        generator: Generators | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Clips [B, T, 3, H, W] in [-1, 1]; arguments and errors as `sample_latents`."""
        return torch.cat([*self.stream(reference, pose, generator=generator, on_step=on_step)], dim=1)

    def stream(
        self,
        reference: Tensor,
        pose: FrameCondition,
        *,
        generator: Generators | None = None,
        on_step: OnStep | None = None,
    ) -> Iterator[Tensor]:
        """Chunks [B, n, 3, H, W] of the clips' frames, in order; arguments and errors as `sample_latents`.

        The latents are sampled in this call; pictures are decoded as they are asked for, `decode_frames` at a
        time.
        """
        return self._decoded(self.sample_latents(reference, pose, generator=generator, on_step=on_step))

    @torch.no_grad()
    def sample_latents(
        self,
        reference: Tensor,
        pose: FrameCondition,
        *,
        generator: Generators | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Latents [B, T, C, h, w] of the clips.

        Args:
            reference: images [B, 3, H, W] in [-1, 1], on the device of the network.
            pose: drawn landmarks [B, T, 3, 8h, 8w] in [-1, 1], on any device, where [h, w] is the size of the
                latents; or `FramesOnDemand`, so that the drawings of a long clip never exist together.
            generator: source of all noise, one or one a sample; CPU generators give the same clip on every
                machine.
            on_step: called after each denoising step with how many are done and how many there are.

        Raises:
            ValueError: the drawings do not fit the latents of the reference, or the windows are longer than
                the limit of the motion modules.
        """
        num_frames = count_frames(pose)
        self._check_windows(num_frames)
        encoded = self.codec.encode(reference)
        check_drawings(take_frames(pose, [0]), encoded)
        weight = self.network.denoising_unet.conv_in.weight
        device, dtype = weight.device, weight.dtype
        image = self.embed_image(reference).to(dtype)
        no_image = self.embed_no_image(image)
        features = self.network.encode_reference(encoded.to(dtype), image)
        keys_values = self.network.project_reference(features)
        maps = PoseMaps(
            self.network,
            pose,
            stats=self.pose_stats,
            value_range=self.pose_range,
            capacity=0 if self.shift_windows else self.pose_cache_bytes,
        )

        def predict(condition_set: str, noisy: Tensor, time: Tensor, rows: WindowBatch) -> Tensor:
            conditional = condition_set == "conditional"
            prediction = self._predict(
                noisy.to(device, dtype),
                time.to(device),
                reference=_of_samples(keys_values, rows) if conditional else None,
                pose=maps.of_windows(rows.windows),
                image_embeds=rows.of_samples(image if conditional else no_image),
            )
            return prediction.float()

        noise = self._draw_noise(
            (len(encoded), num_frames, *encoded.shape[1:]), device=device, generator=generator
        )
        return sample(
            self._windowed(guided(predict, self.guidance), num_frames),
            self.scheduler,
            noise,
            num_steps=self.num_steps,
            generator=generator,
            on_step=on_step,
        )

    def _check_windows(self, num_frames: int) -> None:
        limit = self.network.max_frames
        if limit is not None and min(num_frames, self.window_frames) > limit:
            raise ValueError(
                f"sampling.window_frames={self.window_frames}: the motion modules take at most {limit} "
                f"frames at once (motion_max_seq_length); set sampling.window_frames={limit} or less"
            )

    def _windowed(
        self, predict: Callable[[Tensor, Tensor, WindowBatch], Tensor], num_frames: int
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """`predict` for clips; each call is a step."""

        def at_step(step: int) -> Callable[[Tensor, Tensor], Tensor]:
            windows = context_windows(
                num_frames,
                self.window_frames,
                min(self.window_overlap, self.window_frames - 1),
                closed_loop=self.closed_loop,
                step=step,
            )
            return windowed(predict, windows, blend=self.blend, batch_size=self.window_batch)

        if not self.shift_windows:
            return at_step(0)
        steps = map(at_step, itertools.count())
        return lambda noisy, time: next(steps)(noisy, time)

    def _draw_noise(
        self, shape: tuple[int, ...], *, device: torch.device, generator: Generators | None
    ) -> Tensor:
        if self.offload_latents:
            device = torch.device("cpu")
        if self.noise_order == "frames_first":
            return draw_noise(shape, device=device, generator=generator)
        samples, frames, channels, *size = shape
        return draw_noise((samples, channels, frames, *size), device=device, generator=generator).transpose(
            1, 2
        )

    @torch.no_grad()
    def _decoded(self, latents: Tensor) -> Iterator[Tensor]:
        device = next(self.network.parameters()).device
        for chunk in latents.split(self.decode_frames, dim=1):
            yield self.codec.decode(chunk.to(device)).clamp(-1, 1)


def _of_samples(keys_values: ReferenceKeyValues, rows: WindowBatch) -> ReferenceKeyValues:
    return ReferenceKeyValues(
        tuple((rows.of_samples(key), rows.of_samples(value)) for key, value in keys_values.pairs)
    )
