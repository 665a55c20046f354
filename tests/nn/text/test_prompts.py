"""Prompts of a batch: from captions or stored, the empty one where text is dropped, none encoded twice."""

import pytest
import torch

from portraitgen.nn.text.clip import CLIPText
from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.nn.text.pair import TextPair
from portraitgen.nn.text.prompts import Prompts
from portraitgen.nn.text.t5 import T5Text
from tests.nn.text.folders import save_clip, save_t5

CAPTIONS = ["a man talks", "two friends at the sea", "a man talks"]
LIKE = torch.zeros(1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    save_clip(folder)
    save_t5(folder, subfolder="_2")
    second = {"text_encoder": "text_encoder_2", "tokenizer": "tokenizer_2"}
    return TextPair(
        T5Text.from_pretrained(str(folder), max_tokens=9, masked=True, **second),
        CLIPText.from_pretrained(str(folder)),
    )


class Counted:
    """An encoder that notes what it is asked for."""

    def __init__(self, encoder):
        self._encoder, self.asked, self.freed = encoder, [], 0

    def encode(self, prompts, *, device="cpu"):
        self.asked.append(list(prompts))
        return self._encoder.encode(prompts, device=device)

    def offload(self):
        self._encoder.offload()

    def free(self):
        self.freed += 1
        self._encoder.free()


def stored(pair, captions):
    """A batch as the datamodule makes it of features, in half precision."""
    encoding, empty = pair.encode(captions), pair.encode([""])
    return {
        "prompt_embeds": encoding.embeds.half(),
        "prompt_mask": encoding.mask,
        "pooled_prompt_embeds": encoding.pooled.half(),
        "empty_prompt_embeds": empty.embeds.half(),
        "empty_prompt_mask": empty.mask,
        "empty_pooled_prompt_embeds": empty.pooled.half(),
    }


def test_captions_and_stored_embeddings_are_equal_dropped_or_not(pair):
    keep = torch.tensor([True, False, True])
    results = []
    for prompts, batch in (
        (Prompts(pair), {"caption": CAPTIONS}),
        (Prompts(), stored(pair, CAPTIONS)),
    ):
        text = prompts.with_empty(prompts.of_batch(batch, like=LIKE), keep)
        assert text.embeds.dtype == text.pooled.dtype == torch.float32
        results.append(text)
    computed, read = results
    torch.testing.assert_close(computed.embeds, read.embeds, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(computed.pooled, read.pooled, rtol=1e-3, atol=1e-3)
    assert torch.equal(computed.mask, read.mask)
    expected = pair.encode([CAPTIONS[0], "", CAPTIONS[2]])
    torch.testing.assert_close(computed.embeds, expected.embeds)
    assert computed.mask.sum(dim=1).tolist()[1] == 1
    assert Prompts().with_empty(read, None) is read, "nothing is dropped, so nothing is needed"


def test_a_prompt_is_encoded_once_whatever_stands_beside_it(pair):
    counted = Counted(pair)
    prompts = Prompts(counted)
    first = prompts.encode(CAPTIONS, like=LIKE)
    assert counted.asked == [["a man talks"], ["two friends at the sea"]]
    again = prompts.encode(CAPTIONS[::-1], like=LIKE)
    assert len(counted.asked) == 2
    for one, other in ((first.embeds, again.embeds), (first.pooled, again.pooled)):
        assert torch.equal(one, other.flip(0))
        assert torch.equal(one[0], one[2])
    fresh = Prompts(pair).encode(["she is singing", "two friends at the sea"], like=LIKE)
    assert torch.equal(fresh.embeds[1], first.embeds[1]), "to the bit, after a restart too"


def test_no_more_is_remembered_than_asked(pair):
    counted = Counted(pair)
    prompts = Prompts(counted, cache_size=2)
    for prompt in ("a", "b", "a", "c", "a", "b"):
        prompts.encode([prompt], like=LIKE)
    assert counted.asked == [["a"], ["b"], ["c"], ["b"]], "the one unused for longest goes"
    assert prompts.encode(["a", "b", "c", "d"], like=LIKE).embeds.shape == (4, 9, 16)
    with pytest.raises(ValueError, match=r"cache_size=0: give at least 1"):
        Prompts(cache_size=0)


def test_the_encoder_can_go_after_encoding(pair):
    counted = Counted(pair)
    prompts = Prompts(counted)
    before = prompts.encode(["a man", ""], like=LIKE)
    prompts.offload()
    prompts.free()
    assert counted.freed == 1
    assert torch.equal(prompts.encode(["a man", ""], like=LIKE).embeds, before.embeds)
    assert len(counted.asked) == 2, "what was encoded is remembered"
    prompts.encode(["the sea"], like=LIKE)
    Prompts().free()


def test_a_module_that_has_prompts_holds_none_of_their_weights(pair):
    """No weights file, checkpoint or strategy sees them, and a cast of the module leaves them as they are."""
    module = torch.nn.Linear(1, 1)
    module.prompts = Prompts(pair)
    before = module.prompts.encode(["a man"], like=LIKE)
    module.to(torch.bfloat16)
    assert [*module.state_dict()] == ["weight", "bias"]
    module.prompts.encoder.free()
    fresh = Prompts(pair).encode(["a man"], like=LIKE)
    assert torch.equal(fresh.embeds, before.embeds)
    assert torch.equal(fresh.pooled, before.pooled)


def test_stored_embeddings_leave_the_encoder_alone(pair):
    """Training from features and sampling with an empty negative prompt never load it."""
    counted = Counted(pair)
    prompts = Prompts(counted)
    text = prompts.of_batch(stored(pair, CAPTIONS), like=LIKE)
    prompts.with_empty(text, torch.tensor([False, True, True]))
    empty = prompts.encode([""], like=LIKE.to(torch.bfloat16))
    assert empty.embeds.dtype == torch.bfloat16
    assert counted.asked == []


def test_what_is_missing_is_said(pair):
    with pytest.raises(ValueError, match=r"neither captions nor embeddings of prompts: compute them with"):
        Prompts(pair).of_batch({"key": ["a"]}, like=LIKE)
    with pytest.raises(ValueError, match=r"no text encoder for the prompt 'a man talks'"):
        Prompts().of_batch({"caption": CAPTIONS}, like=LIKE)
    batch = {name: value for name, value in stored(pair, CAPTIONS).items() if "empty" not in name}
    prompts = Prompts()
    text = prompts.of_batch(batch, like=LIKE)
    with pytest.raises(ValueError, match=r"no text encoder for the prompt ''"):
        prompts.with_empty(text, torch.tensor([True, False, True]))


def test_an_encoding_travels_as_conditions(pair):
    for encoding in (pair.encode(CAPTIONS), TextEncoding(torch.ones(1, 2, 3), torch.ones(1, 2).bool())):
        back = TextEncoding.from_conditions(encoding.conditions())
        assert back.embeds is encoding.embeds
        assert back.mask is encoding.mask
        assert back.pooled is encoding.pooled
