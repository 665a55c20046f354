"""Published files ↔ our network."""

import json

import pytest
import torch

from portraitgen.nn.lora import plain_name
from portraitgen.systems.uniportrait.network import UniPortraitNetwork
from portraitgen.systems.uniportrait.published import (
    FACEID,
    IMAGE,
    ROUTER,
    from_published,
    published_names,
    to_published,
)
from portraitgen.systems.uniportrait.weights import publish, read_sections
from tests.systems.uniportrait import golden

SD15 = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
}


@pytest.fixture(scope="module")
def full():
    lora = {"rank": 128, "alpha": 128, "targets": golden.TARGETS, "init": "gaussian"}
    with torch.device("meta"):
        return UniPortraitNetwork(
            unet=SD15,
            resampler={},
            router={},
            image_prompt={},
            lora={"single_id": lora, "multi_id": lora},
        )


@pytest.mark.golden
def test_the_full_network_has_the_names_and_shapes_of_the_published_files(full, shared):
    shapes = json.loads((shared / "golden/uniportrait_state_dict_shapes.json").read_text())
    assert list(full.unet.attn_processors) == shapes["processor_order"]
    files = to_published(full)
    for file, section, expected, count in (
        (FACEID, "faceid_proj", shapes["faceid_proj"], 121),
        (FACEID, "faceid_adapter", shapes["faceid_adapter"], 288),
        (ROUTER, "faceid_adapter", shapes["router_file_faceid_adapter"], 384),
        (IMAGE, "ip_adapter", shapes["ip_adapter"], 32),
    ):
        found = {name: list(value.shape) for name, value in files[file][section].items()}
        assert found == expected
        assert len(found) == count
    ours = from_published(full, files)
    assert ours.keys() == published_names(full).keys()
    base = {plain_name(name) for name in full.state_dict()} - ours.keys()
    assert not any("lora" in name or ".processor." in name or name.startswith("id_") for name in base)
    millions = sum(value.numel() for value in files[FACEID]["faceid_proj"].values()) / 1e6
    assert millions == pytest.approx(67.2, abs=0.1)


def test_files_go_both_ways(shared):
    network = golden.network(shared)
    files = to_published(network)
    for file, sections in golden.published(shared).items():
        for section, expected in sections.items():
            assert files[file][section].keys() == expected.keys()
            for name, value in expected.items():
                assert torch.equal(files[file][section][name], value), name


@pytest.mark.parametrize("file", [FACEID, ROUTER, IMAGE])
def test_what_is_missing_unknown_or_of_another_shape_is_listed(full, shared, file):
    files = {file: {section: dict(part) for section, part in to_published(full)[file].items()}}
    section, part = next(reversed(files[file].items()))
    first, second, *_ = part
    lost = part.pop(first)
    with pytest.raises(ValueError, match=rf"1 not in the file:\n +{section}\.{first}"):
        from_published(full, files)
    part[first] = lost[:0]
    with pytest.raises(ValueError, match=rf"1 of another shape:\n +{section}\.{first}"):
        from_published(full, files)
    part[first] = lost
    part["1.to_q_rooter.weight"] = part[second]
    with pytest.raises(ValueError, match=r"1 in the file only:\n +\w+\.1\.to_q_rooter"):
        from_published(full, files)


def test_files_are_written_and_read_with_their_sections(shared, tmp_path):
    network = golden.network(shared)
    for file, sections in publish(network).items():
        torch.save(sections, tmp_path / file)
        found = read_sections(tmp_path / file, source="here")
        assert found.keys() == sections.keys()
        assert all(torch.equal(found[s][name], sections[s][name]) for s in sections for name in sections[s])
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "ip-adapter_sd15.bin",
        "uniportrait-faceid_sd15.bin",
        "uniportrait-router_sd15.bin",
    ]


def test_files_that_are_not_there_or_hold_something_else_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no weights file .*a\.bin: fetch a\.bin of somebody"):
        read_sections(tmp_path / "a.bin", source="somebody")
    torch.save({"faceid_proj": torch.zeros(1)}, tmp_path / "a.bin")
    with pytest.raises(ValueError, match=r"holds no sections of tensors: fetch a\.bin of somebody"):
        read_sections(tmp_path / "a.bin", source="somebody")
    torch.save({"a": {"x": object}}, tmp_path / "b.bin")
    with pytest.raises(ValueError, match="is damaged, or holds more than tensors"):
        read_sections(tmp_path / "b.bin", source="somebody")
