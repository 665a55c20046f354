"""Are precomputed features those of the model that trains? Looked at once, before a run learns nonsense."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from portraitgen.data.catalog import Catalog
from portraitgen.data.features.feature import weights_digest
from portraitgen.data.features.reader import FeatureReader
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import DataError
from portraitgen.diffusion.image_condition import ReferenceNoise
from portraitgen.faces.recognition.recognizer import FaceRecognizer
from portraitgen.losses.identity.face_loss import DifferentiableFaceLoss
from portraitgen.losses.loss import Loss
from portraitgen.media.yuv import yuv420_to_rgb
from portraitgen.runs.prepare.features.face_latents import noised_versions, packed_latents, source_name

if TYPE_CHECKING:
    from portraitgen.diffusion.latents import LatentCodec

Encode = Callable[[Tensor], Tensor]
"""Frames [n, 3, H, W] → what is stored of them."""

_LARGEST_ERROR = 0.05
# The same network in half precision is about 0.01 off, another one 0.3 and more.


def check_features(
    catalog: Catalog,
    features: Sequence[str],
    model: nn.Module,
    *,
    losses: Iterable[Loss] = (),
) -> None:
    """Encode one frame (or one window) of the shards anew and compare it with what is stored of it.

    Args:
        catalog: the shards.
        features: as the data module takes them; those that the model has no encoder for are not looked at.
        model: its `codec` makes latents, its `image_encoder` image embeddings; its `reference_noise` is what
            lies on pictures of faces.
        losses: those of the run, of which one may compare faces with stored identities.

    Raises:
        ValueError: they are not what this model makes.
    """
    encoders = _encoders(model)
    for reader in (FeatureReader(catalog, name) for name in features):
        for loss in losses:
            if isinstance(loss, DifferentiableFaceLoss) and loss.face_target == "identity":
                _same_recognizer(reader, loss.recognizer)
        if "face_latent_distribution" in (reader.kind.dtype.names or ()):
            _compare_faces(catalog, reader, model)
        if reader.kind.batch_key in encoders:
            part, encode = encoders[reader.kind.batch_key]
            _compare(catalog, reader, part, encode)


def _same_recognizer(feature: FeatureReader, recognizer: FaceRecognizer) -> None:
    """Refuse stored identities of another network than the one that they are compared by."""
    if feature.kind.batch_key != "identity":
        return
    made = feature.depends_on
    if (made.get("network"), made.get("weights")) != (recognizer.name, weights_digest(recognizer)):
        raise DataError(
            f"data.examples.features: {feature.name} are embeddings of {made.get('network')}, and the"
            f" identity loss looks with {recognizer.name}, or with other weights of it: compute them with"
            " its network and file (python prepare.py features features=[identity] …), or set"
            " losses.identity.face_target=picture"
        )


def _compare_faces(catalog: Catalog, feature: FeatureReader, model: nn.Module) -> None:
    """Noise the first stored face's picture again as it was noised, and encode it by this model's codec."""
    codec: LatentCodec | None = getattr(model, "codec", None)
    noise: ReferenceNoise | None = getattr(model, "reference_noise", None)
    if codec is None or noise is None:
        return  # it reads none of these latents
    made = feature.depends_on["latents"]
    if (made["mean"], made["std"]) != (noise.mean, noise.std):
        raise DataError(
            f"data.examples.features: {feature.name} holds pictures of faces with noise of mean"
            f" {made['mean']} and std {made['std']}, and model.reference_noise has {noise.mean} and"
            f" {noise.std}: set them alike, or compute the feature anew with other features.face.latents"
        )
    shard, row = _first_sample(catalog, feature)
    person, frame = feature.faces(shard, row)[0].tolist()
    value = feature.values(shard, row, 0)
    stored = torch.from_numpy(value["face_latent_distribution"][:, 0].astype(np.float32))
    index = catalog.indexes[shard]
    height, width = index.size[row].tolist()
    pictures = noised_versions(
        torch.from_numpy(value["face_picture"].copy()),
        (height, width),
        noise,
        len(stored),
        source=f"{source_name(index.key(row), person, frame)} 0",
    )
    _require_alike(
        stored,
        lambda: packed_latents(codec, pictures),
        name=feature.name,
        part="codec",
        key=index.key(row),
    )


def _first_sample(catalog: Catalog, feature: FeatureReader) -> tuple[int, int]:
    """Shard, and place in it, of the first sample that there is a value of."""
    number = int(np.flatnonzero(feature.has_values())[0])
    starts = np.cumsum([0, *(len(index) for index in catalog.indexes)])
    shard = int(np.searchsorted(starts, number, side="right")) - 1
    return shard, number - int(starts[shard])


def _encoders(model: nn.Module) -> Mapping[str, tuple[str, Encode]]:
    """For keys of a batch, the part of the model that makes them and how."""
    codec: LatentCodec | None = getattr(model, "codec", None)
    image_encoder: Encode | None = getattr(model, "image_encoder", None)
    found: dict[str, tuple[str, Encode]] = {}
    if codec is not None:
        found["latents"] = ("codec", codec.encode)
        found["latent_distribution"] = ("codec", lambda frames: codec.posterior(frames).packed())
    if image_encoder is not None:
        found["image_embeds"] = ("image encoder", lambda frames: image_encoder(frames)[:, 0])
    return found


def _compare(catalog: Catalog, feature: FeatureReader, part: str, encode: Encode) -> None:
    shard, row = _first_sample(catalog, feature)
    height, width = catalog.indexes[shard].size[row].tolist()
    of_window = feature.kind.unit == "window"
    frames = feature.window(shard, row, 0) if of_window else np.array([0])
    planes = np.empty((len(frames), height * 3 // 2, width), np.uint8)
    ClipReader(catalog).frames(shard, row, frames, out=planes)

    def made() -> Tensor:
        found = encode(yuv420_to_rgb(torch.from_numpy(planes)))
        return found if of_window else found[0]

    # The map of the file cannot be written to.
    stored = torch.from_numpy(feature.values(shard, row, 0).astype(np.float32))
    _require_alike(stored, made, name=feature.name, part=part, key=catalog.indexes[shard].key(row))


def _require_alike(stored: Tensor, make: Callable[[], Tensor], *, name: str, part: str, key: str) -> None:
    """DataError unless what `part` of the model makes of the sample `key` is what was stored."""
    try:
        expected = make().float().cpu()
    except ValueError as wrong:
        raise DataError(f"data.examples.features: {name} are not of this model's {part}: {wrong}") from wrong
    same = stored.shape == expected.shape
    error = float((stored - expected).norm() / expected.norm()) if same else float("inf")
    if not error <= _LARGEST_ERROR:
        found = f"differ by {error:.0%}" if same else f"are {list(stored.shape)} and {list(expected.shape)}"
        raise DataError(
            f"data.examples.features: {name} are not what this model's {part} makes (of {key} they {found}):"
            " compute them with the same weights, python prepare.py features …"
        )
