"""The perceiver block in both of its uses."""

import torch
from torch.nn.functional import layer_norm, softmax

from portraitgen.nn.perceiver import PerceiverAttention, perceiver_feed_forward


def test_latents_read_the_context_and_themselves_as_the_formula_says():
    torch.manual_seed(0)
    block = PerceiverAttention(8, heads=2, head_dim=3)
    context, latents = torch.randn(2, 5, 8), torch.randn(2, 4, 8)
    x, z = layer_norm(context, (8,)), layer_norm(latents, (8,))
    read = torch.cat([x, z], dim=1)
    expected = torch.zeros(2, 4, 6)
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        q = (z @ block.to_q.weight.T)[..., part]
        k, v = ((read @ half.T)[..., part] for half in block.to_kv.weight.chunk(2))
        expected[..., part] = softmax(q @ k.mT / 3**0.5, dim=-1) @ v
    torch.testing.assert_close(block(context, latents), expected @ block.to_out.weight.T)


def test_masked_tokens_are_not_seen_but_the_latents_always_see_themselves():
    torch.manual_seed(0)
    block = PerceiverAttention(8, heads=2)
    context, latents = torch.randn(2, 5, 8), torch.randn(2, 4, 8)
    keep = torch.tensor([[True, True, False, True, False], [False] * 5])
    found = block(context, latents, keep)
    torch.testing.assert_close(found[:1], block(context[:1, keep[0]], latents[:1]))
    torch.testing.assert_close(found[1:], block(context[1:, :0], latents[1:]))
    assert found[1].abs().max() > 0


def test_without_own_keys_it_is_consisids_cross_attention():
    """There, video tokens of one width read a face's tokens of another."""
    block = PerceiverAttention(12, heads=2, head_dim=4, context_dim=6, reads_latents=False)
    names = {name: list(value.shape) for name, value in block.state_dict().items()}
    assert names["to_q.weight"] == [8, 12]
    assert names["to_kv.weight"] == [16, 6]
    assert names["to_out.weight"] == [12, 8]
    assert names["norm1.weight"] == [6]
    assert names["norm2.weight"] == [12]
    face, video = torch.randn(1, 3, 6), torch.randn(1, 9, 12)
    out = block(face, video)
    torch.testing.assert_close(block(face, video[:, :4]), out[:, :4])


def test_the_feed_forward_has_the_names_of_published_files():
    names = [*perceiver_feed_forward(4, factor=3).state_dict()]
    assert names == ["0.weight", "0.bias", "1.weight", "3.weight"]
