"""A distance of sets inside a Lightning validation: logged at its end, the same whatever the batch size."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from portraitgen.metrics.frechet import FrechetDistance


class Brighten(lightning.LightningModule):
    """A generator of the simplest kind, graded while it trains."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.5))
        self.fid = FrechetDistance(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(432, 4)), num_features=4
        )

    def training_step(self, batch):
        return (batch[0].float() / 255 * self.gain - 0.5).square().mean()

    def validation_step(self, batch):
        (truth,) = batch
        generated = (truth * self.gain.detach()).to(torch.uint8)
        for samples, real in ((truth, True), (generated, False)):
            self.fid.update(samples.flatten(0, 1).float() / 255, real=real)

    def on_validation_epoch_end(self):
        self.log("fid", self.fid.compute().float())
        self.fid.reset()

    def configure_optimizers(self):
        return torch.optim.SGD([self.gain], lr=0.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch", [2, 5])
def test_a_distance_is_logged_over_the_whole_validation(batch, tmp_path):
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(256, (10, 4, 3, 12, 12), dtype=torch.uint8, generator=generator)
    loader = DataLoader(TensorDataset(clips), batch_size=batch)
    torch.manual_seed(0)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    module = Brighten()
    trainer.fit(module, loader, loader)
    logged = trainer.callback_metrics
    half = (clips * 0.5).to(torch.uint8).flatten(0, 1)
    fid = FrechetDistance(module.fid.features, num_features=4)
    fid.update(half.float() / 255, real=False)
    fid.update(clips.flatten(0, 1).float() / 255, real=True)
    assert logged["fid"].item() == pytest.approx(fid.compute().item(), rel=1e-4)
