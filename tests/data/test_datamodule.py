"""The datamodule under a real Lightning Trainer: what systems see, and that resumed runs see the same."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from portraitgen.data.datamodule import ShardDataModule
from portraitgen.data.sample import DataError
from portraitgen.data.shards import ShardWriter
from tests.data.modules import clip_module, photo_module
from tests.data.photos import Person, photo
from tests.synthetic import synthetic_clip, synthetic_frames

NUM_CLIPS = 5

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    with ShardWriter(folder, max_samples=3) as writer:
        for seed in range(NUM_CLIPS):
            writer.write(synthetic_clip(f"person{seed}", num_frames=40, size=32, seed=seed))
    return folder


def datamodule(root: Path, **settings) -> ShardDataModule:
    """Epochs of 4 batches."""
    settings = {"batch_size": 2, "seed": 1, "samples_per_epoch": 8, **settings}
    shards = [str(root / "shards" / "train-{000000..000001}.tar")]
    if "people" in settings:
        return photo_module(shards, **settings)
    return clip_module(shards, **{"clip_frames": 3, "snap_keyframes": False, **settings})


class Recorder(LightningModule):
    """Learns one weight and writes down every batch that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple] = []
        self.graded: list[tuple] = []

    def training_step(self, batch, index):
        if "image" in batch:
            self.seen.append(
                (batch["key"], batch["image"].mean(dim=(1, 2, 3)).tolist(), batch["boxes"].tolist())
            )
            return (batch["image"].mean() - self.weight) ** 2
        self.seen.append((batch["key"], batch["frame_index"].tolist(), batch["reference_index"].tolist()))
        return (batch["frames"].mean() - self.weight) ** 2

    def validation_step(self, batch, index):
        self.graded.append((batch["key"], batch["frame_index"].tolist()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(root, folder, *, max_steps, ckpt_path=None, trainer_settings=None, **settings):
    module = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")],
        **(trainer_settings or {}),
    )
    trainer.fit(module, datamodule=datamodule(root, **settings), ckpt_path=ckpt_path, weights_only=True)
    return module


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4, 5, 8])
def test_resumed_training_sees_what_the_uninterrupted_sees(root, tmp_path, num_workers, stop):
    """Stops in mid-epoch (1, 5) and at a border (4, 8), from a checkpoint saved right after the batch."""
    whole = train(root, tmp_path / "whole", max_steps=10)
    first = train(root, tmp_path / "part", max_steps=stop, num_workers=num_workers)
    checkpoint = tmp_path / "part" / f"step={stop}.ckpt"
    rest = train(root, tmp_path / "part", max_steps=10, ckpt_path=checkpoint, num_workers=num_workers)
    assert len(whole.seen) == 10
    assert first.seen + rest.seen == whole.seen
    assert torch.equal(rest.weight, whole.weight)


@pytest.mark.parametrize("settings", [{"size": 32}, {"buckets": [[48, 32], [32, 48]]}])
def test_resumed_training_on_photos_sees_what_the_uninterrupted_sees(tmp_path, settings):
    with ShardWriter(tmp_path / "photos", max_samples=3) as writer:
        for number in range(NUM_CLIPS):
            size = (64, 96) if number % 2 else (96, 64)
            writer.write(photo(f"photo{number}", size, [Person(0, 0, 64, seed=number)], seed=number))
    settings = {**settings, "people": 2, "flip": 0.5, "num_workers": 2}
    whole = train(tmp_path / "photos", tmp_path, max_steps=10, **settings)
    rest = train(tmp_path / "photos", tmp_path, max_steps=10, ckpt_path=tmp_path / "step=3.ckpt", **settings)
    assert len(whole.seen) == 10
    assert rest.seen == whole.seen[3:]
    assert torch.equal(rest.weight, whole.weight)


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_resuming_from_a_checkpoint_of_a_run_that_went_on(root, tmp_path, stop):
    """As after kill -9: the last checkpoint is older than the last step."""
    whole = train(root, tmp_path, max_steps=10, num_workers=2)
    rest = train(root, tmp_path, max_steps=10, ckpt_path=tmp_path / f"step={stop}.ckpt", num_workers=2)
    assert rest.seen == whole.seen[stop:]
    assert torch.equal(rest.weight, whole.weight)


def test_resuming_with_validation_and_gradient_accumulation(root, tmp_path):
    settings = {
        "train_span": (0, 0.75),
        "val_span": (0.75, 1),
        "num_workers": 2,
        "trainer_settings": {
            "accumulate_grad_batches": 2,
            "val_check_interval": 3,
            "num_sanity_val_steps": 1,
        },
    }
    whole = train(root, tmp_path, max_steps=5, **settings)
    rest = train(root, tmp_path, max_steps=5, ckpt_path=tmp_path / "step=3.ckpt", **settings)
    assert len(whole.seen) == 10
    assert rest.seen == whole.seen[6:]
    assert torch.equal(rest.weight, whole.weight)
    assert all(index >= 30 for _, frames in whole.graded for clip in frames for index in clip)
    assert all(index < 30 for _, frames, _ in whole.seen for clip in frames for index in clip)


def test_limited_epochs_go_on_in_the_stream(root, tmp_path):
    limited = train(root, tmp_path / "limited", max_steps=6, trainer_settings={"limit_train_batches": 3})
    assert limited.seen == train(root, tmp_path / "whole", max_steps=6).seen


def test_systems_see_pictures_in_minus_one_to_one(root):
    module = datamodule(root, pose_size=(64, 48), val_span=(0, 1), reference="first")
    raw = next(iter(module.val_dataloader()))
    batch = module.on_after_batch_transfer(raw, 0)
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in batch.items() if name != "key"}
    assert shapes == {
        "frames": ((2, 3, 3, 32, 32), torch.float32),
        "frame_index": ((2, 3), torch.int64),
        "position": ((2,), torch.int64),
        "landmarks": ((2, 3, 68, 2), torch.float32),
        "reference": ((2, 3, 32, 32), torch.float32),
        "reference_index": ((2,), torch.int64),
        "reference_landmarks": ((2, 68, 2), torch.float32),
        "pose": ((2, 3, 3, 64, 48), torch.float32),
    }
    assert batch["reference_index"].tolist() == [0, 0]
    assert batch["pose"].min() == -1
    assert 0.5 < batch["pose"].max() <= 1
    drawn = synthetic_frames(batch["landmarks"][0].numpy(), 32, seed=int(batch["key"][0][6]))
    truth = torch.from_numpy(drawn).permute(0, 3, 1, 2) / 127.5 - 1
    assert (batch["frames"][0] - truth).abs().mean() < 0.04


def test_pictures_follow_the_precision_of_the_run(root):
    module = datamodule(root, val_span=(0, 1))
    raw = next(iter(module.val_dataloader()))
    batch = module.on_after_batch_transfer(raw | {"landmarks": raw["landmarks"].bfloat16()}, 0)
    assert batch["frames"].dtype == batch["reference"].dtype == torch.bfloat16


def test_batches_are_per_device(root):
    module = datamodule(root, batch_size=3)
    assert len(module.train_dataloader()) == 8 // 3
    with pytest.raises(DataError, match=r"8 samples is less than one batch of 9 .* \(5 samples can be"):
        datamodule(root, batch_size=9).train_dataloader()
    assert len(datamodule(root, samples_per_epoch=None).train_dataloader()) == NUM_CLIPS // 2


def test_no_grading_without_span_or_shards(root):
    assert datamodule(root).val_dataloader() == []
    assert len(datamodule(root, val_shards=str(root / "shards" / "*-000001.tar")).val_dataloader()) == 1


def test_overlapping_spans_are_reported(root, caplog):
    datamodule(root, val_span=(0.5, 1))
    assert "data.val_span [0.5, 1] overlaps data.train_span" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_span": [0.5]}, "data.train_span must be a pair"),
        ({"train_span": None}, r"data.train_span must be a pair, such as \[0, 1\], found null"),
        ({"train_span": 0.5}, "data.train_span must be a pair, .* found 0.5"),
        ({"val_span": ["a", "b"]}, "data.val_span .* must be a range within"),
        ({"filters": {"min_face": 64}}, "data.filters.min_face must be a pair, .* found 64"),
        ({"pose_size": [1, 2, 3]}, "data.examples.pose_size must be a side or a pair"),
        ({"filters": {"min_face": [1]}}, "data.filters.min_face must be a pair"),
    ],
)
def test_malformed_settings_are_named(root, settings, message):
    with pytest.raises(DataError, match=message):
        datamodule(root, **settings)


@pytest.mark.gpu
def test_pinned_batches_arrive_whole_on_the_gpu(root, tmp_path):
    """Slabs are reused while copies to the GPU are under way."""
    expected = train(root, tmp_path / "cpu", max_steps=40)
    module = Recorder()
    trainer = Trainer(
        accelerator="gpu",
        devices=1,
        max_steps=40,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, datamodule=datamodule(root, num_workers=2))
    assert module.seen == expected.seen
    torch.testing.assert_close(module.weight.cpu(), expected.weight.cpu(), rtol=1e-5, atol=1e-6)
