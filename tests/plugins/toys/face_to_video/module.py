"""Training and drawing."""

from collections.abc import Callable

from torch import Tensor

from face_to_video.network import FaceToVideoNetwork
from portraitgen.diffusion.conditions import ConditionDropout, ConditionMasks
from portraitgen.diffusion.noise import Generators, draw_noise
from portraitgen.diffusion.objective import Objective
from portraitgen.diffusion.video_latents import CogVideoXCodec
from portraitgen.nn.text.prompts import Prompts
from portraitgen.training.generator import Batch, Denoised, Encoded, Generator
from portraitgen.training.optim import MakeOptimizer
from portraitgen.training.stored_latents import latents_of


class FaceToVideo(Generator):
    """Conditions, by the names that dropout uses: `text` and `face` (zero)."""

    def __init__(
        self,
        network: FaceToVideoNetwork,
        codec: CogVideoXCodec,
        objective: Objective,
        *,
        prompts: Prompts,
        sampling: Callable[..., Tensor],
        optimizer: MakeOptimizer,
        condition_dropout: ConditionDropout | None = None,
    ) -> None:
        super().__init__(network, codec, objective, optimizer=optimizer, condition_dropout=condition_dropout)
        self.prompts, self.sampling = prompts, sampling

    def encode(self, batch: Batch) -> Encoded:
        return Encoded(latents_of(self.codec, batch, "frames", sample=True), self._conditions(batch))

    def _conditions(self, batch: Batch) -> dict[str, Tensor]:
        face = self.codec.encode_image(batch["reference"])[:, 0]
        return {"face": face, "text": self.prompts.of_batch(batch, like=face).embeds}

    def denoise(
        self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], masks: ConditionMasks
    ) -> Denoised:
        return Denoised(self.network(noisy, time, **conditions))

    def sample(self, batch: Batch, *, generator: Generators | None = None) -> Tensor:
        conditions = self._conditions(batch)
        face = conditions["face"]
        length = batch["length"] if "length" in batch else batch["frame_index"].shape[1]
        shape = (len(face), self.codec.num_latents(length), *face.shape[1:])
        noise = draw_noise(shape, device=self.device, generator=generator)

        def predict(noisy: Tensor, time: Tensor) -> Tensor:
            return self.network(noisy, time, **conditions)

        return self.codec.decode(self.sampling(predict, latents=noise, generator=generator)).clamp(-1, 1)

    def shown(self, batch: Batch) -> dict[str, Tensor]:
        pictures = {"face": "reference", "truth": "frames"}
        return {label: batch[key] for label, key in pictures.items() if key in batch}
