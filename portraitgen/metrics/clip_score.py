"""CLIP scores: how well pictures fit a text, or each other. (torchmetrics' breaks on transformers 5.)

Hessel et al., "CLIPScore", EMNLP 2021; here as in ConsisID's evaluation 100 times the cosine, not clipped.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize
from transformers import AutoTokenizer, CLIPModel, PreTrainedTokenizerBase

from portraitgen.metrics.clip_weights import CLIP_WEIGHTS
from portraitgen.metrics.consisid import to_bgr
from portraitgen.metrics.rgb import as_uint8

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
CHUNK = 16


class ClipScorer(nn.Module):
    """A CLIP network that compares pictures and texts, frozen.

    Args:
        model: CLIP with its weights.
        tokenizer: of the same folder.
    """

    def __init__(self, model: CLIPModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer

    @property
    def side(self) -> int:
        return int(self.model.config.vision_config.image_size)

    @torch.no_grad()
    def embed_pictures(self, frames: Tensor) -> Tensor:
        """Unit vectors float32 [T, D] of uint8 RGB frames [T, 3, H, W]."""
        device = next(self.model.parameters()).device
        vectors = []
        for chunk in as_uint8(frames, name="pictures for CLIP").split(CHUNK):
            pixels = preprocess(chunk.to(device), side=self.side)
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            vectors.append(normalize(self.model.visual_projection(pooled), dim=-1))
        return torch.cat(vectors)

    @torch.no_grad()
    def embed_text(self, text: str) -> Tensor:
        """Unit vector float32 [D] of a text, which is cut after the model's number of tokens (77)."""
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
        device = next(self.model.parameters()).device
        output = self.model.text_model(**{name: ids.to(device) for name, ids in tokens.items()})
        return normalize(self.model.text_projection(output.pooler_output), dim=-1)[0]

    def text_scores(self, frames: Tensor, text: str, *, bgr: bool = False) -> Tensor:
        """`logits_per_image` of each frame with the text, about 100 times the cosine: float32 [T].

        Args:
            frames: uint8 [T, 3, H, W] RGB.
            bgr: exchange red and blue, as ConsisID's script does by mistake: only to compare with its table.
        """
        return self.logits(self.embed_pictures(to_bgr(frames) if bgr else frames), self.embed_text(text))

    @torch.no_grad()
    def logits(self, pictures: Tensor, text: Tensor) -> Tensor:
        """The same, [T], from the unit vectors [T, D] of the frames and [D] of the text."""
        return pictures @ text * self.model.logit_scale.exp()


def preprocess(frames: Tensor, *, side: int) -> Tensor:
    """Pictures as CLIP was trained on: shorter side resized (bicubic, antialiased), centre cut, normalised.

    The resized picture is rounded to 8 bits, as PIL leaves it.

    Args:
        frames: uint8 [B, 3, H, W].

    Returns:
        float32 [B, 3, side, side].
    """
    height, width = frames.shape[-2:]
    scale = side / min(height, width)
    # As transformers: the longer side is rounded down.
    size = (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
    resized = frames.float()
    if scale != 1:
        resized = interpolate(resized, size=size, mode="bicubic", align_corners=False, antialias=True)
        resized = resized.round().clamp(0, 255)
    top, left = ((extent - side) // 2 for extent in size)
    cut = resized[..., top : top + side, left : left + side] / 255
    mean, std = (torch.tensor(values, device=frames.device)[:, None, None] for values in (MEAN, STD))
    return (cut - mean) / std


def load_clip(folder: Path | str) -> ClipScorer:
    """CLIP from a folder that `save_pretrained` wrote: config.json, safetensors weights, tokenizer.

    Raises:
        ValueError: no such folder, no CLIP in it, or weights that do not fill it.
    """
    folder = Path(folder).expanduser()
    if not (folder / "config.json").is_file():
        raise ValueError(f"no CLIP model in {folder}: fetch {CLIP_WEIGHTS}")
    try:
        loaded: Any = CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder} cannot be read as a CLIP model ({error}); fetch {CLIP_WEIGHTS}"
        ) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{folder}: no tensor {missing[0]} in its weights; fetch {CLIP_WEIGHTS}")
    return ClipScorer(model, tokenizer)
