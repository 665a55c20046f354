"""Files of tensors as people have them: wrapped, sharded, or not what is wanted."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from portraitgen.training.public_unets import read_tensors

STATE = {"a.weight": torch.ones(3), "b.bias": torch.zeros(2)}


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module", None])
def test_what_trainers_wrap_around_is_taken_off(tmp_path: Path, wrapper: str | None) -> None:
    state = {f"module.{name}": value for name, value in STATE.items()}
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "a.pth")
    assert read_tensors(tmp_path / "a.pth", hint="").keys() == STATE.keys()


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_folder_of_parts(tmp_path: Path, suffix: str) -> None:
    write = save_file if suffix == ".safetensors" else torch.save
    for number, (name, value) in enumerate(STATE.items()):
        write({name: value}, tmp_path / f"model-{number}{suffix}")
    assert read_tensors(tmp_path, hint="").keys() == STATE.keys()
    write(STATE, tmp_path / f"other{suffix}")
    with pytest.raises(ValueError, match=r"is in .* and in another file; give one file"):
        read_tensors(tmp_path, hint="")


def test_what_is_of_no_use_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({**STATE, "a.weight": torch.tensor([1.0, float("nan")])}, path)
    with pytest.raises(ValueError, match=r"a\.pth: a\.weight has values that are no numbers \(1 such"):
        read_tensors(path, hint="")
    torch.save({"state_dict": STATE, "loops": {}, "global_step": 3}, path)
    with pytest.raises(ValueError, match=r"is a training checkpoint.*give the weights of the run"):
        read_tensors(path, hint="")
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"a\.pth is damaged"):
        read_tensors(path, hint="")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no weights file .*: fetch it"):
        read_tensors(tmp_path / "empty", hint="fetch it")
