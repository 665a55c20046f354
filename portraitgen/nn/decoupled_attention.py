"""Cross attention with a branch beside the text for each person, and a router between people.

UniPortrait (arXiv:2408.05939, section 3.3): the text's attention, an image prompt's (IP-Adapter,
arXiv:2308.06721) and one of each person's ID tokens have queries in common and keys and values of their own;
they are added up, those of the people after a router has given each place of the picture to one of them. It
is an attention processor of diffusers, so that all its pipelines of a U-Net work with it.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

_PROCESSOR = ".processor"


class PersonKeys(NamedTuple):
    """What a layer reads of all people: keys and values [B, N, heads, T, d], keys of the router [B, N, C].

    The router compares a place's query with these keys. Its query ends in a linear layer without a bias,
    which may as well stand in the keys, of which there are few: they are then `folded`, [B, N, 2C].
    """

    key: Tensor
    value: Tensor
    router: Tensor | None
    folded: bool = False


@dataclass(eq=False)
class Branches:
    """What cross attention reads beside the text.

    Without gradients, what a layer makes of the ID tokens and of the text is kept here: one object serves all
    denoising steps of a picture.

    Attributes:
        people: ID tokens [B, N, T, D], N may be 0.
        present: bool [B, N], False where a place of a padded batch is empty; None: all are there.
        image: tokens [B, L, D] of an image prompt.
        alike: so many samples at the beginning have the same tokens in all places (nobody, in guidance): in
            use they need no router.
        people_scale, image_scale: of the branches; at 0 they are left out.
        regions: [B or 1, N, h, w] ≥ 0 on the grid of the latents, where each person shall be, instead of what
            the router finds. Where two overlap they share, where nobody is there is nobody.
        logits: layer → [B, S, N] of the router, the smallest number where nobody is present; None does not
            keep them. Each pass writes it anew, gradient checkpointing too: copy it before the backward pass.
            A `UserDict` where the U-Net may be sharded: FSDP gives blocks copies of a dict.
    """

    people: Tensor
    present: Tensor | None = None
    image: Tensor | None = None
    alike: int = 0
    people_scale: float = 1.0
    image_scale: float = 1.0
    regions: Tensor | None = None
    logits: MutableMapping[str, Tensor] | None = None
    _kept: dict[str, tuple[tuple[int, ...], PersonKeys]] = field(default_factory=dict, repr=False)
    _text: dict[str, tuple[Tensor, tuple[Any, ...], tuple[Tensor, Tensor]]] = field(
        default_factory=dict, repr=False
    )


class BranchInputs(nn.Module):
    """Stands where a U-Net of diffusers projects the embeddings of image prompts; makes `Branches` of them.

    Pipelines give a list of tensors, `[people]` or `[image, people]`, with [B, N, T, D] people and an image
    [B, 1, L, D] (`ip_adapter_image_embeds`); what such a list cannot say stands here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.people_scale = 1.0
        self.image_scale = 1.0
        self.regions: Tensor | None = None
        self._last: tuple[tuple[Tensor, ...], tuple[int, ...], Branches] | None = None

    def forward(self, embeds: "Branches | list[Tensor]") -> Branches:
        if isinstance(embeds, Branches):
            return embeds
        if not 1 <= len(embeds) <= 2 or any(each.ndim != 4 for each in embeds):
            raise ValueError(
                "ip_adapter_image_embeds: give [people] or [image, people] with people [B, N, tokens, width] "
                f"and an image prompt [B, 1, tokens, width], not {[list(each.shape) for each in embeds]}"
            )
        branches = self._kept(embeds)
        branches.people_scale, branches.image_scale = self.people_scale, self.image_scale
        branches.regions = self.regions
        return branches

    def _kept(self, embeds: list[Tensor]) -> Branches:
        """The same object as at the last step, if these are the same tensors and nobody wrote to them."""
        image = embeds[0].flatten(1, 2) if len(embeds) == 2 else None
        if torch.is_grad_enabled():
            return Branches(embeds[-1], image=image)
        versions = tuple(each._version for each in embeds)
        if self._last is not None:
            before, known, branches = self._last
            same = len(before) == len(embeds) and all(
                old is new for old, new in zip(before, embeds, strict=True)
            )
            if same and known == versions:
                return branches
        branches = Branches(embeds[-1], image=image)
        self._last = (tuple(embeds), versions, branches)
        return branches


class DecoupledAttention(nn.Module):
    """Attention processor of one cross attention. Names of its parameters are those of the papers' files.

    Args:
        attention: whose processor it will be; keys and values of the new branches start as copies of the
            text's, as IP-Adapter's do, if `copy_text`.
        name: of the layer, for `Branches.logits`.
        num_tokens: T, of a person.
        router: None: one person; else `hard` (True: straight-through, the picture is given away as it is in
            use; False: shared softly) and `temperature` of the Gumbel-softmax in training.
        image_prompt: have a branch for one.
    """

    def __init__(
        self,
        attention: Attention,
        *,
        name: str,
        num_tokens: int,
        router: dict[str, Any] | None,
        image_prompt: bool,
        copy_text: bool,
    ) -> None:
        super().__init__()
        width, context = attention.to_q.out_features, attention.to_k.in_features
        hidden = attention.to_q.in_features
        self.name = name
        self.to_k_faceid = _like(attention.to_k, copy_text)
        self.to_v_faceid = _like(attention.to_v, copy_text)
        self.to_k_ip = _like(attention.to_k, copy_text) if image_prompt else None
        self.to_v_ip = _like(attention.to_v, copy_text) if image_prompt else None
        self.has_router = router is not None
        if router is not None:
            self.hard: bool = router["hard"]
            self.temperature: float = router["temperature"]
            self.to_q_router = _router_mlp(hidden, width)
            self.to_k_router = _router_mlp(context, width)
            # Starts as the mean over the tokens.
            self.aggr_router = nn.Linear(num_tokens, 1)
            nn.init.constant_(self.aggr_router.weight, 1 / num_tokens)
            nn.init.zeros_(self.aggr_router.bias)

    def forward(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: tuple[Tensor, Branches],
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """[B, S, C] of the layer's normalised hidden states [B, S, C]."""
        text, branches = encoder_hidden_states
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, text.shape[1], len(text))
            attention_mask = attention_mask.unflatten(0, (len(text), -1))
        if attn.norm_cross:
            text = attn.norm_encoder_hidden_states(text)
        query = _heads(attn.to_q(hidden_states), attn)
        attended = _attend(query, *self._text_keys(attn, text, branches), attention_mask)
        if branches.image is not None and branches.image_scale:
            if self.to_k_ip is None or self.to_v_ip is None:
                raise ValueError(
                    "an image prompt, but the network has no branch for it (network.image_prompt)"
                )
            image = branches.image.to(query.dtype)
            key, value = _heads(self.to_k_ip(image), attn), _heads(self.to_v_ip(image), attn)
            attended = attended + branches.image_scale * _attend(query, key, value)
        if branches.people.shape[1] and branches.people_scale:
            people = self._attend_people(attn, query, hidden_states, branches)
            attended = attended + branches.people_scale * people
        linear, dropout = attn.to_out
        return dropout(linear(attended.transpose(1, 2).flatten(2)))

    def _text_keys(self, attn: Attention, text: Tensor, branches: Branches) -> tuple[Tensor, Tensor]:
        """Keys and values [B, heads, L, d], made once where nobody wants a gradient and no adapter works
        beside the weights.
        """
        layers = (attn.to_k, attn.to_v)
        constant = not torch.is_grad_enabled() and not any(
            getattr(each, "active_adapters", ()) for each in layers
        )
        state = (text._version, *((each.weight.data_ptr(), each.weight._version) for each in layers))
        known = branches._text.get(self.name)
        if constant and known is not None and known[0] is text and known[1] == state:
            return known[2]
        made = _heads(attn.to_k(text), attn), _heads(attn.to_v(text), attn)
        if constant:
            branches._text[self.name] = text, state, made
        return made

    def _attend_people(self, attn: Attention, query: Tensor, hidden: Tensor, branches: Branches) -> Tensor:
        keys = self._keys(attn, branches)
        key, value = keys.key.to(query.dtype), keys.value.to(query.dtype)
        count, size = key.shape[1], query.shape[2]
        if branches.regions is not None:
            shares = _regions_at(branches.regions, size).to(query.dtype)
        elif count == 1:
            shares = None
        else:
            if not self.training:
                chosen = self._logits(hidden, keys, branches, skip=branches.alike).argmax(dim=-1)
                chosen = F.pad(chosen, (0, 0, branches.alike, 0))
                return _attend_chosen(query, key, value, chosen, branches.present)
            logits = self._logits(hidden, keys, branches)
            shares = straight_through(logits, hard=self.hard, temperature=self.temperature).to(query.dtype).mT
        if branches.present is not None:
            present = branches.present[:, :, None].to(query.dtype)
            shares = present if shares is None else shares * present
        repeated = query[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
        each = _attend(repeated, key.flatten(0, 1), value.flatten(0, 1)).unflatten(0, (-1, count))
        return each[:, 0] if shares is None else (shares[:, :, None, :, None] * each).sum(dim=1)

    def _keys(self, attn: Attention, branches: Branches) -> PersonKeys:
        """Of all people, made once where nobody wants a gradient."""
        if torch.is_grad_enabled():
            return self._make_keys(attn, branches.people)
        versions = tuple(parameter._version for parameter in self.parameters())
        known = branches._kept.get(self.name)
        if known is None or known[0] != versions:
            known = versions, self._make_keys(attn, branches.people)
            branches._kept[self.name] = known
        return known[1]

    def _make_keys(self, attn: Attention, people: Tensor) -> PersonKeys:
        people = people.to(self.to_k_faceid.weight.dtype)
        key, value = (
            project(people).unflatten(-1, (attn.heads, -1)).transpose(2, 3)
            for project in (self.to_k_faceid, self.to_v_faceid)
        )
        if people.shape[1] < 2:
            return PersonKeys(key, value, None)
        if not self.has_router:
            raise ValueError(f"{people.shape[1]} people, but the network has no router (network.router)")
        router = self.to_k_router(self.aggr_router(people.mT).squeeze(-1))
        weight = cast(nn.Linear, self.to_q_router[-1]).weight
        # Not where the weights are spread over processes: such layers must be called.
        folded = not torch.is_grad_enabled() and weight.shape[:1] == router.shape[-1:]
        if folded:
            router = router.float() @ weight.float()
        return PersonKeys(key, value, router, folded)

    def _logits(self, hidden: Tensor, keys: PersonKeys, branches: Branches, *, skip: int = 0) -> Tensor:
        """[B, S, N] without the first samples, in float32: products of width up to 1280 without a scale
        are beyond float16.
        """
        assert keys.router is not None
        network = self.to_q_router[:-1] if keys.folded else self.to_q_router
        query = network(hidden[skip:].to(cast(nn.Linear, self.to_q_router[0]).weight.dtype))
        with torch.autocast(hidden.device.type, enabled=False):
            logits = query.float() @ keys.router[skip:].float().mT
        if branches.present is not None:
            lowest = torch.finfo(logits.dtype).min
            logits = logits.masked_fill(~branches.present[skip:, None], lowest)
        if branches.logits is not None:
            branches.logits[self.name] = logits
        return logits


def straight_through(logits: Tensor, *, hard: bool = True, temperature: float = 1.0) -> Tensor:
    """Gumbel-softmax (arXiv:1611.01144) over the last axis.

    With `hard` the value is exactly one-hot, as in use, and the gradient that of the softmax.
    """
    noise = -torch.empty_like(logits).exponential_().log()
    soft = ((logits + noise) / temperature).softmax(dim=-1)
    if not hard:
        return soft
    chosen = torch.zeros_like(soft).scatter_(-1, soft.argmax(dim=-1, keepdim=True), 1.0)
    return chosen + (soft - soft.detach())


def add_branches(
    unet: UNet2DConditionModel,
    *,
    num_tokens: int,
    router: dict[str, Any] | None = None,
    image_prompt: bool = False,
    copy_text: bool = True,
) -> None:
    """Give all cross attentions of a U-Net their branches, in place; see `DecoupledAttention`.

    `unet.encoder_hid_proj` is then a `BranchInputs`. The U-Net always needs
    `added_cond_kwargs={"image_embeds": …}`.
    """
    processors: dict[str, Any] = dict(unet.attn_processors)
    for name in processors:
        if name.endswith(f"attn2{_PROCESSOR}"):
            layer = name.removesuffix(_PROCESSOR)
            processors[name] = DecoupledAttention(
                unet.get_submodule(layer),  # type: ignore[arg-type]
                name=layer,
                num_tokens=num_tokens,
                router=router,
                image_prompt=image_prompt,
                copy_text=copy_text,
            )
    unet.set_attn_processor(processors)
    unet.encoder_hid_proj = BranchInputs()  # type: ignore[assignment]
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")


def grid_of(size: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a layer with `size` places in a U-Net on a grid of `height` x `width`."""
    while height * width > size:
        height, width = (height + 1) // 2, (width + 1) // 2
    assert height * width == size, "each level of the U-Net halves both sides, rounding up"
    return height, width


def _like(linear: nn.Linear, copy: bool) -> nn.Linear:
    """A layer of the same widths, without bias, perhaps with the same weights."""
    made = nn.Linear(linear.in_features, linear.out_features, bias=False)
    if copy:
        with torch.no_grad():
            made.weight.copy_(linear.weight)
    return made


def _router_mlp(features: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(features, 2 * features), nn.GELU(), nn.Linear(2 * features, width, bias=False)
    )


def _heads(states: Tensor, attn: Attention) -> Tensor:
    """[B, S, C] → [B, heads, S, d]"""
    return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def _attend_chosen(
    query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, present: Tensor | None
) -> Tensor:
    """Each place [B, S] reads the tokens of the one person that was chosen for it, in one attention."""
    count, tokens = key.shape[1], key.shape[3]
    key, value = (each.transpose(1, 2).flatten(2, 3) for each in (key, value))
    owner = torch.arange(count, device=chosen.device).repeat_interleave(tokens)
    attended = _attend(query, key, value, chosen[:, None, :, None] == owner)
    if present is not None:
        attended = attended * present.any(dim=1)[:, None, None, None]
    return attended


def _regions_at(regions: Tensor, size: int) -> Tensor:
    """Shares [B, N, S] of people in the places of a layer."""
    grid = grid_of(size, *regions.shape[-2:])
    shares = F.interpolate(regions.float(), grid, mode="bilinear").flatten(2)
    return shares / shares.sum(dim=1, keepdim=True).clip(min=1e-3)
