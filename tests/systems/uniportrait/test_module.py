"""What a training step drops, and what it hands to losses."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from portraitgen.diffusion.conditions import ConditionMasks
from portraitgen.losses.routing import RoutingLoss
from portraitgen.nn.decoupled_attention import Branches
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.systems.uniportrait.structure_dropout import StructureDropout
from tests.systems.uniportrait import tiny


@pytest.fixture
def module():
    return tiny.build("stage2").eval()


def test_structure_is_dropped_as_often_as_the_paper_says():
    torch.manual_seed(0)
    branch, seen = StructureDropout().draw(20000, 64, device="cpu")
    whole = branch & seen.all(dim=1)
    thinned = branch & ~seen.all(dim=1)
    for found, expected in ((~branch, 0.33), (thinned, 0.33), (whole, 0.34)):
        assert found.float().mean().item() == pytest.approx(expected, abs=0.01)
    assert seen.any(dim=1).all()
    assert seen[thinned].float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert seen[~branch].all(), "a branch that is dropped need not be masked too"
    _, seen = StructureDropout(branch=0, tokens=1, keep="uniform").draw(20000, 64, device="cpu")
    shares = seen.float().mean(dim=1)
    assert shares.mean().item() == pytest.approx(0.5, abs=0.02)
    assert shares.std().item() == pytest.approx(12**-0.5, abs=0.02)
    _, seen = StructureDropout(branch=0, tokens=1, keep=0.001).draw(2000, 64, device="cpu")
    assert seen.any(dim=1).all(), "never all tokens"


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_people_are_missing_in_one_sample_of_twenty_as_the_paper_says(stage):
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"experiment=uniportrait/{stage}", "data.shards=none.tar"])
    torch.manual_seed(0)
    masks = instantiate(config.model.condition_dropout, _convert_="all").draw(100_000, device="cpu")
    for name in ("people", "text"):
        assert (~masks.keep[name]).float().mean().item() == pytest.approx(0.05, abs=0.003)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branch": 0.6, "tokens": 0.6}, "at most 1 in all"),
        ({"keep": 0.0}, "a share above 0"),
        ({"keep": "half"}, "a share above 0"),
    ],
)
def test_drops_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        StructureDropout(**options)


def test_another_photo_says_who_it_is_and_never_how_they_look(module):
    batch = tiny.batch()
    batch["other_found"][0, 1] = True
    module.structure_dropout = None
    own, other = (module.features(batch[name].flatten(0, 1)) for name in ("faces", "other"))
    with torch.no_grad():
        validated = module.encode(batch).conditions
        trained = module.train().encode(batch).conditions
    assert torch.equal(validated["intrinsic"].flatten(0, 1), own[0])
    assert torch.equal(trained["structure"].flatten(0, 1), own[1])
    expected = own[0].clone()
    expected[1] = other[0][1]
    assert torch.equal(trained["intrinsic"].flatten(0, 1), expected)


def test_nothing_is_dropped_in_validation_and_each_face_is_dropped_on_its_own(module):
    batch = tiny.batch(rows=8)
    conditions = module.encode(batch).conditions
    assert conditions["structure_branch"].all()
    assert conditions["structure_seen"].all()
    torch.manual_seed(1)
    conditions = module.train().encode(batch).conditions
    branch = conditions["structure_branch"]
    assert branch.shape == (8, 2)
    assert (branch[:, 0] != branch[:, 1]).any()


def predict(module, conditions, masks=None):
    torch.manual_seed(5)
    noisy, time = torch.randn(2, 48, 16, 16), torch.tensor([10, 500])
    with torch.no_grad():
        return module.denoise(noisy, time, conditions, masks or ConditionMasks()).prediction


def test_dropped_people_become_what_stands_for_nobody_in_sampling(module):
    for parameter in module.network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    batch = tiny.batch()
    conditions = module.encode(batch).conditions
    found = predict(module, conditions, ConditionMasks(keep={"people": torch.tensor([True, False])}))
    whole = predict(module, conditions)
    assert torch.equal(found[0], whole[0])
    assert not torch.allclose(found[1], whole[1], atol=1e-3)
    _, nobody = module.pipeline.embed_people(batch["faces"][:, :, None], structure_scale=1.0)
    branches = Branches(nobody)
    torch.manual_seed(5)
    noisy, time = torch.randn(2, 48, 16, 16), torch.tensor([10, 500])
    with torch.no_grad():
        without = module.network(noisy, time, text=conditions["text"], branches=branches)
    torch.testing.assert_close(found[1], without[1])


def test_the_branch_is_scaled_by_nothing_where_it_is_dropped(module):
    for parameter in module.network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    conditions = module.encode(tiny.batch()).conditions
    before = predict(module, conditions)
    conditions["structure_branch"][0] = False
    dropped = predict(module, conditions)
    conditions["structure"] = torch.randn_like(conditions["structure"])
    other = predict(module, conditions)
    assert torch.equal(dropped[0], other[0])
    assert not torch.allclose(before[0], dropped[0], atol=1e-4)
    assert not torch.allclose(before[1], other[1], atol=1e-4)


def test_router_logits_are_given_by_layer_to_whom_asks(module):
    batch = tiny.batch()
    batch["people"][1, 1] = False
    conditions = module.encode(batch).conditions
    noisy, time = torch.randn(2, 48, 16, 12), torch.tensor([10, 500])
    assert not module.denoise(noisy, time, conditions, ConditionMasks()).by_products
    module.use_losses({"routing": RoutingLoss()})
    logits = module.denoise(noisy, time, conditions, ConditionMasks()).by_products["router_logits"]
    shapes = sorted({tuple(each.shape) for each in logits.values()})
    assert shapes == [(2, 2, 8, 6), (2, 2, 16, 12)]
    assert all((each[1, 1] == torch.finfo(torch.float32).min).all() for each in logits.values())
    one = tiny.build("stage1")
    one.use_losses({"routing": RoutingLoss()})
    conditions = one.encode(tiny.batch(people=1)).conditions
    assert one.denoise(noisy, time, conditions, ConditionMasks()).by_products == {"router_logits": {}}


def test_samples_do_not_depend_on_empty_places_or_on_the_batch(module):
    for parameter in module.network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    batch = tiny.batch(people=2)
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    both = module.sample(batch, generator=seeds)
    assert both.shape == (2, 3, 64, 64)
    second = {name: value[1:] for name, value in batch.items()}
    alone = module.sample(second, generator=[torch.Generator().manual_seed(2)])
    torch.testing.assert_close(alone, both[1:], rtol=0, atol=1e-4)
    padded = dict(second)
    padded["people"] = torch.cat([second["people"], torch.zeros(1, 2, dtype=torch.bool)], dim=1)
    padded["faces"] = torch.cat([second["faces"], torch.zeros_like(second["faces"])], dim=1)
    found = module.sample(padded, generator=[torch.Generator().manual_seed(2)])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)
    assert [*module.shown(batch)] == ["person 1", "person 2", "truth"]


def test_features_of_other_widths_are_refused_by_name():
    with pytest.raises(
        InstantiationException, match="structure_dim is 64, but untrained_0 and CLIP give 128"
    ):
        tiny.build("stage1", "model.network.resampler.structure_dim=64")
