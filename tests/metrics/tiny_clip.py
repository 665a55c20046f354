"""A tiny random CLIP of the real class, with a tokenizer of letters."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer


def save_tiny_clip(folder: Path) -> Path:
    """Write it into `folder`, as transformers does; gives `folder`."""
    letters = [chr(number) for number in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[])
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"eos_token_id": len(words) - 1, "bos_token_id": len(words) - 2, "pad_token_id": len(words) - 1}
    config = CLIPConfig(
        text_config={**size, **special, "vocab_size": len(words), "max_position_embeddings": 20},
        vision_config={**size, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
