"""A text encoder's folder of somebody else: its tokenizer reads nothing beside it."""

import json

import pytest
from transformers import CLIPTokenizer

from portraitgen.nn.text.folder import TextFolder


@pytest.fixture
def folder(tmp_path):
    for name in ("text_encoder", "tokenizer"):
        (tmp_path / name).mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text("{}")
    (tmp_path / "text_encoder" / "model.safetensors").write_bytes(b"")
    (tmp_path / "tokenizer" / "vocab.json").write_text("{}")
    (tmp_path / "tokenizer" / "merges.txt").write_text("")
    return tmp_path


@pytest.mark.parametrize("name", ["vocab_file", "merges_file", "tokenizer_file"])
@pytest.mark.parametrize("value", ["/dev/zero", "../x", "a/b"])
def test_settings_of_a_tokenizer_name_no_other_file(name, value, folder):
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({name: value}))
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        TextFolder(str(folder)).load_tokenizer(CLIPTokenizer)


def test_nor_is_one_a_device(folder):
    (folder / "tokenizer" / "tokenizer.json").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"tokenizer\.json is no file"):
        TextFolder(str(folder)).load_tokenizer(CLIPTokenizer)
