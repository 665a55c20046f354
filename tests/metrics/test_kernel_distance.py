import pytest
import torch
from torch import nn
from torchmetrics.image.kid import poly_mmd

from portraitgen.metrics.kernel_distance import KernelDistance, polynomial_mmd
from tests.metrics.sets import two_sets


@pytest.fixture
def sets():
    return two_sets()


def test_polynomial_mmd_is_that_of_torchmetrics_and_unbiased(sets):
    x, y = sets[0][:45].double(), sets[1].double()
    torch.testing.assert_close(polynomial_mmd(x, y), poly_mmd(x, y, 3, None, 1.0))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2000, 2, 5, 4, generator=generator)
    values = torch.stack([polynomial_mmd(a, b) for a, b in drawn])
    assert abs(values.mean() / (values.std() / 2000**0.5)) < 3, "sets of 5 of one distribution: mean 0"


def kernel_distance(x, y, batch, **settings):
    metric = KernelDistance(nn.Identity(), num_features=8, subsets=10, subset_size=20, **settings)
    for real, samples in ((True, x), (False, y)):
        for chunk in samples.split(batch):
            metric.update(chunk, real=real)
    return metric.compute()


def test_kernel_distance_depends_on_neither_batch_size_nor_order(sets):
    x, y = sets
    expected = kernel_distance(x, y, 60)
    assert expected["mean"] > 3 * expected["std"] / 10**0.5, "the two sets differ"
    assert kernel_distance(x, y, 60, seed=1)["mean"] != expected["mean"]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    for batch in (1, 7):
        torch.testing.assert_close(kernel_distance(x[order], y.flip(0), batch), expected)


def test_kernel_distance_needs_whole_subsets(sets):
    x, y = sets
    with pytest.raises(ValueError, match="subset_size=20 is more than the 60 real or 19 generated"):
        kernel_distance(x, y[:19], 60)
    with pytest.raises(ValueError, match="subset_size at least 2"):
        KernelDistance(nn.Identity(), num_features=8, subset_size=1)
