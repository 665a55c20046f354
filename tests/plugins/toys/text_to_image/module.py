"""Training and drawing."""

from collections.abc import Callable

from torch import Tensor

from portraitgen.diffusion.conditions import ConditionDropout, ConditionMasks
from portraitgen.diffusion.guidance import Guidance, guided
from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators, draw_noise
from portraitgen.diffusion.objective import Objective
from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.nn.text.prompts import Prompts
from portraitgen.training.generator import Batch, Denoised, Encoded, Generator
from portraitgen.training.optim import MakeOptimizer
from text_to_image.network import TextToImageNetwork


class TextToImage(Generator):
    """Condition, by the name that dropout uses: `text` (drop: the empty prompt takes its place).

    Args:
        prompts: embeds captions and prompts.
        sampling: `diffusion.sampling.sample` with its settings bound.
        guidance: of the condition sets `negative` and `prompt`.
    """

    def __init__(
        self,
        network: TextToImageNetwork,
        codec: LatentCodec,
        objective: Objective,
        *,
        prompts: Prompts,
        sampling: Callable[..., Tensor],
        guidance: Guidance,
        optimizer: MakeOptimizer,
        condition_dropout: ConditionDropout | None = None,
    ) -> None:
        super().__init__(network, codec, objective, optimizer=optimizer, condition_dropout=condition_dropout)
        self.prompts, self.sampling, self.guidance = prompts, sampling, guidance

    def encode(self, batch: Batch) -> Encoded:
        clean = self.codec.encode(batch["image"], sample=True)
        return Encoded(clean, self.prompts.of_batch(batch, like=clean).conditions())

    def denoise(
        self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], masks: ConditionMasks
    ) -> Denoised:
        text = self.prompts.with_empty(TextEncoding.from_conditions(conditions), masks.keep.get("text"))
        return Denoised(self.network(noisy, time, text.embeds))

    def sample(self, batch: Batch, *, generator: Generators | None = None) -> Tensor:
        height, width = batch["image"].shape[-2:] if "image" in batch else batch["size"]
        count, factor = len(batch["caption"]), self.codec.factor
        shape = (count, self.codec.channels, height // factor, width // factor)
        noise = draw_noise(shape, device=self.device, generator=generator)
        negative = batch.get("negative_prompt", [""] * count)
        texts = {
            "prompt": self.prompts.of_batch(batch, like=noise).embeds,
            "negative": self.prompts.encode(negative, like=noise).embeds,
        }

        def predict(condition_set: str, noisy: Tensor, time: Tensor) -> Tensor:
            return self.network(noisy, time, texts[condition_set])

        latents = self.sampling(guided(predict, self.guidance), latents=noise, generator=generator)
        return self.codec.decode(latents).clamp(-1, 1)

    def shown(self, batch: Batch) -> dict[str, Tensor]:
        return {"truth": batch["image"]} if "image" in batch else {}
