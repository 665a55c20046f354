"""Branches for people and the router between them."""

import copy

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from portraitgen.nn.decoupled_attention import (
    Branches,
    DecoupledAttention,
    add_branches,
    grid_of,
    straight_through,
)

UNET = {
    "sample_size": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": None,
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}
TOKENS = 4


def make(**options):
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**UNET)
    settings = {"router": {"hard": True, "temperature": 1.0}, "image_prompt": True} | options
    add_branches(unet, num_tokens=TOKENS, **settings)
    for processor in unet.attn_processors.values():  # as if trained: by default the text's keys are copied
        if isinstance(processor, DecoupledAttention):
            for parameter in processor.parameters():
                torch.nn.init.normal_(parameter, std=0.5)
    return unet


@pytest.fixture(scope="module")
def unet():
    return make().eval()


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def run(unet, branches, *, height=8, width=8):
    batch = len(branches.people)
    noisy = draw(batch, 4, height, width).to(unet.dtype)
    text = draw(batch, 3, 12).to(unet.dtype)
    return unet(
        noisy,
        torch.tensor(10),
        encoder_hidden_states=text,
        added_cond_kwargs={"image_embeds": branches},
    ).sample


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_people_and_any_proportion(unet, count, dtype):
    unet = unet if dtype == torch.float32 else copy.deepcopy(unet).to(dtype)
    people = draw(2, count, TOKENS, 12)
    with torch.no_grad():
        out = run(unet, Branches(people), height=6, width=14)
        none = run(unet, Branches(people, people_scale=0.0), height=6, width=14)
    assert out.shape == (2, 4, 6, 14)
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert torch.equal(out, none) == (count == 0)


def test_training_gives_the_picture_away_as_use_does(unet):
    """With logits far apart the noise changes nothing: the same one-hot shares, by another computation."""
    unet = copy.deepcopy(unet)
    for processor in unet.attn_processors.values():
        if isinstance(processor, DecoupledAttention):
            processor.to_q_router[2].weight.data *= 1e5
    people = Branches(draw(2, 3, TOKENS, 12))
    in_use = run(unet, people)
    torch.testing.assert_close(run(unet.train(), people), in_use, rtol=1e-4, atol=1e-5)


def test_the_routers_last_layer_in_its_keys_says_the_same(unet):
    """Without gradients it stands in the keys of the people, with them it is a layer of every place."""
    people = draw(2, 3, TOKENS, 12)
    called, folded = Branches(people, logits={}), Branches(people, logits={})
    run(unet, called)
    with torch.no_grad():
        run(unet, folded)
    assert called.logits
    for layer, logits in called.logits.items():
        torch.testing.assert_close(folded.logits[layer], logits.detach(), rtol=1e-5, atol=1e-4)


def test_hard_shares_are_exactly_one_hot_with_the_gradient_of_soft_ones():
    logits = torch.randn(4, 64, 3, requires_grad=True)
    torch.manual_seed(1)
    hard = straight_through(logits, temperature=0.7)
    assert ((hard == 0) | (hard == 1)).all()
    assert (hard.sum(dim=-1) == 1).all()
    torch.manual_seed(1)
    soft = straight_through(logits, hard=False, temperature=0.7)
    assert torch.equal(hard.argmax(-1), soft.argmax(-1))
    weights = torch.randn_like(soft)
    gradients = [torch.autograd.grad((each * weights).sum(), logits)[0] for each in (hard, soft)]
    assert torch.equal(*gradients)
    assert gradients[0].abs().max() > 0


def test_noise_is_gumbels():
    """The winner of logits and Gumbel noise is drawn with the probabilities of their softmax."""
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(20000, 3)
    torch.manual_seed(0)
    drawn = straight_through(logits).mean(dim=0)
    torch.testing.assert_close(drawn, torch.tensor([0.5, 0.3, 0.2]), rtol=0, atol=0.015)


def test_the_router_learns_from_the_picture_and_from_its_logits(unet):
    unet = copy.deepcopy(unet).train().requires_grad_(True)
    branches = Branches(draw(2, 2, TOKENS, 12), logits={})
    run(unet, branches).square().sum().backward()
    for processor in unet.attn_processors.values():
        if isinstance(processor, DecoupledAttention):
            for part in ("to_q_router.2", "to_k_router.2", "aggr_router"):
                assert processor.get_submodule(part).weight.grad.abs().max() > 0, part
    assert len(branches.logits) == 6
    assert {each.shape for each in branches.logits.values()} == {(2, 64, 2), (2, 16, 2)}
    unet.zero_grad()
    alone = Branches(draw(2, 1, TOKENS, 12), logits={})
    run(unet, alone).sum().backward()
    assert not alone.logits  # one person has everything, and there is nothing to learn


@pytest.mark.parametrize("training", [False, True])
def test_padded_places_are_never_chosen(unet, training):
    unet = copy.deepcopy(unet).train(training)
    people, present = (
        draw(3, 3, TOKENS, 12),
        torch.tensor([[True, True, False], [True] + [False] * 2, [False] * 3]),
    )
    logits = {}
    torch.manual_seed(2)
    out = run(unet, Branches(people, present=present, logits=logits))
    lowest = torch.finfo(torch.float32).min
    for each in logits.values():
        assert (each[:, :, 2] == lowest).all()
        shares = each.softmax(-1)
        assert (shares[0, :, 2] == 0).all()
        assert (shares[1, :, 1:] == 0).all()
    changed = people.masked_fill(~present[:, :, None, None], 100.0)
    torch.manual_seed(2)
    torch.testing.assert_close(run(unet, Branches(changed, present=present)), out)
    nobody = run(unet, Branches(people[:, :0]))
    torch.testing.assert_close(out[2], nobody[2])
    one = run(unet, Branches(people[:, :1]))
    torch.testing.assert_close(out[1], one[1])
    assert not torch.allclose(out[0], one[0], atol=1e-3)


def test_gradient_checkpointing_changes_nothing(unet):
    gradients = []
    for checkpointing in (False, True):
        trained = copy.deepcopy(unet).train().requires_grad_(True)
        if checkpointing:
            trained.enable_gradient_checkpointing()
        logits = {}
        torch.manual_seed(3)
        out = run(trained, Branches(draw(2, 2, TOKENS, 12), logits=logits))
        loss = out.square().sum() + sum(each.square().mean() for each in dict(logits).values())
        loss.backward()
        gradients.append({name: p.grad for name, p in trained.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_regions_hold_people_in_their_places(unet):
    people = draw(1, 2, TOKENS, 12)
    regions = torch.zeros(1, 2, 8, 8)
    regions[:, 0] = 1
    with torch.no_grad():
        first = run(unet, Branches(people, regions=regions))
        torch.testing.assert_close(first, run(unet, Branches(people[:, :1])))
        halves = run(unet, Branches(people, regions=torch.ones(1, 2, 8, 8)))
        same = run(unet, Branches(people[:, :1].expand(-1, 2, -1, -1), regions=torch.ones(1, 2, 8, 8)))
    torch.testing.assert_close(same, first)
    assert not torch.allclose(halves, first, atol=1e-3)


def test_what_is_constant_over_steps_is_made_once_and_anew_when_weights_change(unet):
    unet = copy.deepcopy(unet)
    counts = dict.fromkeys(("to_k_faceid", "to_v_faceid", "to_k_router", "aggr_router"), 0)

    def count(part):
        def hook(*_):
            counts[part] += 1

        return hook

    processors = [p for p in unet.attn_processors.values() if isinstance(p, DecoupledAttention)]
    for processor in processors:
        for part in counts:
            processor.get_submodule(part).register_forward_hook(count(part))
    embeds = [draw(2, 2, TOKENS, 12)]
    with torch.no_grad():
        for _ in range(3):  # as a pipeline of diffusers does, with the same tensors at each step
            unet(
                draw(2, 4, 8, 8),
                torch.tensor(10),
                encoder_hidden_states=draw(2, 3, 12),
                added_cond_kwargs={"image_embeds": embeds},
            )
        assert set(counts.values()) == {len(processors)}
        branches = Branches(draw(2, 2, TOKENS, 12))
        before = run(unet, branches)
        processors[0].to_v_faceid.weight.mul_(2)
        assert not torch.equal(run(unet, branches), before)
        embeds[0].mul_(2)
        first = unet.encoder_hid_proj(embeds)
        assert unet.encoder_hid_proj(embeds) is first
        embeds[0].mul_(2)
        assert unet.encoder_hid_proj(embeds) is not first


def test_new_branches_start_as_copies_of_the_texts():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**UNET)
    add_branches(unet, num_tokens=TOKENS, router={"hard": True, "temperature": 1.0})
    for name, processor in unet.attn_processors.items():
        if isinstance(processor, DecoupledAttention):
            attention = unet.get_submodule(name.removesuffix(".processor"))
            assert torch.equal(processor.to_k_faceid.weight, attention.to_k.weight)
            assert torch.equal(processor.to_v_faceid.weight, attention.to_v.weight)
            mean = processor.aggr_router(torch.eye(TOKENS)).squeeze(-1)
            torch.testing.assert_close(mean, torch.full((TOKENS,), 1 / TOKENS))
    other = UNet2DConditionModel(**UNET)
    add_branches(other, num_tokens=TOKENS, copy_text=False)
    layer = next(p for p in other.attn_processors.values() if isinstance(p, DecoupledAttention))
    assert not hasattr(layer, "aggr_router")


def test_messages_say_what_is_missing(unet):
    with pytest.raises(ValueError, match="2 people, but the network has no router"):
        run(make(router=None), Branches(draw(1, 2, TOKENS, 12)))
    run_list = {"image_embeds": [draw(1, TOKENS, 12)]}
    with pytest.raises(ValueError, match=r"give \[people\] or \[image, people\]"):
        unet(draw(1, 4, 8, 8), 1, encoder_hidden_states=draw(1, 3, 12), added_cond_kwargs=run_list)


def test_the_grid_of_a_layer():
    assert grid_of(64 * 48, 64, 48) == (64, 48)
    assert grid_of(7 * 4, 13, 7) == (7, 4)
    assert grid_of(4 * 2, 13, 7) == (4, 2)


def test_samples_that_are_nobody_need_no_router(unet):
    """The first half of guidance, in which all places hold the same tokens."""
    nobody = draw(1, 1, TOKENS, 12).expand(1, 2, -1, -1)
    people = torch.cat([nobody, draw(1, 2, TOKENS, 12)])
    with torch.no_grad():
        expected = run(unet, Branches(people))
        torch.testing.assert_close(run(unet, Branches(people, alike=1)), expected)


def test_keys_of_the_text_are_made_anew_for_another_text_or_other_weights(unet):
    unet = copy.deepcopy(unet)
    branches, text = Branches(draw(1, 2, TOKENS, 12)), draw(1, 3, 12)

    def predict(branches):
        inputs = {"encoder_hidden_states": text, "added_cond_kwargs": {"image_embeds": branches}}
        return unet(draw(1, 4, 8, 8), torch.tensor(10), **inputs).sample

    layer = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    calls = []
    layer.to_k.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        first = predict(branches)
        assert torch.equal(predict(branches), first)
        assert len(calls) == 1
        text.mul_(2)
        assert torch.equal(predict(branches), predict(Branches(branches.people)))
        layer.to_k.weight.data = layer.to_k.weight.data * 2
        assert torch.equal(predict(branches), predict(Branches(branches.people)))
        assert not torch.equal(predict(branches), first)
