import json

import numpy as np
import pytest
import torch
from torch import nn

from portraitgen.metrics.feature_metric import deep3d_expression
from portraitgen.metrics.frechet import (
    FrechetDistance,
    consisid_frechet_distance,
    frechet_distance,
    small_sample_bias,
)
from tests.metrics.sets import two_sets

CASES = ["full_rank", "identical", "rank_deficient_n12_d32", "shift_only", "efid_64d"]


def moments(features):
    return features.double().mean(dim=0), torch.cov(features.double().mT)


def distance(x, y, batch=32):
    metric = FrechetDistance(nn.Identity(), num_features=x.shape[1])
    for real, samples in ((True, x), (False, y)):
        for chunk in samples.split(batch):
            metric.update(chunk, real=real)
    return metric.compute()


@pytest.fixture
def sets():
    return two_sets()


@pytest.mark.golden
@pytest.mark.parametrize("case", CASES)
def test_distance_is_that_of_the_reference_implementations(goldens, case):
    expected = json.loads((goldens / "metrics_frechet.json").read_text())["cases"][case]
    arrays = np.load(goldens / "metrics_frechet.npz", allow_pickle=False)
    x, y = (torch.from_numpy(arrays[f"{case}__{name}"]) for name in "xy")
    found = distance(x, y)
    assert found >= 0
    assert found.dtype == torch.float64
    for reference in ("styleganv_compute_fvd", "cleanfid"):
        assert found.item() == pytest.approx(expected[reference], rel=1e-6, abs=1e-6)
    assert found.item() == pytest.approx(expected["torchmetrics"], rel=1e-6, abs=1e-4)


@pytest.mark.golden
@pytest.mark.parametrize("case", CASES)
def test_consisid_variant_is_theirs(goldens, case):
    expected = json.loads((goldens / "metrics_frechet.json").read_text())["cases"][case]
    arrays = np.load(goldens / "metrics_frechet.npz", allow_pickle=False)
    x, y = (moments(torch.from_numpy(arrays[f"{case}__{name}"])) for name in "xy")
    found = consisid_frechet_distance(*x, *y).item()
    assert found == pytest.approx(expected["consisid_eigh_on_product"], rel=1e-6, abs=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize("index", range(4))
def test_distance_beside_consisid_evaluation(goldens, index):
    case = json.loads((goldens / "consisid_eval_fid.json").read_text())["cases"][index]
    random = np.random.RandomState(case["seed"])
    (num_x, dimensions), (num_y, _) = case["shapes"]
    copies = 2 if case["identical_rows"] else 1
    x = random.randn(num_x // copies, dimensions).astype(np.float32).repeat(copies, axis=0)
    y = (random.randn(num_y // copies, dimensions) + 0.3).astype(np.float32).repeat(copies, axis=0)
    x, y = moments(torch.from_numpy(x)), moments(torch.from_numpy(y))
    assert frechet_distance(*x, *y).item() == pytest.approx(case["true_fid"], rel=1e-5)
    assert consisid_frechet_distance(*x, *y).item() == pytest.approx(case["official_fid"], rel=1e-4)


def test_identical_sets_with_fewer_samples_than_features_are_at_zero():
    x = torch.randn(10, 64, generator=torch.Generator().manual_seed(0)) * 30
    assert 0 <= distance(x, x.flip(0)) < 1e-6


def test_rank_deficient_distance_is_that_of_the_data_matrices():
    """Tr (Σx Σy)^½ is the nuclear norm of A Bᵀ with Σx = AᵀA and Σy = BᵀB, which are small here."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(size, 200, generator=generator).double() for size in (7, 5))
    a, b = ((data - data.mean(dim=0)) / (len(data) - 1) ** 0.5 for data in (x, y))
    expected = (x.mean(dim=0) - y.mean(dim=0)).square().sum() + a.square().sum() + b.square().sum()
    expected -= 2 * torch.linalg.matrix_norm(a @ b.mT, "nuc")
    torch.testing.assert_close(frechet_distance(*moments(x), *moments(y)), expected, rtol=1e-8, atol=0)


def test_distance_depends_on_neither_batch_size_nor_order(sets):
    x, y = sets
    expected = frechet_distance(*moments(x), *moments(y))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    for batch in (1, 7, 60):
        torch.testing.assert_close(distance(x[order], y.flip(0), batch), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("num_real", "num_generated"), [(7, 5), (8, 8), (9, 5), (5, 30), (30, 20)])
def test_few_samples_are_kept_and_many_are_summed_and_the_figures_do_not_tell(num_real, num_generated):
    generator = torch.Generator().manual_seed(0)
    real, generated = (torch.randn(n, 8, generator=generator) for n in (num_real, num_generated))
    metric = FrechetDistance(nn.Identity(), num_features=8)
    for samples, is_real in ((real, True), (generated, False)):
        for batch in samples.split(3):
            metric.update(batch, real=is_real)
    expected = frechet_distance(*moments(real), *moments(generated))
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-8, atol=1e-9)
    bias = small_sample_bias(moments(real)[1], num_real, num_generated)
    assert metric.bias() == pytest.approx(bias, rel=1e-8)
    held = sum(len(state) for name in ("real", "generated") for state in getattr(metric, f"{name}_samples"))
    held += sum(len(state) for name in ("real", "generated") for state in getattr(metric, f"{name}_sums"))
    assert held <= 2 * (1 + 8 + 8 * 8)


@pytest.mark.parametrize(("dimensions", "samples"), [(16, 400), (32, 1000)])
def test_bias_of_finite_samples_is_what_is_stated(dimensions, samples):
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(0.5, 2, dimensions)
    pairs = (torch.randn(2, samples, dimensions, generator=generator) * scale for _ in range(20))
    found = torch.stack([frechet_distance(*moments(x), *moments(y)) for x, y in pairs])
    stated = small_sample_bias(scale.square().diag(), samples, samples)
    assert found.mean().item() == pytest.approx(stated, rel=0.06)


def test_stated_bias_of_the_unit_gaussian():
    assert small_sample_bias(torch.eye(64), 1000, 1000) == pytest.approx((64 + 64 * 65 / 4) / 500)


def test_too_few_samples():
    metric = FrechetDistance(nn.Identity(), num_features=8)
    metric.update(torch.randn(1, 8), real=True)
    metric.update(torch.randn(5, 8), real=False)
    with pytest.raises(ValueError, match=r"at least 2 samples .* got 1 real and 5 generated"):
        metric.compute()
    metric.update(torch.randn(4, 8), real=True)
    assert metric.compute() >= 0
    assert metric.bias() > 0


def test_feature_network_stays_in_evaluation_mode_and_its_output_is_checked():
    network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.9))
    metric = FrechetDistance(network, num_features=8)
    metric.train()
    assert not network.training
    assert not network[1].training
    assert not any(parameter.requires_grad for parameter in metric.parameters())
    wrong = FrechetDistance(network, num_features=9)
    with pytest.raises(ValueError, match=r"gave \[2, 8\] .* expected \[B, 9\]"):
        wrong.update(torch.zeros(2, 4), real=True)
    with pytest.raises(ValueError, match="NaN"):
        metric.update(torch.full((2, 4), torch.nan), real=True)


def test_expression_coefficients_are_read_where_they_are():
    coefficients = torch.arange(257.0).expand(3, -1)
    metric = FrechetDistance(deep3d_expression, num_features=64)
    metric.update(coefficients, real=True)
    torch.testing.assert_close(metric.real_samples[0], torch.arange(80.0, 144.0).double().repeat(3))
    with pytest.raises(ValueError, match=r"\[B, 257\], got \[3, 64\]"):
        deep3d_expression(coefficients[:, :64])
