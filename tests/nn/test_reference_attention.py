"""Reference attention: what a frame sees of its reference, and the one-token cross attention."""

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from torch.nn.functional import scaled_dot_product_attention

from portraitgen.nn.reference_attention import ReferenceTransformerBlock, reference_attention

CLIPS, FRAMES, TOKENS, WIDTH, HEADS, CONTEXT = 3, 2, 20, 32, 4, 12


@pytest.fixture
def source() -> BasicTransformerBlock:
    torch.manual_seed(0)
    return BasicTransformerBlock(WIDTH, HEADS, WIDTH // HEADS, cross_attention_dim=CONTEXT)


@pytest.fixture
def block(source) -> ReferenceTransformerBlock:
    return ReferenceTransformerBlock(source)


def random_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(CLIPS * FRAMES, TOKENS, WIDTH, generator=generator),
        torch.randn(CLIPS, 1, CONTEXT, generator=generator),
        torch.randn(CLIPS, TOKENS, WIDTH, generator=generator),
    )


def test_without_reference_it_is_the_block_of_diffusers(source, block):
    hidden, context, _ = random_inputs()
    expected = source(hidden, encoder_hidden_states=context.repeat_interleave(FRAMES, 0))

    found, tokens = block(hidden, context)

    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(tokens, source.norm1(hidden))


def test_frames_read_their_own_tokens_and_those_of_their_clip(block):
    tokens, _, reference = random_inputs()
    attention = block.attn1
    read = torch.cat([tokens, reference.repeat_interleave(FRAMES, 0)], dim=1)
    query, key, value = (
        states.unflatten(2, (HEADS, -1)).transpose(1, 2)
        for states in (attention.to_q(tokens), attention.to_k(read), attention.to_v(read))
    )
    attended = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)

    found = reference_attention(attention, tokens, block.project_reference(reference), None)

    torch.testing.assert_close(found, attention.to_out[0](attended), atol=1e-6, rtol=0)


def test_keep_false_is_plain_self_attention_and_leaves_the_others_alone(block):
    tokens, _, reference = random_inputs()
    pair = block.project_reference(reference)
    keep = torch.tensor([True, False, True])
    plain = reference_attention(block.attn1, tokens, None, None)
    seeing = reference_attention(block.attn1, tokens, pair, None)

    found = reference_attention(block.attn1, tokens, pair, keep)

    blind = ~keep.repeat_interleave(FRAMES)
    torch.testing.assert_close(found[blind], plain[blind], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[~blind], seeing[~blind], atol=0, rtol=0)
    assert (plain[~blind] - seeing[~blind]).abs().max() > 1e-2


def test_no_gradient_reaches_a_reference_that_is_not_seen(block):
    hidden, context, reference = random_inputs()
    reference.requires_grad_()

    found, _ = block(hidden, context, reference, torch.tensor([True, False, True]))
    found.square().sum().backward()

    per_clip = reference.grad.abs().amax(dim=(1, 2))
    assert per_clip[1] == 0
    assert (per_clip[[0, 2]] > 1e-4).all()


def test_tokens_and_their_keys_and_values_are_the_same_reference(block):
    hidden, context, reference = random_inputs()

    from_tokens, _ = block(hidden, context, reference)
    from_pair, _ = block(hidden, context, block.project_reference(reference))

    torch.testing.assert_close(from_tokens, from_pair, atol=0, rtol=0)


def test_reference_of_another_size(block):
    hidden, context, reference = random_inputs()
    with pytest.raises(ValueError, match="the reference has 10 tokens where a frame has 20: give the ref"):
        block(hidden, context, reference[:, :10])
