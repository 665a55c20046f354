"""The aligned decoder against PyTorch's general one, and step by step against all at once."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from portraitgen.nn.aligned_decoder import AlignedDecoder, alibi


def test_official_bias(shared: Path):
    expected = load_file(shared / "golden/aniportrait_audio.safetensors")["biased_mask_8_20"]
    assert torch.equal(alibi(8, 20, 20), expected)
    assert torch.equal(alibi(8, 3, 20), expected[:, 17:])


def test_equal_to_the_general_decoder_with_masks():
    torch.manual_seed(0)
    width, heads, length = 16, 4, 9
    layer = nn.TransformerDecoderLayer(width, heads, dim_feedforward=2 * width, batch_first=True)
    general = nn.TransformerDecoder(layer, num_layers=2).eval()
    ours = AlignedDecoder(width, num_layers=2, num_heads=heads, dropout=0.1).eval()
    for parameter in general.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(general.state_dict())
    hidden, memory = torch.randn(2, length, width), torch.randn(2, length, width)

    found, _ = ours(hidden, ours.read(memory))

    expected = general(
        hidden,
        memory,
        tgt_mask=alibi(heads, length, length).repeat(2, 1, 1),
        memory_mask=~torch.eye(length, dtype=torch.bool),
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pieces", [[1] * 9, [4, 1, 1, 3], [8, 1]])
def test_piece_by_piece_is_all_at_once(pieces):
    torch.manual_seed(0)
    decoder = AlignedDecoder(16, num_layers=3, num_heads=2, dropout=0.0).eval()
    hidden = torch.randn(2, 9, 16)
    readings = decoder.read(torch.randn(2, 9, 16))
    whole, _ = decoder(hidden, readings)

    past, found, start = None, [], 0
    for length in pieces:
        piece = slice(start, start + length)
        output, past = decoder(hidden[:, piece], [each[:, piece] for each in readings], past)
        found.append(output)
        start += length

    torch.testing.assert_close(torch.cat(found, dim=1), whole, atol=1e-5, rtol=0)
