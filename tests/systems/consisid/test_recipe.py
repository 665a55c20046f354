"""The recipe is the paper's, its mistakes are refused early, and it needs no package of the official code."""

import json
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from portraitgen.runs.train.train import train
from tests.systems.consisid import tiny

OFFICIAL_PACKAGES = ("consisid_eva_clip", "decord", "facexlib", "insightface", "torchvision", "xformers")


@pytest.mark.parametrize("stage", ["global", "identity"])
def test_settings_are_those_of_the_paper(stage):
    config = OmegaConf.to_container(tiny.compose_experiment(f"consisid/{stage}"), resolve=False)
    model, data, trainer = config["model"], config["data"], config["trainer"]
    dropped = {name: row["probability"] for name, row in model["condition_dropout"]["table"].items()}
    assert dropped == {"text": 0.1, "picture": 0.05}
    assert model["objective"]["mask_probability"] == data["examples"]["cross_face"] == 0.5
    assert (model["reference_noise"]["mean"], model["reference_noise"]["std"]) == (-3.0, 0.5)
    assert (data["examples"]["clip_frames"], data["examples"]["stride"]) == (49, 3)
    assert 8 * data["batch_size"] * trainer["accumulate_grad_batches"] == 80, "on 8 devices"
    assert (trainer["max_steps"], trainer["precision"]) == (1800, "bf16-mixed")
    assert config["optimizer"]["lr"] == 3e-6
    assert config["lr_scheduler"]["warmup_steps"] == 200


def test_the_noise_schedule_is_the_published_one(shared):
    from diffusers import CogVideoXDPMScheduler

    published = json.loads((shared / "golden/consisid_loss_numerics.json").read_text())["scheduler_config"]
    given = OmegaConf.to_container(tiny.compose_experiment("consisid/identity").model.objective.scheduler)
    assert given.pop("_target_") == "diffusers.CogVideoXDPMScheduler"
    ours = CogVideoXDPMScheduler(**given).config
    assert {name: ours[name] for name in published if not name.startswith("_")} == {
        name: value for name, value in published.items() if not name.startswith("_")
    }


def test_a_number_of_frames_that_no_latents_stand_for_is_refused_before_training(talking_man, tmp_path):
    shards = str(talking_man / "data/shards/train-*.tar")
    config = tiny.config("global", "data.examples.clip_frames=6", shards=shards, runs=str(tmp_path))
    message = (
        r"data\.examples\.clip_frames: clips of 6 frames: this codec takes 1 \+ 4k frames, such as 5 or 9"
    )
    with pytest.raises(ValueError, match=message):
        train(config)


def test_no_package_of_the_official_code_is_needed(repository):
    program = f"""
import sys
sys.modules.update(dict.fromkeys({OFFICIAL_PACKAGES!r}))
from tests.systems.consisid import tiny
module = tiny.build("identity")
print(tuple(module.sample(tiny.batch(1)).shape))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "(1, 5, 3, 64, 64)"
