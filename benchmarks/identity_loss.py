"""What the identity loss costs: samples chosen before the decoder, one call of the recogniser, nothing kept.

    python -m benchmarks.identity_loss [--rounds 5] [--batch 8] [--side 128]

Forward and backward of `DifferentiableFaceLoss` alone, with the decoder of a small image VAE and dlib's
network, on a batch of which every second sample is of a person and noise levels are as the training of Flux
draws them, t = sigmoid(N(0, 1)), evenly spread:

    rows       all samples decoded and judged against those that count: people with t < 0.5
    calls      all faces through the recogniser together against one after the other
    memory     the decoder run again for the gradient, a sample at a time, against kept for the whole batch
    rollout    a training step of a small U-Net with the loss on its clean estimate against one on what four
               steps draw, the last with gradient

Times are CPU seconds, medians of rounds that take turns; memory is what the process's peak grows by, in a
process of its own each. The goals: a third of the decoder's work or less, calls no slower together, half the
memory or less. Exits with 1 if one is missed.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel
from torch import Tensor

from portraitgen.diffusion.latents import VAECodec
from portraitgen.diffusion.sampling import sample
from portraitgen.faces.recognition.recognizer import load_recognition
from portraitgen.faces.templates import ARCFACE
from portraitgen.losses.gate import NoiseGate
from portraitgen.losses.identity.face_loss import DifferentiableFaceLoss

LIMIT = 0.5
CODEC_CHANNELS = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=128)
    given = parser.parse_args()
    torch.set_num_threads(1)
    setting = partial(Setting, batch=given.batch, side=given.side)
    # First, while this process has no large blocks of its own that a child could use.
    memory = {
        name: peak(partial(one_step, setting, kind))
        for name, kind in (
            ("kept", {"checkpoint_decoder": False, "decode_samples": given.batch}),
            ("run again", {}),
            ("clean estimate", {"network": True}),
            ("rollout", {"network": True, "rollout": True}),
        )
    }
    found = setting()
    chosen, every = found.loss(gate=NoiseGate("below", limit=LIMIT)), found.loss()
    calls = {"chosen": partial(found.step, chosen), "all": partial(found.step, every, everyone=True)}
    seconds = take_turns(calls, given.rounds)
    decoded = [found.step(loss, everyone=everyone) for loss, everyone in ((chosen, False), (every, True))]
    crops = torch.rand(given.batch, 3, found.recognizer.template.side, found.recognizer.template.side)
    faces = take_turns(
        {
            "together": lambda: gradient(found.recognizer(crops.clone().requires_grad_())),
            "one by one": lambda: [
                gradient(found.recognizer(one[None].clone().requires_grad_())) for one in crops
            ],
        },
        given.rounds,
    )
    work = decoded[1] / decoded[0]
    saved = memory["kept"] / memory["run again"]
    print(f"rows     {decoded[0]} of {decoded[1]} samples decoded: {work:.1f} times less decoder work,")
    faster = seconds["all"] / seconds["chosen"]
    print(f"         {faster:.1f} times less time for the loss ({seconds['chosen']:.2f} s)")
    ratio = faces["one by one"] / faces["together"]
    print(f"calls    together {ratio:.2f} times as fast as one by one (on a CPU; a GPU gains more)")
    print(f"memory   {saved:.1f} times less with the decoder run again ({memory['run again']:.0f} MB)")
    more = memory["rollout"] / memory["clean estimate"]
    print(
        f"rollout  {more:.1f} times the memory of the loss on the clean estimate, a whole training step each"
    )
    return 0 if work >= 3 and ratio >= 0.95 and saved >= 2 else 1


class Setting:
    """A batch with a face in every sample, a decoder, and a recogniser."""

    def __init__(self, *, batch: int, side: int) -> None:
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=(32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            latent_channels=CODEC_CHANNELS,
            norm_num_groups=8,
        )
        self.codec = VAECodec(vae)
        self.recognizer = load_recognition("dlib")
        pictures = torch.rand(batch, 3, side, side) * 2 - 1
        self.clean = self.codec.encode(pictures)
        points = torch.as_tensor(ARCFACE.keypoints).float() * (side / ARCFACE.side)
        self.batch = {
            "key": [str(number) for number in range(batch)],
            "image": pictures,
            "key_points": points.expand(batch, 1, 5, 2),
            "data_type": ["person" if number % 2 else "object" for number in range(batch)],
        }
        # Every second is a person, whichever its noise level.
        share = (torch.arange(batch) // 2 * 2 + 1) / (batch // 2 * 2)
        self.level = torch.erfinv(2 * share.clamp(max=1 - 1e-6) - 1).mul(2**0.5).sigmoid()
        self.decoded = 0

    def loss(self, **settings: Any) -> DifferentiableFaceLoss:
        return DifferentiableFaceLoss(recognizer=self.recognizer, **settings)

    def seen(self, estimate: Tensor, **more: Any) -> Any:
        def decode(latents: Tensor) -> Tensor:
            self.decoded += len(latents)
            return self.codec.decode(latents)

        fields = {
            "batch": self.batch,
            "prediction": estimate,
            "clean_estimate": estimate,
            "noised": SimpleNamespace(clean=self.clean, noise=torch.randn_like(self.clean)),
            "noise_level": self.level,
            "decode": decode,
            "keep": {},
            "nonzero": {},
        }
        return SimpleNamespace(**(fields | more))

    def step(self, loss: DifferentiableFaceLoss, *, everyone: bool = False) -> int:
        """One value and its gradient; how many samples were decoded, not counting those for the gradient."""
        estimate = self.clean.clone().requires_grad_()
        seen = self.seen(estimate)
        if everyone:
            seen.batch = {key: value for key, value in self.batch.items() if key != "data_type"}
        self.decoded = 0
        total = loss(seen).loss.total
        decoded = self.decoded
        total.backward()
        return decoded

    def train(self, loss: DifferentiableFaceLoss) -> None:
        """A whole step of a small U-Net that predicts the clean sample."""
        torch.manual_seed(1)
        channels = (64, 64)
        unet = UNet2DModel(
            in_channels=CODEC_CHANNELS,
            out_channels=CODEC_CHANNELS,
            block_out_channels=channels,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            norm_num_groups=8,
        )

        def predict(noisy: Tensor, time: Tensor) -> Tensor:
            return unet(noisy, time).sample

        estimate = predict(self.clean + torch.randn_like(self.clean), torch.full((len(self.clean),), 500))
        value = loss(self.seen(estimate, predict=predict)).loss
        ((estimate - self.clean).square().mean() + value.total / value.count).backward()


def one_step(setting: Callable[[], Setting], kind: dict[str, Any]) -> None:
    kind = dict(kind)
    network, rollout = kind.pop("network", False), kind.pop("rollout", False)
    made = setting()
    if rollout:
        steps = DDIMScheduler(prediction_type="sample", timestep_spacing="trailing")
        kind["rollout"] = partial(sample, scheduler=steps, num_steps=4, gradients=1)
    loss = made.loss(**kind)
    made.batch.pop("data_type")
    reset = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made.train(loss) if network else made.step(loss)
    one_step.grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - reset  # type: ignore[attr-defined]


def peak(action: Callable[[], None]) -> float:
    """Megabytes by which the peak of a process of its own grows in `action`."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def run() -> None:
        action()
        queue.put(one_step.grown / 1024)  # type: ignore[attr-defined]

    process = context.Process(target=run)
    process.start()
    process.join()
    return float(queue.get())


def take_turns(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each."""
    found: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            begin = time.process_time()
            action()
            if number:  # the first warms up
                found[name].append(time.process_time() - begin)
    return {name: statistics.median(values) for name, values in found.items()}


def gradient(embedding: Tensor) -> None:
    embedding.sum().backward()


if __name__ == "__main__":
    sys.exit(main())
