"""Training and drawing."""

from collections.abc import Callable

import torch
from torch import Tensor

from people_to_image.network import PeopleToImageNetwork
from portraitgen.diffusion.conditions import ConditionDropout, ConditionMasks
from portraitgen.diffusion.latents import LatentCodec
from portraitgen.diffusion.noise import Generators, draw_noise
from portraitgen.diffusion.objective import Objective
from portraitgen.faces.recognition.recognizer import FaceRecognizer
from portraitgen.faces.templates import ARCFACE
from portraitgen.training.generator import Batch, Denoised, Encoded, Generator
from portraitgen.training.optim import MakeOptimizer


class PeopleToImage(Generator):
    """Condition, by the name that dropout uses: `people` (drop: nobody is seen)."""

    def __init__(
        self,
        network: PeopleToImageNetwork,
        codec: LatentCodec,
        objective: Objective,
        *,
        recognizer: FaceRecognizer,
        sampling: Callable[..., Tensor],
        optimizer: MakeOptimizer,
        condition_dropout: ConditionDropout | None = None,
    ) -> None:
        super().__init__(network, codec, objective, optimizer=optimizer, condition_dropout=condition_dropout)
        self.recognizer, self.sampling = recognizer, sampling

    def encode(self, batch: Batch) -> Encoded:
        return Encoded(self.codec.encode(batch["image"]), self._conditions(batch))

    def _conditions(self, batch: Batch) -> dict[str, Tensor]:
        """Embeddings of the face crops, where there is one of another photo of the person."""
        faces, people = batch["faces"], batch["people"]
        if "other" in batch:
            faces = torch.where(batch["other_found"][..., None, None, None], batch["other"], faces)
        key_points = torch.as_tensor(ARCFACE.keypoints, dtype=torch.float32, device=faces.device)
        crops = faces.flatten(0, 1)
        embeddings, _ = self.recognizer.embed(crops, key_points.expand(len(crops), -1, -1))
        return {"identities": embeddings.unflatten(0, people.shape), "people": people}

    def denoise(
        self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor], masks: ConditionMasks
    ) -> Denoised:
        people = conditions["people"]
        if "people" in masks.keep:
            people = people & masks.keep["people"][:, None]
        return Denoised(self.network(noisy, time, conditions["identities"], people))

    def sample(self, batch: Batch, *, generator: Generators | None = None) -> Tensor:
        height, width = batch["image"].shape[-2:] if "image" in batch else batch["size"]
        conditions, factor = self._conditions(batch), self.codec.factor
        shape = (len(batch["people"]), self.codec.channels, height // factor, width // factor)
        noise = draw_noise(shape, device=self.device, generator=generator)

        def predict(noisy: Tensor, time: Tensor) -> Tensor:
            return self.network(noisy, time, **conditions)

        return self.codec.decode(self.sampling(predict, latents=noise, generator=generator)).clamp(-1, 1)

    def shown(self, batch: Batch) -> dict[str, Tensor]:
        faces = {f"person {n}": face for n, face in enumerate(batch["faces"].unbind(1), start=1)}
        return faces | ({"truth": batch["image"]} if "image" in batch else {})
