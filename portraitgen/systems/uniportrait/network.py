"""UniPortrait's network: a resampler of faces and Stable Diffusion's U-Net with branches for people."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.embeddings import ImageProjection
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from portraitgen.nn.decoupled_attention import Branches, BranchInputs, add_branches
from portraitgen.nn.lora import add_lora, lora_settings, merged_lora, set_lora
from portraitgen.nn.options import reject_unknown
from portraitgen.nn.pretrained import build_model
from portraitgen.systems.uniportrait.resampler import IdResampler
from portraitgen.training.cost import StepSizes

SINGLE, MULTI = "single_id", "multi_id"
_ROUTER = {"hard": True, "temperature": 1.0}
_FACE_TOKENS = (49, 257)
"""Of a face: the recogniser's map of 7x7, and CLIP's patches of 16x16 with its class."""
_IMAGE = {"embedding_dim": 1024, "num_tokens": 4}


class UniPortraitNetwork(nn.Module):
    """What UniPortrait trains, on a U-Net that it does not.

    Args:
        unet: arguments of diffusers' ``UNet2DConditionModel``; None: those of `base`.
        base: where the U-Net's weights are, see `build_model`; None: random ones.
        resampler: arguments of `IdResampler`; its output has the text's width.
        router: None: stage 1, one person; else `hard` and `temperature`, see `DecoupledAttention`.
        image_prompt: None: no branch for one; else `embedding_dim` and `num_tokens` of IP-Adapter's.
        lora: adapters by name, see `add_lora`: `single_id` works for one person, `multi_id` for several.
        copy_text: the people's keys and values start as copies of the text's, as IP-Adapter's do.

    Raises:
        ValueError: an unknown option (named), an adapter of another name, or a base that does not fit.
    """

    def __init__(
        self,
        *,
        unet: Mapping[str, Any] | None,
        resampler: Mapping[str, Any],
        base: Mapping[str, Any] | None = None,
        router: Mapping[str, Any] | None = None,
        image_prompt: Mapping[str, Any] | None = None,
        lora: Mapping[str, Mapping[str, Any]] | None = None,
        copy_text: bool = True,
    ) -> None:
        super().__init__()
        if router is not None:
            reject_unknown("router", router, _ROUTER)
        if image_prompt is not None:
            reject_unknown("image_prompt", image_prompt, _IMAGE)
        reject_unknown("lora", lora or {}, (SINGLE, MULTI))
        self.unet = build_model(UNet2DConditionModel, unet, base)
        width: int = self.unet.config["cross_attention_dim"]
        self.id_resampler = IdResampler(**{"output_dim": width, **resampler})
        if self.id_resampler.norm_out.normalized_shape != (width,):
            raise ValueError(f"resampler.output_dim must be {width}, the U-Net's cross_attention_dim")
        add_branches(
            self.unet,
            num_tokens=self.id_resampler.num_tokens,
            router=None if router is None else {**_ROUTER, **router},
            image_prompt=image_prompt is not None,
            copy_text=copy_text,
        )
        self.image_proj: ImageProjection | None = None
        if image_prompt is not None:
            options = {**_IMAGE, **image_prompt}
            self.image_proj = ImageProjection(options["embedding_dim"], width, options["num_tokens"])
        self.has_router = router is not None
        add_lora(self, lora)
        self.adapt_to(2 if self.has_router else 1)

    @property
    def branch_inputs(self) -> BranchInputs:
        """Scales and regions for pipelines of diffusers, which are given the U-Net alone."""
        inputs = self.unet.encoder_hid_proj
        assert isinstance(inputs, BranchInputs)
        return inputs

    def adapt_to(self, people: int) -> None:
        """Let the adapter work that was trained for so many people; without people none does.

        Raises:
            ValueError: several people, but no router.
        """
        set_lora(self, self._scales(people))

    @contextmanager
    def adapted_to(self, people: int) -> Iterator[None]:
        """`adapt_to` inside the block, merged into the weights; outside, the adapter works that trains."""
        try:
            with merged_lora(self, self._scales(people)):
                yield
        finally:
            self.adapt_to(2 if self.has_router else 1)

    def _scales(self, people: int) -> dict[str, float]:
        if people > 1 and not self.has_router:
            raise ValueError(
                f"{people} people, but these weights know one: they are of stage 1, without network.router"
            )
        wanted = {0: None, 1: SINGLE}.get(people, MULTI)
        return {name: 1.0 for name in lora_settings(self) if name == wanted}

    def embed_image(self, embeds: Tensor) -> Tensor:
        """Tokens [B, L, D] of CLIP's embeddings [B, 1, E] of image prompts."""
        if self.image_proj is None:
            raise ValueError(
                "these weights take no image prompt: they were built without network.image_prompt"
            )
        tokens: Tensor = self.image_proj(embeds[:, 0])
        return tokens

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute activations for the gradient instead of storing them; outputs and gradients are equal."""
        if enabled:
            self.unet.enable_gradient_checkpointing()
        else:
            self.unet.disable_gradient_checkpointing()

    def forward(self, noisy: Tensor, time: Tensor, *, text: Tensor, branches: Branches) -> Tensor:
        """Predict the objective's target [B, C, h, w].

        Args:
            noisy: latents [B, C, h, w].
            time: [B], on the scale of the noise scheduler's steps.
            text: embeddings [B, L, D].
            branches: people and image prompt; `Branches` without people for text alone.
        """
        dtype = self.unet.dtype
        if torch.is_autocast_enabled(noisy.device.type):
            dtype = noisy.dtype
        prediction = self.unet(
            noisy.to(dtype),
            time,
            encoder_hidden_states=text.to(dtype),
            added_cond_kwargs={"image_embeds": branches},
        ).sample
        return prediction.to(noisy.dtype)

    def rehearse(self, sizes: StepSizes) -> Tensor:
        """One pass as training makes it, over zeros of these sizes, to find out what it costs."""
        faces, resampler = sizes.batch * sizes.people, self.id_resampler
        tokens = resampler(
            torch.zeros(faces, _FACE_TOKENS[0], resampler.intrinsic_dim),
            torch.zeros(faces, _FACE_TOKENS[1], resampler.structure_dim),
        )
        channels = self.unet.config["in_channels"]
        return self(
            torch.zeros(sizes.batch, channels, sizes.height, sizes.width),
            torch.zeros(sizes.batch),
            text=torch.zeros(sizes.batch, sizes.words or 77, self.unet.config["cross_attention_dim"]),
            branches=Branches(tokens.unflatten(0, (sizes.batch, sizes.people))),
        )
