"""Training of adapters on Flux: who somebody is, told by a reference photo.

The recipe is that of Insert-Anything (arXiv:2504.15009) and of OminiControl's trainer under it: flow matching
with t = sigmoid(N(0, 1)), adapters of rank 256, Prodigy. The identity loss that goes with it is
`losses=identity`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from portraitgen.diffusion.conditions import ConditionDropout, ConditionMasks
from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators
from portraitgen.diffusion.objective import Objective
from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.nn.text.prompts import Prompts
from portraitgen.systems.flux_identity.conditioning import Conditioning
from portraitgen.systems.flux_identity.network import FluxIdentityNetwork
from portraitgen.systems.flux_identity.pipeline import FluxIdentityPipeline
from portraitgen.training.generator import Batch, Denoised, Encoded, Generator
from portraitgen.training.optim import MakeOptimizer


class FluxIdentity(Generator):
    """Learns to draw the person of a reference, in a photo's hole or as a caption says.

    Conditions, by the names that condition dropout uses: `text` (drop: the empty prompt) and `ref` (zero: the
    reference's latents, or its tokens by Redux).

    Args:
        network: its channels are the codec's; it takes channels beside them where `conditioning` has some.
        codec, objective, optimizer, lr_scheduler, condition_dropout: see `Generator`.
        conditioning: how the reference is told.
        sampling: `FluxIdentityPipeline` with its settings bound.
        prompts: None: nothing is read, the text is `text_tokens` zeros.
        text_tokens: as many as the base was trained with.
        guidance: for a distilled base: the strength of guidance under which it trains; 1 is none.
        gradient_checkpointing: trade time for memory; the gradients are equal.

    Raises:
        ValueError: the parts do not fit together.
    """

    network: FluxIdentityNetwork

    def __init__(
        self,
        network: FluxIdentityNetwork,
        codec: LatentCodec,
        objective: Objective,
        *,
        conditioning: Conditioning,
        sampling: Callable[..., FluxIdentityPipeline],
        optimizer: MakeOptimizer,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        condition_dropout: ConditionDropout | None = None,
        prompts: Prompts | None = None,
        text_tokens: int = 512,
        guidance: float = 1.0,
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
        beside = codec.channels + codec.factor**2 if conditioning.channels_beside else 0
        if (network.channels, network.channels_beside) != (codec.channels, beside):
            way, own = type(conditioning).__name__, network.channels + network.channels_beside
            latents = network.side**2
            raise ValueError(
                f"model.network.transformer: {way} with this codec needs "
                f"in_channels={latents * (codec.channels + beside)} and "
                f"out_channels={latents * codec.channels}; it has {latents * own} and "
                f"{latents * network.channels}"
            )
        if prompts is not None and not conditioning.reads_text:
            raise ValueError("model.prompts: fill_diptych reads no prompt, as its base; set it to null")
        network.set_gradient_checkpointing(gradient_checkpointing)
        self.conditioning = conditioning
        self.prompts = prompts
        self.text_tokens = text_tokens
        self.guidance = guidance
        self.pipeline = self.make_pipeline(sampling, network, codec, conditioning)
        if self.pipeline.cfg_scale != 1 and prompts is None:
            raise ValueError("sampling.cfg_scale: there is no negative prompt without model.prompts")

    def cast(self, dtype: torch.dtype) -> None:
        """As `Generator.cast`, and what reads references."""
        super().cast(dtype)
        self.conditioning.to(dtype)

    def encode(self, batch: Batch) -> Encoded:
        """As `Generator.encode`, of pairs of photos (`PairExamples`).

        Raises:
            ValueError: the batch is of other examples.
        """
        if "result" not in batch:
            raise ValueError("no pairs of photos in the batch: train on data=pairs")
        clean = self.codec.encode(self.conditioning.picture(batch), sample=True)
        conditions = {
            **self.conditioning.encode(batch, self.codec),
            **self._text(batch, clean).conditions(),
        }
        return Encoded(clean, conditions, self.conditioning.loss_mask(clean))

    def denoise(
        self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], masks: ConditionMasks
    ) -> Denoised:
        text = TextEncoding.from_conditions(conditions)
        if self.prompts is not None:
            text = self.prompts.with_empty(text, masks.keep.get("text"))
        inputs = self.conditioning.inputs(conditions)
        return Denoised(self.pipeline.predict(noisy, time, text, inputs, guidance=self.guidance))

    def sample(self, batch: Batch, *, generator: Generators | None = None) -> Tensor:
        """Pictures [B, 3, H, W] of the person in `ref`.

        Without `result`, `size` ([height, width]) says how large, or `src` with its `mask` (fill_diptych).
        """
        shown = batch.get("result", batch.get("src"))
        size = batch["size"] if shown is None else shown.shape[-2:]
        like = torch.empty(len(batch["key"]), device=self.device)
        negative = None
        if self.prompts is not None and self.pipeline.cfg_scale != 1:
            negative = self.prompts.encode([""] * len(like), like=like)
        return self.pipeline(
            batch,
            self._text(batch, like),
            size=(int(size[0]), int(size[1])),
            negative=negative,
            generator=generator,
        )

    def shown(self, batch: Batch) -> dict[str, Tensor]:
        """The reference, the photo with its hole, and the truth, as far as they are known."""
        names = {"ref": "reference", "src": "given", "result": "truth"}
        used = ("result", *self.conditioning.needs)
        return {label: batch[name] for name, label in names.items() if name in batch and name in used}

    def _text(self, batch: Batch, like: Tensor) -> TextEncoding:
        if self.prompts is not None:
            return self.prompts.of_batch(batch, like=like)
        network, count = self.network, len(batch["key"])
        return TextEncoding.zeros(
            count, network.text_dim, like=like, tokens=self.text_tokens, pooled=network.pooled_dim
        )
