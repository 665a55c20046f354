"""Training steps of two processes under DDP are those of one with both batches."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from portraitgen.diffusion.conditions import ConditionMasks
from tests.systems.consisid import tiny

ROWS = 4
SCRIPT = """
import sys, torch
from tests.systems.consisid.test_two_processes import gradients
rank, store, stage, out = int(sys.argv[1]), *sys.argv[2:]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
found = gradients(stage, slice(2 * rank, 2 * rank + 2), distributed=True)
if rank == 0:
    torch.save(found, out)
torch.distributed.destroy_process_group()
"""


class Step(nn.Module):
    """The loss of a step, with noise and times that belong to the rows."""

    def __init__(self, stage):
        super().__init__()
        self.module = tiny.build(stage)
        for name, parameter in self.module.network.named_parameters():
            trains = stage == "global" or any(
                part in name for part in ("local_facial", "perceiver", ".lora_")
            )
            if stage == "wan":
                trains = "face" in name or "facial" in name or ".lora_" in name
            parameter.requires_grad_(trains)
            if ".lora_B" in name or "face_gate" in name:
                torch.nn.init.constant_(parameter, 0.1)
        self.train()

    def forward(self, rows):
        whole = tiny.batch(ROWS, masks=True)
        source = torch.Generator().manual_seed(1)
        noise = torch.randn(ROWS, 2, 192, 16, 16, generator=source)
        time = self.module.objective.sample_time(ROWS, step=0, device="cpu", generator=source)
        batch = {name: value[rows] for name, value in whole.items()}
        self.module.eval()  # nothing is drawn
        encoded = self.module.encode(batch)
        self.module.train()
        noised = self.module.objective.noise(encoded.clean, time[rows], noise=noise[rows])
        denoised = self.module.denoise(noised.noisy, noised.time, encoded.conditions, ConditionMasks())
        return self.module.objective.loss(denoised.prediction, noised, encoded.mask, masked=0.5).mean()


def gradients(stage, rows, *, distributed):
    step = Step(stage)
    run = DistributedDataParallel(step, find_unused_parameters=False) if distributed else step
    run(rows).backward()
    return {name: p.grad for name, p in step.module.network.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("stage", ["global", "identity", "wan"])
def test_two_processes_are_one(stage, tmp_path, repository):
    words = [sys.executable, "-c", SCRIPT]
    more = [str(tmp_path / "store"), stage, str(tmp_path / "gradients.pt")]
    workers = [subprocess.Popen([*words, str(rank), *more], cwd=repository) for rank in range(2)]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    expected = gradients(stage, slice(0, ROWS), distributed=False)
    assert found.keys() == expected.keys()
    assert all(value is not None for value in found.values()), "every parameter that trains is used"
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-7, rtol=1e-4, msg=name)
