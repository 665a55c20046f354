"""Our own sampling, which generate.py uses, against the official one."""

import pytest
import torch
from diffusers import DDIMScheduler

from portraitgen.diffusion.latents import PixelCodec
from portraitgen.nn.text.encoding import TextEncoding
from portraitgen.systems.uniportrait.photos import photo_sets
from portraitgen.systems.uniportrait.pipeline import UniPortraitPipeline
from tests.systems.uniportrait import golden


@pytest.fixture(scope="module")
def known(shared):
    return golden.tensors(shared)


@pytest.fixture(scope="module")
def pipeline(shared, key_seeded):
    settings = {k: v for k, v in golden.config(shared)["scheduler"].items() if not k.startswith("_")}
    return UniPortraitPipeline(
        golden.network(shared),
        PixelCodec(factor=8),
        scheduler=DDIMScheduler(**settings),
        features=golden.features(shared, key_seeded),
        num_steps=4,
    )


def crops(known, *people):
    """[1, N, J, 3, 224, 224] of the numbers of each person's pictures."""
    pictures = known["images_u8"].movedim(-1, 1) / 127.5 - 1
    return torch.stack([pictures[[*numbers]] for numbers in people])[None]


def draw(pipeline, known, people, **options):
    text, negative = (
        TextEncoding(known[name], torch.ones(known[name].shape[:2], dtype=torch.bool))
        for name in ("gen_pos", "gen_neg")
    )
    rows = len(text.embeds)
    people = tuple(each.expand(rows, -1, -1, -1) for each in people)
    return pipeline.sample_latents(text, negative, people, known["gen_init_latents_seed11"], **options)


CASES = {
    "gen_none": ((), None, None),
    "gen_single": (((0,),), None, None),
    "gen_single_multiref": (((0, 1, 2),), None, None),
    "gen_single_mix": (((0, 1, 2),), [[0.25, 0.35]], None),
    "gen_multi2": (((0,), (1,)), None, None),
    "gen_ip_single": (((0,),), None, 4),
}
"""Case → pictures of each person, shares of the last of them, and the picture that is an image prompt."""


@pytest.mark.golden
@pytest.mark.parametrize("case", CASES)
def test_what_is_drawn_is_the_official_picture(pipeline, known, case):
    if case not in known:
        pytest.skip(f"{case} is held back")
    pictures, mix, prompt = CASES[case]
    people = (torch.zeros(1, 0, 16, 32),) * 2
    if pictures:
        sets = photo_sets([len(numbers) for numbers in pictures], mix)
        people = pipeline.embed_people(crops(known, *pictures), sets=sets)
    image = None if prompt is None else pipeline.features.clip(crops(known, (prompt,))[0, 0])
    found = draw(pipeline, known, people, image=None if image is None else image.expand(2, -1, -1))
    torch.testing.assert_close(found, known[case], rtol=0, atol=1e-4)


@pytest.mark.golden
def test_mixed_tokens_are_the_sum_of_those_of_each_set(pipeline, known):
    """Officially the photos of a person are one set, and others are added to it one by one."""
    faces = crops(known, (0, 1, 2, 3))
    mixed, nobody = pipeline.embed_people(faces, sets=photo_sets([4], [[0.25, 0.35]]))
    first, second, third = (
        pipeline.embed_people(faces[:, :, part])[0] for part in (slice(0, 2), slice(2, 3), slice(3, 4))
    )
    torch.testing.assert_close(mixed, 0.4 * first + 0.25 * second + 0.35 * third, rtol=0, atol=1e-5)
    torch.testing.assert_close(nobody, pipeline.embed_people(faces[:, :, :1])[1])
    padded = torch.cat([crops(known, (0, 1)), crops(known, (2, 3))], dim=1)
    alone, _ = pipeline.embed_people(padded, sets=photo_sets([1, 2], [[], [0.5]]), structure_scale=0.1)
    torch.testing.assert_close(alone[:, 0], known["faceid_single_embeds"], rtol=0, atol=1e-4)
