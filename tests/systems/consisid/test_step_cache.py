"""Steps without blocks: which they are, what they give, and that the next video knows nothing of them."""

from functools import partial

import numpy as np
import pytest
import torch

from portraitgen.diffusion.noise import seeded_generators
from portraitgen.systems.consisid.pipeline import ConsisIDPipeline
from portraitgen.systems.consisid.step_cache import skipped_steps
from tests.systems.consisid import test_wan, tiny
from tests.systems.consisid.test_module import with_video_vae
from tests.systems.consisid.test_pipeline import Face, scheduler, text

COGVIDEOX = (-1538.80483, 843.202495, -134.363087, 7.97131516, -0.0523162339)


def teacache(embeddings, threshold, rescale):
    """The rule step by step, as the official inference script of ConsisID states it."""
    skipped, gathered = [], 0.0
    for step, now in enumerate(embeddings):
        skip = False
        if 0 < step < len(embeddings) - 1:
            before = embeddings[step - 1]
            gathered += np.poly1d(rescale)(np.abs(now - before).mean() / np.abs(before).mean())
            skip = gathered < threshold
        if not skip:
            gathered = 0.0
        skipped.append(bool(skip))
    return skipped


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("rescale", [(1.0, 0.0), COGVIDEOX])
def test_the_steps_are_those_of_the_official_rule(threshold, rescale):
    drift = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)) * 0.08
    embeddings = torch.randn(64, generator=torch.Generator().manual_seed(1)) + drift.cumsum(0)
    found = skipped_steps(embeddings, threshold=threshold, rescale=rescale)
    assert found == teacache(embeddings.numpy(), threshold, rescale)
    assert not found[0]
    assert not found[-1]


def test_short_schedules_are_computed_whole():
    embeddings = torch.ones(2, 4)
    assert skipped_steps(embeddings, threshold=1.0, rescale=(1.0, 0.0)) == [False, False]
    assert skipped_steps(embeddings[:1], threshold=1.0, rescale=(1.0, 0.0)) == [False]
    drifting = torch.arange(1.0, 6)[:, None]
    assert not any(skipped_steps(drifting, threshold=0.0, rescale=(1.0, 0.0)))


def hosts():
    net = test_wan.network()
    test_wan.open_gates(net)
    given, face = test_wan.inputs()
    yield "wan", net.eval(), given, face, net.transformer.blocks
    net, given = tiny.network().eval(), tiny.network_inputs()
    face = {name: given.pop(name) for name in ("embedding", "hidden")}
    yield "cogvideox", net, given, face, net.transformer.transformer_blocks


@pytest.mark.parametrize(("name", "net", "given", "face", "blocks"), hosts())
@torch.no_grad()
def test_a_skipped_step_adds_what_the_blocks_last_added(name, net, given, face, blocks):
    faces = net.face_tokens(**face)
    predict = partial(net, **given, faces=faces)
    ran = []
    for block in blocks:
        block.register_forward_hook(lambda *_: ran.append(1))
    whole = predict()
    ran.clear()
    memory = net.block_memory()
    with memory.step(skip=False):
        assert torch.equal(predict(), whole)
    assert len(ran) == len(blocks)
    with memory.step(skip=True):
        again = predict()
        other = net(**given | {"noisy": given["noisy"] + 1}, faces=faces)
        no_face = predict(face_scale=0.0)
    assert len(ran) == len(blocks), "no block ran"
    torch.testing.assert_close(again, whole, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(other, whole), "what lies before the blocks is computed"
    assert torch.equal(no_face, again), "the face was read by the blocks that were skipped"
    assert torch.equal(predict(), whole), "nothing is left behind"


class Copies(torch.overrides.TorchFunctionMode):
    """Counts what is copied to the host as numbers."""

    def __init__(self):
        super().__init__()
        self.counts = {"tolist": 0, "item": 0}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in self.counts:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def test_a_video_copies_its_plan_once_and_the_next_one_begins_anew():
    module = with_video_vae().eval()
    batch = tiny.batch(2)
    parts = ("picture", "embedding", "hidden")
    faces = [Face(*(batch[f"face_{part}"][row : row + 1] for part in parts)) for row in range(2)]
    settings = {"scheduler": scheduler(), "num_steps": 8, "cache_rescale": (1.0, 0.0)}

    def drawn(face, **changed):
        pipeline = ConsisIDPipeline(module.network, module.codec, **settings | changed)
        return pipeline(text(1), text(2), face, size=(64, 64), num_frames=5, generator=seeded_generators([3]))

    ran = []
    module.network.transformer.transformer_blocks[1].register_forward_hook(lambda *_: ran.append(1))
    exact = drawn(faces[1])
    assert len(ran) == 8
    ran.clear()
    with Copies() as counted:
        plain = drawn(faces[1], cache_threshold=0.0)
    assert torch.equal(plain, exact)
    whole = dict(counted.counts)
    with Copies() as counted:
        first = drawn(faces[0], cache_threshold=0.5)
    assert counted.counts == whole, "a skipped step copies no more than one that is computed"
    assert whole["tolist"] == 1
    assert 10 <= len(ran) < 16, "some steps ran no block"
    second = drawn(faces[1], cache_threshold=0.5)
    assert not torch.equal(second, exact)
    assert not torch.equal(second, first)
    assert torch.equal(drawn(faces[1], cache_threshold=0.5), second)
