"""Draws people as a prompt says: their photos → ID tokens, then guided denoising."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators, draw_noise
from portraitgen.diffusion.sampling import Scheduler, sample
from portraitgen.nn.decoupled_attention import Branches
from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.nn.text.prompts import Prompts
from portraitgen.systems.uniportrait.features import FaceFeatures
from portraitgen.systems.uniportrait.network import UniPortraitNetwork
from portraitgen.systems.uniportrait.photos import PhotoSets

OnStep = Callable[[int, int], None]


class UniPortraitPipeline:
    """Samples pictures of any size that the codec and the U-Net take.

    What does not change from one denoising step to the next is computed once: ID tokens, their keys and
    values in each layer, and the router's keys. The U-Net computes in the precision of its weights; latents,
    guidance and the scheduler's steps are float32.

    Args:
        network, codec, features, prompts: as trained; without prompts the text is one zero.
        scheduler: a diffusers scheduler with the schedule of the training objective.
        num_steps: denoising steps.
        guidance_scale: 1 samples with prompt and people alone; above 1 it is pushed away from the negative
            prompt and nobody.
        people_scale: of the people's branch; 0.5 to 0.7 are advised for one person, 0.3 to 0.7 for several.
        structure_scale, structure_scale_several: of what a photo shows beside who it is, for one person and
            for several; 0 to 0.4 are advised. More copies the photo.
        image_scale: of an image prompt.
        negative_prompt: where a batch gives none.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        network: UniPortraitNetwork,
        codec: LatentCodec,
        *,
        scheduler: Scheduler,
        features: FaceFeatures,
        prompts: Prompts | None = None,
        num_steps: int = 25,
        guidance_scale: float = 7.5,
        people_scale: float = 0.7,
        structure_scale: float = 0.1,
        structure_scale_several: float = 0.3,
        image_scale: float = 0.7,
        negative_prompt: str = "nsfw",
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"sampling.num_steps is {num_steps}: it must be 1 or more")
        self.network = network
        self.codec = codec
        self.features = features
        self.prompts = prompts
        self.scheduler = scheduler
        self.num_steps = num_steps
        self.guidance_scale = guidance_scale
        self.people_scale = people_scale
        self.structure_scale = structure_scale
        self.structure_scale_several = structure_scale_several
        self.image_scale = image_scale
        self.negative_prompt = negative_prompt

    @torch.no_grad()
    def embed_people(
        self,
        faces: Tensor,
        *,
        sets: PhotoSets | None = None,
        structure_scale: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """ID tokens [B, N, T, D] of N people, and those that stand for nobody, of the same shape.

        Args:
            faces: upright crops [B, N, J, 3, S, S] in [-1, 1] of J photos of each.
            sets: which of them are read together, each set as one person, whose ID tokens are then mixed:
                photos of different people make a new one. None: all of a person are one set.
            structure_scale: None: the one for so many people.
        """
        batch, people, count = faces.shape[:3]
        if structure_scale is None:
            structure_scale = self.structure_scale if people == 1 else self.structure_scale_several
        resampler = self.network.id_resampler
        dtype = resampler.latents.dtype
        who, what = (each.to(dtype) for each in self.features(faces.flatten(0, 2)))
        no_one, no_looks = (each.to(dtype) for each in self.features.nobody(who))
        nobody = resampler(no_one, no_looks, structure_scale=structure_scale)
        who, what = (each.unflatten(0, (-1, count)).flatten(1, 2) for each in (who, what))
        keep: list[Tensor | None] = [None, None]
        if sets is not None:
            members = sets.members.to(who.device)
            keep = [
                members.flatten(0, 2).repeat_interleave(each.shape[1] // count, dim=1) for each in (who, what)
            ]
            who, what = (each.repeat_interleave(members.shape[2], dim=0) for each in (who, what))
        tokens = resampler(
            who, what, structure_scale=structure_scale, intrinsic_keep=keep[0], structure_keep=keep[1]
        ).unflatten(0, (batch, people, -1))
        if sets is None:
            tokens = tokens[:, :, 0]
        else:
            tokens = (sets.shares.to(tokens)[..., None, None] * tokens).sum(dim=2)
        return tokens, nobody[None].expand_as(tokens)

    def embed_text(self, prompts: Sequence[str] | None, *, batch: int, like: Tensor) -> TextEncoding:
        """Of prompts; one zero a sample without a text encoder, and the empty prompt where none is given."""
        if self.prompts is None:
            return TextEncoding.zeros(batch, self.network.unet.config["cross_attention_dim"], like=like)
        return self.prompts.encode(prompts or [""] * batch, like=like)

    @torch.no_grad()
    def __call__(
        self,
        text: TextEncoding,
        negative: TextEncoding,
        people: tuple[Tensor, Tensor],
        *,
        size: tuple[int, int],
        present: Tensor | None = None,
        regions: Tensor | None = None,
        image: Tensor | None = None,
        people_scale: float | None = None,
        image_scale: float | None = None,
        generator: Generators | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1]; see `sample_latents`.

        Args:
            size: (height, width) in pixels.
            generator: of the noise.
        """
        factor = self.codec.factor
        shape = (len(text.embeds), self.codec.channels, size[0] // factor, size[1] // factor)
        noise = draw_noise(shape, device=text.embeds.device, generator=generator)
        latents = self.sample_latents(
            text,
            negative,
            people,
            noise,
            present=present,
            regions=regions,
            image=image,
            people_scale=people_scale,
            image_scale=image_scale,
            generator=generator,
            on_step=on_step,
        )
        return self.codec.decode(latents).clamp(-1, 1)

    def sample_latents(
        self,
        text: TextEncoding,
        negative: TextEncoding,
        people: tuple[Tensor, Tensor],
        noise: Tensor,
        *,
        present: Tensor | None = None,
        regions: Tensor | None = None,
        image: Tensor | None = None,
        people_scale: float | None = None,
        image_scale: float | None = None,
        generator: Generators | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Clean latents of `noise` [B, C, h, w].

        Args:
            text, negative: of prompts and negative prompts.
            people: from `embed_people`; N may be 0.
            present: bool [B, N], see `Branches`.
            regions: [B, N, H, W] ≥ 0, where each person shall be; None: where the router sees them.
            image: embeddings [B, 1, E] of image prompts by CLIP.
            people_scale, image_scale: None: the pipeline's.
            generator: of the noise of stochastic schedulers.
        """
        guide = self.guidance_scale != 1
        with_people, nobody = people
        tokens = None
        if image is not None:
            tokens = self.network.embed_image(image)
            if guide:
                tokens = torch.cat([self.network.embed_image(torch.zeros_like(image)), tokens])
        branches = Branches(
            torch.cat([nobody, with_people]) if guide else with_people,
            present=_twice(present, guide),
            image=tokens,
            alike=len(nobody) if guide else 0,
            people_scale=self.people_scale if people_scale is None else people_scale,
            image_scale=self.image_scale if image_scale is None else image_scale,
            regions=_twice(regions, guide),
        )
        read = torch.cat([negative.embeds, text.embeds]) if guide else text.embeds

        def predict(noisy: Tensor, time: Tensor) -> Tensor:
            if not guide:
                return self.network(noisy, time, text=read, branches=branches)
            both = self.network(noisy.repeat(2, 1, 1, 1), time.repeat(2), text=read, branches=branches)
            without, wanted = both.chunk(2)
            return without + self.guidance_scale * (wanted - without)

        with self.network.adapted_to(with_people.shape[1]):
            return sample(
                predict,
                self.scheduler,
                noise,
                num_steps=self.num_steps,
                generator=generator,
                on_step=on_step,
            )


def _twice(tensor: Tensor | None, really: bool) -> Tensor | None:
    return torch.cat([tensor, tensor]) if really and tensor is not None else tensor
