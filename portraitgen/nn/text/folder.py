"""Where a text encoder lies on this machine: tokenizer and model, as diffusers lays them out."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOKENIZERS = (("tokenizer.json",), ("spiece.model",), ("vocab.json", "merges.txt"))
_PRECISIONS = ("auto", "float32", "bfloat16", "float16")
_MAX_FILE = 256 << 20
_WEIGHTS = (("model.safetensors",), ("model.safetensors.index.json",))


@dataclass(frozen=True, slots=True)
class TextFolder:
    """The files of one text encoder. Only local files are read, and nothing is unpickled.

    Attributes:
        folder: of a pipeline, such as models/CogVideoX-5b.
        text_encoder, tokenizer: subfolders of it; "" for the folder itself.
        dtype: of the weights, such as "bfloat16"; "auto": as they are stored.
        source: who publishes it where and under which licence, for the message when something is missing.

    Raises:
        ValueError: files are missing (named, with the source), or there is no such dtype.
    """

    folder: str
    text_encoder: str = "text_encoder"
    tokenizer: str = "tokenizer"
    dtype: str = "auto"
    source: str = ""

    def __post_init__(self) -> None:
        if self.dtype not in _PRECISIONS:
            raise ValueError(f"dtype={self.dtype}: give one of {', '.join(_PRECISIONS)}")
        missing = [*self._missing()]
        if missing:
            advice = f"fetch {self.source}" if self.source else "fetch its folder"
            there = f"there is no {', and no '.join(missing)}"
            raise ValueError(f"no text encoder in {self.folder}: {there}; {advice}")

    @property
    def model_folder(self) -> Path:
        return Path(self.folder).expanduser() / self.text_encoder

    @property
    def tokenizer_folder(self) -> Path:
        return Path(self.folder).expanduser() / self.tokenizer

    def model_type(self) -> str:
        """What config.json says that the model is, such as "t5"; ValueError if it is damaged."""
        with _readable(self.model_folder, "a text encoder"):
            return str(json.loads((self.model_folder / "config.json").read_text())["model_type"])

    def load_model(self, kind: type[PreTrainedModel]) -> PreTrainedModel:
        """The model, frozen and in eval mode, on the CPU.

        Raises:
            ValueError: the files are damaged, or lack weights, which would be left at random values.
        """
        with _readable(self.model_folder, kind.__name__):
            loaded: Any = kind.from_pretrained(
                str(self.model_folder),
                dtype=self.dtype if self.dtype == "auto" else getattr(torch, self.dtype),
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        model, report = loaded
        missing = sorted(report["missing_keys"])
        if missing:
            raise ValueError(
                f"{self.model_folder} lacks weights of a {kind.__name__}: {missing[0]} and"
                f" {len(missing) - 1} more"
            )
        return model.requires_grad_(False).eval()

    def load_tokenizer(self, kind: type[PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
        """The tokenizer; ValueError if its files are damaged, or name files outside of the folder."""
        with _readable(self.tokenizer_folder, kind.__name__):
            _require_own_files(self.tokenizer_folder)
            return kind.from_pretrained(str(self.tokenizer_folder), local_files_only=True)

    def _missing(self) -> Iterator[str]:
        if not (self.model_folder / "config.json").is_file():
            yield str(Path(self.text_encoder) / "config.json")
        for subfolder, folder, ways in (
            (self.text_encoder, self.model_folder, _WEIGHTS),
            (self.tokenizer, self.tokenizer_folder, _TOKENIZERS),
        ):
            if not any(all((folder / name).is_file() for name in names) for names in ways):
                yield " or ".join(str(Path(subfolder) / name) for (name, *_) in ways)


def _require_own_files(folder: Path) -> None:
    """ValueError unless all that transformers reads of a tokenizer lies in its folder.

    Its settings may name other files: one read /dev/zero until the memory was full.
    """
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.model")):
        size = path.stat().st_size
        if not path.is_file() or size > _MAX_FILE:
            raise ValueError(f"{path.name} is no file of at most {_MAX_FILE} bytes")
    for path in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        settings = json.loads(path.read_text()) if path.is_file() else {}
        for name, value in settings.items():
            if name.endswith("_file") and isinstance(value, str) and Path(value).name != value:
                raise ValueError(f"{path.name} names a file outside of the folder: {name} is {value}")


@contextmanager
def _readable(folder: Path, kind: str) -> Iterator[None]:
    """What json, transformers and safetensors raise on damaged files, as one ValueError."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder} cannot be read as {kind} ({reason})") from error
