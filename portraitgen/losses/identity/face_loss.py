"""The identity loss of training: the face that is drawn shall be that of the person who should be there."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.recognition.recognizer import FaceRecognizer, load_recognition, recognition_file
from portraitgen.losses.by_products import attached_zero
from portraitgen.losses.identity.batch_faces import BatchFaces, faces_of_batch, of_types
from portraitgen.losses.identity.decoding import choose_span, decode_rows, region_of
from portraitgen.losses.identity.distance import SCALES, FaceDistance, FaceLossType
from portraitgen.losses.identity.face_crops import AlignMode, FaceCrops
from portraitgen.losses.identity.true_faces import (
    AlignSource,
    FaceTarget,
    TrueFaces,
    stored_embeddings,
)
from portraitgen.losses.loss import ForwardPass, Loss, LossValue
from portraitgen.losses.mean import Mean

log = logging.getLogger(__name__)

_BUCKETS = 4


class DifferentiableFaceLoss(Loss):
    """1 − cos of the embeddings of the face in the clean estimate, decoded, and of the true one.

    After the loss of the same name in guangzhaoli/face (seed 003), whose settings keep their names. A face
    counts where the batch knows one, of an allowed data type; each counts times the gate's weight at its
    noise level, and the mean is over the faces that count. Samples without weight never reach the decoder,
    and what does is decoded a few samples at a time and again for the gradient. The true face tells where the
    drawn one is, so no step runs a detector unless that is asked for.

    Args:
        recognizer: `arcface` (arcface_torch's format, r18 to r200), `curricularface`, `mobileface`, `dlib`,
            or one that is loaded already.
        arcface_weights: its file, whichever recogniser it is; null finds dlib's in its package.
        arcface_model: depth that the file must have, `r18` … `r200`; null: whatever it has.
        face_loss_weight: factor of the loss.
        face_align_mode: see `FaceCrops`.
        face_loss_type, multiscale_weights: see `FaceDistance`.
        align_source: where the drawn face is: `target_kps`: where the batch says that the true one is;
            `detect_target`: where a detector finds the true one, for batches that do not say; `detect`: where
            a detector finds it in what was drawn, the largest, which is taken for the first person's; that
            mostly fails at high noise, and is for `rollout`.
        face_target: what is compared with: `picture`, the true one; `latents`, what the codec makes of the
            true latents, for batches without pictures (twice the decoder's work); `reference`, the batch's
            `ref` or `reference` with `…_key_points` or `…_boxes`, which shows the first person; `identity`,
            embeddings of that name that were stored beforehand by the same recogniser.
        detector: for `detect` and `detect_target`.
        data_types: samples of other types do not count, where the batch has `data_type`.
        target_region: [left, top, right, bottom] as shares of what is drawn: where in it the picture of the
            batch is; null: it is all of it. The right half of a diptych is [0.5, 0, 1, 1].
        needs_conditions: samples in which one of these conditions is dropped do not count.
        face_latents: of clips, how many latents are decoded, at a random place; null: all.
        context: of clips of causal codecs, how many latents before those are looked at; null: all.
        decode_samples: samples that the decoder sees together.
        checkpoint_decoder: run the decoder again for the gradient instead of keeping what it computed.
        rollout: `diffusion.sampling.sample` with its settings bound (scheduler, num_steps, gradients): look
            at what a few steps draw from pure noise, as PuLID does (its "accurate" loss), not at the clean
            estimate. The network runs num_steps times more, and the last `gradients` of them keep what they
            computed, each as much as the training step itself. The gate does not apply.
        every, gate: see `Loss`.

    Figures: `coverage`, the share of samples that were looked at; `time`, their mean noise level;
    `similarity`, the mean cosine; and the loss, unweighted, by quarters of the noise level (`loss_0` to
    `loss_3`).

    Raises:
        ValueError: unknown settings, or ones that do not go together, or a file that is not there or does not
            fit.
    """

    figures: ClassVar[tuple[str, ...]] = (
        "coverage",
        "time",
        "similarity",
        *(f"loss_{bucket}" for bucket in range(_BUCKETS)),
    )

    def __init__(
        self,
        *,
        recognizer: str | FaceRecognizer = "arcface",
        arcface_weights: str | None = None,
        arcface_model: str | None = None,
        face_loss_weight: float = 0.1,
        face_align_mode: AlignMode = "kps",
        face_loss_type: FaceLossType = "cosine",
        multiscale_weights: Sequence[float] = SCALES,
        align_source: AlignSource = "target_kps",
        face_target: FaceTarget = "picture",
        detector: FaceBackend | None = None,
        data_types: Sequence[str] = ("person", "person_head"),
        target_region: Sequence[float] | None = None,
        needs_conditions: Sequence[str] = (),
        face_latents: int | None = 1,
        context: int | None = None,
        decode_samples: int = 1,
        checkpoint_decoder: bool = True,
        rollout: Callable[..., Tensor] | None = None,
        every: int = 1,
        gate: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(weight=face_loss_weight, every=every, gate=gate)
        for name, value, known in (
            ("face_align_mode", face_align_mode, AlignMode),
            ("face_loss_type", face_loss_type, FaceLossType),
            ("align_source", align_source, AlignSource),
            ("face_target", face_target, FaceTarget),
        ):
            if value not in get_args(known):
                raise ValueError(f"losses: {name} is {value!r}: use one of {', '.join(get_args(known))}")
        if align_source != "target_kps" and detector is None:
            raise ValueError(f"losses: align_source={align_source} needs a detector, such as faces=dlib's")
        if face_target == "identity" and face_loss_type != "cosine":
            raise ValueError("losses: face_target=identity has embeddings alone: take face_loss_type=cosine")
        for name, count in (("decode_samples", decode_samples), ("face_latents", face_latents)):
            if count is not None and count < 1:
                raise ValueError(f"losses: {name} is {count}, but it must be 1 or more")
        if isinstance(recognizer, str):
            recognizer = load_recognition(recognizer, arcface_weights)
        if arcface_model is not None and recognizer.name != f"arcface_{arcface_model}":
            raise ValueError(
                f"losses: arcface_model is {arcface_model}, but {arcface_weights} holds {recognizer.name}: "
                "make them agree (arcface_model=null accepts any)"
            )
        self.recognizer = recognizer
        self.crops = FaceCrops(face_align_mode, recognizer.template)
        self.distance = FaceDistance(recognizer, face_loss_type, multiscale_weights)
        self.align_source, self.face_target = align_source, face_target
        self.true = TrueFaces(self.crops, source=align_source, target=face_target, detector=detector)
        self.data_types, self.needs_conditions = tuple(data_types), tuple(needs_conditions)
        self.target_region = None if target_region is None else _as_region(target_region)
        self.face_latents, self.context = face_latents, context
        self.decode_samples, self.checkpoint_decoder = decode_samples, checkpoint_decoder
        self.rollout = rollout
        self._faceless = 0

    @property
    def recognizers(self) -> dict[str, str]:
        return {self.recognizer.digest: self.recognizer.name}

    @classmethod
    def find_problems(cls, settings: Mapping[str, Any], examples: Mapping[str, Any]) -> Iterator[str]:
        """Data that would not say where faces are."""
        key = "boxes" if settings.get("face_align_mode") == "bbox" else "key_points"
        source = settings.get("align_source", "target_kps")
        if source == "target_kps" and examples.get(key) is False:
            yield f"it looks for faces by their {key}: set data.examples.{key}=true"

    @classmethod
    def missing_files(cls, settings: Mapping[str, Any]) -> Iterator[str]:
        """The recogniser's weights."""
        name, path = settings.get("recognizer", "arcface"), settings.get("arcface_weights")
        if path is not None and isinstance(name, str) and not Path(path).expanduser().is_file():
            yield f"arcface_weights: there is no file {path}; fetch {recognition_file(name)}"

    def forward(self, seen: ForwardPass) -> LossValue:
        span = choose_span(seen, self.face_latents)
        faces = faces_of_batch(seen.batch, device=seen.prediction.device)
        if span is not None:
            faces = faces.frames(seen.frames_of(*span))
        faces = faces.among(self._rows(seen))
        if self.align_source == "detect" or self.face_target == "reference":
            faces = faces.first()
        places = self.true.places(faces)
        weight = torch.ones_like(seen.noise_level) if self.rollout is not None else self.row_weights(seen)
        counted = faces.there & places.isfinite().flatten(3).all(dim=3)
        chosen = counted & (weight > 0)[:, None, None]
        # Which samples to decode decides shapes: here, and nowhere else, the host waits for the device.
        known, index = (each.nonzero() for each in torch.stack([counted, chosen]).cpu())
        self._tell_of_faceless(len(known))
        coverage = Mean.over(chosen.flatten(1).any(dim=1))
        if not len(index):
            nothing = Mean.of_nothing(seen.prediction)
            figures = {**dict.fromkeys(self.figures, nothing), "coverage": coverage}
            count = counted.sum().to(torch.float32)
            return LossValue(Mean(attached_zero(seen.prediction, {}), count), figures)

        rows, sample = index[:, 0].unique(return_inverse=True)
        rows, sample, index = (each.to(seen.prediction.device) for each in (rows, sample, index))
        drawn = self._drawn(seen, rows, span, faces)[sample, index[:, 1]]
        where = self.true.found(drawn) if self.align_source == "detect" else places[index.unbind(1)]
        found, valid = self.crops(drawn, where)
        with torch.no_grad():
            if self.face_target == "identity":
                vectors, known_true = stored_embeddings(seen.batch, index)
                true = [vectors]
            else:

                def decoded() -> Tensor:
                    return self._decoded(seen, seen.noised.clean[rows], span)[sample, index[:, 1]]

                crops, known_true = self.true.cut(seen.batch, faces, places, index, decoded)
                true = self.distance.look(crops)
        valid = valid & known_true
        distance, cosine = self.distance(self.distance.look(found), true)
        level, share = (each[index[:, 0]] for each in (seen.noise_level, weight))
        total = torch.where(valid, share * distance, 0.0).sum()
        count = (counted.sum() - (~valid).sum()).to(torch.float32)
        bucket = (level * _BUCKETS).long().clamp(max=_BUCKETS - 1)
        figures = {
            "coverage": coverage,
            "time": Mean.over(seen.noise_level[rows]),
            "similarity": Mean.over(cosine, valid),
            **{
                f"loss_{number}": Mean.over(distance.detach(), valid & (bucket == number))
                for number in range(_BUCKETS)
            },
        }
        return LossValue(Mean(total, count), figures)

    def _rows(self, seen: ForwardPass) -> Tensor:
        """bool [B]: samples that may count."""
        rows = of_types(seen.batch, self.data_types, device=seen.prediction.device)
        for name in self.needs_conditions:
            for kept in (seen.keep, seen.nonzero):
                if name in kept:
                    rows = rows & kept[name]
        return rows

    def _drawn(
        self, seen: ForwardPass, rows: Tensor, span: tuple[int, int] | None, faces: BatchFaces
    ) -> Tensor:
        """Pictures [R, n, 3, H, W] that the network's answer means, of the samples that matter."""
        if self.rollout is not None:
            latents = self.rollout(seen.predict, latents=seen.noised.noise)[rows]
        else:
            latents = seen.clean_estimate[rows]
        pictures = self._decoded(seen, latents, span)
        if faces.pictures is not None and pictures.shape[-2:] != faces.pictures.shape[-2:]:
            raise ValueError(
                f"losses: what is drawn has {list(pictures.shape[-2:])} pixels, the picture of the batch "
                f"{list(faces.pictures.shape[-2:])}: set target_region to the part of it that is generated"
            )
        return pictures

    def _decoded(self, seen: ForwardPass, latents: Tensor, span: tuple[int, int] | None) -> Tensor:
        pictures = decode_rows(
            seen,
            latents,
            span,
            at_once=self.decode_samples,
            recompute=self.checkpoint_decoder,
            context=self.context,
        )
        return region_of(pictures, self.target_region)

    def _tell_of_faceless(self, known: int) -> None:
        """Warn of batches without a face, at the first and then at the tenth, hundredth …"""
        if known:
            return
        self._faceless += 1
        if 10 ** (len(str(self._faceless)) - 1) == self._faceless:
            log.warning(
                "no sample of the batch has a face for the identity loss (%d such so far): see the figure "
                "coverage; is data_types right, and are faces large enough to be found?",
                self._faceless,
            )


def _as_region(shares: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(float, shares)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(
            f"losses: target_region is {list(shares)}: give [left, top, right, bottom] as shares from 0 to 1"
        )
    return left, top, right, bottom
