"""Weights files: what goes in comes out, and what does not fit is listed."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from portraitgen.training.weights import load_into, load_weights, save_weights


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"image": nn.Linear(3, 4), "motion": nn.Linear(4, 4), "norm": nn.BatchNorm1d(4)})


def test_tensors_and_facts_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "w.safetensors"
    tensors = network().state_dict() | {"half": torch.randn(4, 2).bfloat16().t()}
    config = {"channels": [8, 16], "norm": None, "name": "ä"}
    save_weights(
        path, tensors, config=config, step=7, system="toy", provenance={"commit": "abc", "dirty": True}
    )
    loaded, facts = load_weights(path)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert all(loaded[name].dtype == tensor.dtype for name, tensor in tensors.items())
    assert facts == {"system": "toy", "step": 7, "config": config, "commit": "abc", "dirty": True}


def test_a_file_from_elsewhere_has_no_facts(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors", metadata={"format": "pt"})
    assert load_weights(tmp_path / "w.safetensors")[1] == {}


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_weights(tmp_path / name, network().state_dict(), config={"x": 1}, step=0, system="toy")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.ones(2)}, config={}, step=0, system="toy")
    before = path.read_bytes()
    shared = torch.ones(2)
    with pytest.raises(RuntimeError):
        save_weights(path, {"a": shared, "b": shared}, config={}, step=0, system="toy")
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no weights file"), (b"", "not a whole"), (b"x" * 99, "whole")]
)
def test_unreadable_files_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{message}.*") as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, network().state_dict(), config={}, step=0, system="toy")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_weights(path)


def test_load_into_copies_declared_parts_and_reports_the_rest() -> None:
    source = {name: tensor + 1 for name, tensor in network().state_dict().items() if "motion" not in name}
    source["head.weight"] = torch.ones(1)
    target = network()
    missing = load_into(target, source, source="w", expect_missing=["motion.*"], expect_unexpected=["head.*"])
    assert missing == ["motion.weight", "motion.bias"]
    state, built = target.state_dict(), network().state_dict()
    for name, tensor in state.items():
        assert torch.equal(tensor, source.get(name, built[name])), name


def test_load_into_lists_every_difference_and_changes_nothing() -> None:
    source = {f"net.{n}" if n.startswith("image") else n: t + 1 for n, t in network().state_dict().items()}
    source["motion.weight"] = torch.ones(2, 2)
    target = network()
    with pytest.raises(ValueError) as caught:
        load_into(target, source, source="stage1/last.safetensors")
    message = str(caught.value)
    assert message.startswith("stage1/last.safetensors does not fit ModuleDict:")
    assert "2 not in the file:" in message
    assert "image.weight (the file has net.image.weight)" in message
    assert "2 in the file only:" in message
    assert "motion.weight: [2, 2] in the file, [4, 4] here" in message
    assert all(map(torch.equal, target.state_dict().values(), network().state_dict().values()))


def test_long_lists_are_cut() -> None:
    wide = nn.ParameterDict({f"p{i}": nn.Parameter(torch.ones(1)) for i in range(30)})
    with pytest.raises(ValueError, match="30 not in the file") as caught:
        load_into(wide, {}, source="w")
    assert "and 22 more" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 15


def test_weights_that_are_not_finite_never_replace_good_ones(tmp_path):
    path = tmp_path / "last.safetensors"
    save_weights(path, {"a": torch.ones(2)}, config={}, step=1, system="toy")
    with pytest.raises(ValueError, match=r"not finite at step 2, b among them"):
        save_weights(path, {"b": torch.tensor([1.0, float("nan")])}, config={}, step=2, system="toy")
    assert [*load_weights(path)[0]] == ["a"]
