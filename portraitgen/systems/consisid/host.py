"""What module and sampling need of a video transformer that is told who somebody is, whichever it is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from diffusers.hooks import HookRegistry, apply_group_offloading
from diffusers.hooks.group_offloading import (
    _GROUP_OFFLOADING,
    _LAYER_EXECUTION_TRACKER,
    _LAZY_PREFETCH_GROUP_OFFLOADING,
)
from torch import Tensor, nn

from portraitgen.nn.lora import lora_settings, merged_lora, set_lora
from portraitgen.systems.consisid.identity import FaceTokens
from portraitgen.systems.consisid.step_cache import BlockMemory
from portraitgen.training.cost import StepSizes

_PATCHES = 577
"""Of a face as EVA-CLIP sees it: 24x24, and its class."""


class Host(nn.Module, ABC):
    """A video transformer of diffusers as `transformer`, and ConsisID's modules for a face."""

    transformer: Any
    words: ClassVar[int]
    """Tokens of a prompt that the base was trained with."""

    @property
    def config(self) -> Any:
        """Of the transformer."""
        return self.transformer.config

    @property
    @abstractmethod
    def extractor(self) -> FaceTokens | None:
        """Makes face tokens; None where the network is not told who somebody is."""

    @property
    @abstractmethod
    def extractor_settings(self) -> Mapping[str, int]:
        """Settings of the network by which features of faces must fit: embedding, layers' width, layers."""

    @property
    @abstractmethod
    def shows_picture(self) -> bool:
        """Whether it is shown a picture of the face beside the noise."""

    @property
    def shows_key_points(self) -> bool:
        """Whether it is shown the face's key points too, drawn as a second picture."""
        return False

    @property
    @abstractmethod
    def text_dim(self) -> int:
        """Width of text embeddings."""

    @property
    @abstractmethod
    def native_size(self) -> tuple[int, int] | None:
        """Rows and columns of the latents that it was made for; None where it has no favourite."""

    @abstractmethod
    def time_embeddings(self, times: Tensor) -> Tensor:
        """What the blocks are told of times [N] on the objective's scale: [N, D], where the weights are."""

    @abstractmethod
    def block_memory(self) -> BlockMemory:
        """To skip the blocks, attention to the face included, at some steps of one video."""

    @abstractmethod
    def check_size(self, frames: int, height: int, width: int) -> None:
        """ValueError unless latents of that size can be drawn."""

    @abstractmethod
    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        *,
        text: Tensor,
        picture: Tensor | None = None,
        faces: Tensor | None = None,
        face_scale: float = 1.0,
    ) -> Tensor:
        """Predict the objective's target [B, t, C, h, w].

        Args:
            noisy: latents [B, t, C, h, w].
            time: [B], on the objective's scale.
            text: embeddings [B, L, D].
            picture: latents [B, n, C, h, w] of the face and of what else it is shown; None: zeros.
            faces: from `face_tokens`; needed where there is an `extractor`.
            face_scale: of the attention to them.
        """

    @property
    def latent_channels(self) -> int:
        """C of the latents."""
        return int(self.config.out_channels)

    def face_tokens(self, embedding: Tensor, hidden: Tensor) -> Tensor:
        """Tokens [B, n, D] of faces, from the embedding [B, E] and CLIP's inner layers [B, L, N, C]."""
        extractor, dtype = self.extractor, self.precision(embedding)
        assert extractor is not None, "this network takes no face tokens"
        tokens: Tensor = extractor(embedding.to(dtype), [each.to(dtype) for each in hidden.unbind(1)])
        return tokens

    def rehearse(self, sizes: StepSizes) -> Tensor:
        """One pass as training makes it, over zeros of these sizes, to find out what it costs."""
        faces, picture = None, None
        if self.extractor is not None:
            embedding, width, layers = self.extractor_settings.values()
            hidden = torch.zeros(sizes.batch, layers, _PATCHES, width)
            faces = self.face_tokens(torch.zeros(sizes.batch, embedding), hidden)
        shape = (self.latent_channels, sizes.height, sizes.width)
        if self.shows_picture:
            picture = torch.zeros(sizes.batch, 1, *shape)
        text = torch.zeros(sizes.batch, sizes.words or self.words, self.text_dim)
        noisy = torch.zeros(sizes.batch, sizes.frames, *shape)
        return self(noisy, torch.zeros(sizes.batch), text=text, picture=picture, faces=faces)

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute activations, those of the face modules too, instead of storing them."""
        if enabled:
            self.transformer.enable_gradient_checkpointing()
        else:
            self.transformer.disable_gradient_checkpointing()

    @contextmanager
    def adapted(self) -> Iterator[None]:
        """Inside the block adapters are part of the weights, for sampling; outside they train."""
        scales = dict.fromkeys(lora_settings(self), 1.0)
        try:
            with merged_lora(self, scales):
                yield
        finally:
            set_lora(self, scales)

    @contextmanager
    def blocks_offloaded(self, device: torch.device) -> Iterator[None]:
        """Inside, the transformer computes on the device and lies on the CPU: its blocks, and what attends to
        the face, come one at a time (diffusers' group offloading); on CUDA the next one while one computes.
        """
        apply_group_offloading(
            self.transformer,
            onload_device=device,
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=device.type == "cuda",
        )
        try:
            yield
        finally:
            registry = HookRegistry.check_if_exists_or_initialize(self.transformer)
            for hook in (_GROUP_OFFLOADING, _LAYER_EXECUTION_TRACKER, _LAZY_PREFETCH_GROUP_OFFLOADING):
                registry.remove_hook(hook, recurse=True)

    def precision(self, like: Tensor) -> torch.dtype:
        """Of what goes in: autocast chooses where it is on; else that of the weights counts."""
        kind = like.device.type
        if kind != "meta" and torch.is_autocast_enabled(kind):
            return like.dtype
        return cast(torch.dtype, self.transformer.dtype)
