"""The floor under what networks take, of which benchmarks/evaluate.py speaks."""

import subprocess
import sys

import torch
from torch import nn

from benchmarks.flops import count_flops
from portraitgen.metrics.networks.lpips import Lpips

PROGRAM = """
import torch
from benchmarks.flops import count_calls
from portraitgen.metrics.networks.lpips import Lpips
calls = count_calls()
for count in (2, 2, 1):
    Lpips().maps(torch.zeros(count, 3, 64, 64))
print(dict(calls))
"""


def test_operations_are_two_for_each_product_of_the_convolutions():
    network, products = Lpips(), []
    for layer in network.features:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(
                lambda layer, _, maps: products.append(maps.numel() * layer.weight[0].numel())
            )
    network.maps(torch.zeros(2, 3, 64, 64))
    assert count_flops({"alexnet float32 2 3 64 64": 3}) == 3 * 2 * sum(products)


def test_calls_are_counted_by_shape():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'alexnet float32 2 3 64 64': 2, 'alexnet float32 1 3 64 64': 1}"
