"""What a feature is: what it computes from a sample, and which weights and settings its values depend on."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from portraitgen.data.sample import ClipSample

if TYPE_CHECKING:
    from torch import nn

Unit = Literal["frame", "window", "face", "person", "sample", "tokens", "text"]
"""Of what there is one value: each frame (first axis T), each of some windows (`WindowValues`), each of some
faces (`FaceValues`), each person (first axis N), the whole sample, each of its n tokens (first axis n ≤
`identity()["max_tokens"]`, to which they are padded when read); or a text."""


class WindowValues(NamedTuple):
    """Values of W windows of a sample, which depend on all frames of their window.

    Attributes:
        windows: int64 [W, 3], first frame, distance between frames, and number of frames.
        values: [W, ...].
    """

    windows: np.ndarray
    values: np.ndarray


class FaceValues(NamedTuple):
    """Values of F faces of a sample, each of one person in one frame.

    Attributes:
        faces: int64 [F, 2], the person by the number of its track, from 0 on, and the frame.
        values: [F] of a structured dtype, whose fields are the keys of a batch: what is known of a face is
            read together.
    """

    faces: np.ndarray
    values: np.ndarray


Value = np.ndarray | WindowValues | FaceValues | str


class Feature(Protocol):
    """Computes one value of each sample. Settings only, so that it travels; models are loaded at first use.

    Attributes:
        name: of the folder, such as "vae".
        batch_key: of a batch, such as "latents"; a value of each frame also comes as "reference_" + it, and
            those of a face under the names of their fields, which begin with it.
        unit: see `Unit`.
    """

    @property
    def name(self) -> str: ...
    @property
    def batch_key(self) -> str: ...
    @property
    def unit(self) -> Unit: ...

    def depends_on(self) -> Mapping[str, Any]:
        """All that the values depend on, as JSON takes it: settings, and a digest of the weights.

        Raises:
            ValueError: the weights are not there, or are not of the right kind.
        """
        ...

    def __call__(self, sample: ClipSample) -> Value:
        """The value: an array of one dtype for all samples, or a text.

        Raises:
            DataError: the sample has none.
        """
        ...


@runtime_checkable
class CaptionFeature(Feature, Protocol):
    """A feature that is made of a sample's caption.

    Attributes:
        captions: None for the caption in the shard, or the full name of a feature of texts that takes its
            place, such as "caption@1a2b3c4d".
    """

    @property
    def captions(self) -> str | None: ...

    def empty(self) -> np.ndarray:
        """The value of an empty caption, stored once beside the others: conditions are dropped for it."""
        ...


def weights_digest(model: "nn.Module") -> str:
    """SHA-256 of the names, types and values of all weights, wherever they were loaded from."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
