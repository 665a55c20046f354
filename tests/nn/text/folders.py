"""Folders of pipelines with tiny text encoders of the published classes, and tokenizers of a few words."""

import io
from pathlib import Path

import torch

WORDS = [
    "a man talks about the sea",
    "two friends at the sea",
    "a woman smiles and talks to the camera",
    "the man in a red shirt talks",
    "she is singing a song by the window",
]


def save_clip(folder: Path, *, subfolder: str = "", layers: int = 3, tokens: int = 12) -> Path:
    """`tokenizer` and `text_encoder` of a CLIP that takes `tokens` tokens."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    merges = [("m", "a"), ("ma", "n</w>"), ("s", "e"), ("se", "a</w>")]
    for piece in "abcdefghijklmnopqrstuvwxyz,.":
        vocabulary[piece] = len(vocabulary)
        vocabulary[f"{piece}</w>"] = len(vocabulary)
    for merge in merges:
        vocabulary["".join(merge)] = len(vocabulary)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=tokens)
    tokenizer.save_pretrained(folder / f"tokenizer{subfolder}")
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=tokens,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    _spread(CLIPTextModel(config)).save_pretrained(folder / f"text_encoder{subfolder}")
    return folder


def save_t5(folder: Path, kind: str = "T5", *, subfolder: str = "", serialised: bool = False) -> Path:
    """`tokenizer` (spiece.model; `serialised`: tokenizer.json) and `text_encoder` of a T5 or a UMT5."""
    import sentencepiece
    import transformers

    model_file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS * 4),
        model_writer=model_file,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    place = folder / f"tokenizer{subfolder}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "spiece.model").write_bytes(model_file.getvalue())
    tokenizer = transformers.T5Tokenizer.from_pretrained(str(place))
    if serialised:
        (place / "spiece.model").unlink()
        tokenizer.save_pretrained(place)
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    model = getattr(transformers, f"{kind}EncoderModel")(config)
    _spread(model).save_pretrained(folder / f"text_encoder{subfolder}")
    return folder


def _spread(model: torch.nn.Module):
    """Larger weights, with which tokens, positions and padding matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.0 if "embed" in name or "shared" in name else 0.3)
    return model
