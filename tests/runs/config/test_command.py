"""A user's mistake ends in one short message, a defect in a traceback; nothing is left behind."""

import errno
import logging
import os
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir

from portraitgen.media.one_writer import one_writer
from portraitgen.runs.config import command as module
from portraitgen.runs.config.check import check_config
from portraitgen.runs.config.command import command
from portraitgen.runs.config.overrides import explain
from portraitgen.runs.config.rules import check_training, setting_problems
from portraitgen.runs.config.schema import CONF, register_configs

TINY = ["experiment=aniportrait/tiny_stage1", "data.shards=shards.tar"]


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs a task as train.py would; gives exit code (0 for none), what it printed and its runs folder."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.delenv("PORTRAITGEN_TRACEBACK", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # else the first line says how many were chosen
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(task, *overrides):
        monkeypatch.setattr(sys, "argv", ["train.py", *overrides, f"paths.runs={tmp_path / 'runs'}"])
        code = 0
        try:
            command(task, config_name="train")
        except SystemExit as error:
            code = error.code
        return code, capfd.readouterr().err, tmp_path / "runs"

    yield run
    root.handlers[:], root.level = handlers, level
    module.log.handlers.clear()
    module.log.propagate = True


def test_a_task_gets_the_composed_configuration(run):
    seen = []
    code, errors, folder = run(lambda config: seen.append(config.seed), *TINY, "seed=7")
    assert (code, errors, seen) == (0, "", [7])
    assert (folder / "aniportrait/tiny_stage1").is_dir()


def test_misspelt_keys_at_any_depth_are_listed_at_once(run):
    code, errors, folder = run(
        check_config,
        *TINY,
        "sedd=1",
        "data.num_wrokers=2",
        "model.network.denoising_unet.block_out_chanels=[8]",
        "trainer.limit_val_batches=3",
    )
    assert code == 1
    assert errors.splitlines() == [
        "error: 4 problems in the configuration, nothing was started:",
        "  sedd: no such key; did you mean 'seed'?",
        "  data.num_wrokers: no such key; did you mean 'num_workers'?",
        "  model.network.denoising_unet.block_out_chanels: no such key; did you mean 'block_out_channels'?",
        "  trainer.limit_val_batches: the configuration does not set it; "
        "to add it write +trainer.limit_val_batches=3",
    ]
    assert not folder.exists()


def test_mistakes_beside_misspelt_keys_are_listed_too(run):
    code, errors, _ = run(check_config, TINY[0], "data.examples.strid=2", "trainer.devices=true")
    assert code == 1
    assert "data.examples.strid: no such key; did you mean 'stride'?" in errors
    assert "data.shards: no value given (???)" in errors
    assert "trainer.devices: expected" in errors


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer=cpuu"], "trainer: there is no 'cpuu'; did you mean 'cpu'?; known: cpu, default, slurm"),
        (
            ["experiment=aniportrait/stge1"],
            "experiment/aniportrait: there is no 'stge1'; did you mean 'stage1'?",
        ),
        (["experiment=aniportrait/tiny_stage1", "data.shards=["], "no viable alternative at input '['"),
        (
            ["experiment=aniportrait/tiny_stage1", "seed=abc"],
            "Value 'abc' of type 'str' could not be converted",
        ),
        ([], "or an experiment, which chooses for you: experiment=aniportrait/clip_stage1 | "),
    ],
)
def test_what_does_not_compose_is_explained(run, overrides, message):
    code, errors, folder = run(check_config, *overrides)
    assert code == 1
    assert message in errors
    assert "Traceback" not in errors
    assert not folder.exists()


CHOSEN = "# @package _global_\ndefaults:\n  - override /model: aniportrait_tiny\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            CHOSEN.replace("tiny", "tinny"),
            "model: there is no 'aniportrait_tinny'; did you mean 'aniportrait_t",
        ),
        (CHOSEN.replace("/model", "/modell"), "modell: no such group; did you mean 'model'?"),
        (CHOSEN + "  - override /text: clip\n", "text: nothing is chosen of it so far: leave out the word"),
        (CHOSEN + "  - /experiment/loopy/stage1\n", "Override 'model : aniportrait_tiny' is defined before"),
        (
            CHOSEN.replace("override /model", "/experimnt/loopy"),
            "experimnt: no such group; did you mean 'experiment'?",
        ),
        (CHOSEN + "nmae: mine\n", "nmae: no such key; did you mean 'name'?"),
        (CHOSEN + "seed: abc\n", "seed: Value 'abc' of type 'str' could not be converted to Integer"),
    ],
)
def test_a_mistake_in_a_file_of_ones_own_is_named_with_the_file(run, tmp_path, text, message):
    """It was said that there is no such experiment."""
    file = tmp_path / "mine/experiment/first.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    code, errors, _ = run(check_config, f"--config-dir={tmp_path / 'mine'}", "experiment=first")
    assert code == 1
    assert f"1 problem in the configuration, nothing was started:\n  {file}: {message}" in errors
    assert "Traceback" not in errors


WHOLE = "# @package _global_\ndefaults:\n  - /experiment/aniportrait/tiny_stage1\n"


@pytest.mark.parametrize(
    ("files", "words", "message"),
    [
        (
            {"experiment/first": "\n" + WHOLE + "trainer:\n  max_stpes: 3\n"},
            ["experiment=first"],
            "{experiment/first}: trainer.max_stpes: Trainer takes no such argument; did you mean 'max_st",
        ),
        (
            {"experiment/first": WHOLE + "trainer:\n  max_steps: 3\n"},
            ["experiment=first", "trainer.max_steps=abc"],
            "\n  trainer.max_steps: expected int, got 'abc'",
        ),
        (
            {"stage/mine": "_target_: portraitgen.training.stage.TrainingStage\nnmae: x\nname: x\n"},
            ["experiment=aniportrait/tiny_stage1", "stage=mine"],
            "{stage/mine}: stage.nmae: TrainingStage takes no such argument; did you mean 'name'?",
        ),
    ],
)
def test_a_wrong_setting_in_a_file_of_ones_own_is_named_with_the_file(run, tmp_path, files, words, message):
    """With the key and what could be meant, but in which of one's files was not said."""
    paths = {name: tmp_path / "mine" / f"{name}.yaml" for name in files}
    for name, path in paths.items():
        path.parent.mkdir(parents=True)
        path.write_text(files[name])
        message = message.replace(f"{{{name}}}", str(path))
    code, errors, _ = run(check_config, f"--config-dir={tmp_path / 'mine'}", *words, "data.shards=x")
    assert code == 1
    assert errors.startswith("error: 1 problem in the configuration")
    assert message in errors


def test_a_file_that_is_no_yaml_is_named_with_the_line(run, tmp_path):
    file = tmp_path / "experiment/first.yaml"
    file.parent.mkdir()
    file.write_text(f"{CHOSEN}name: mine\n  seed: 1\n")
    _, errors, _ = run(check_config, f"--config-dir={tmp_path}", "experiment=first")
    assert f"{file} is no YAML: mapping values are not allowed in this context, line 5, column" in errors


def test_experiments_of_ones_own_are_among_those_that_could_be_meant(run, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/first.yaml").write_text(CHOSEN)
    _, errors, _ = run(check_config, f"--config-dir={tmp_path}", "experiment=frist")
    assert "experiment: there is no 'frist'; did you mean 'first'?" in errors
    _, errors, _ = run(check_config, f"--config-dir={tmp_path / 'none'}", "experiment=first")
    assert f"--config-dir={tmp_path / 'none'}: there is no such folder" in errors


def test_settings_made_of_others_hide_no_misspelt_key():
    """`out` of evaluate.py is ${generated}/report, and `generated` has no value but from the command line."""
    register_configs()
    lines = explain(ValueError("refused"), "evaluate", ["generated=a", "out=b", "lenght=shortest"])
    assert lines == ["lenght: no such key; did you mean 'length'?"]


def test_a_missing_value_leaves_no_directory(run):
    code, errors, folder = run(check_config, "experiment=aniportrait/tiny_stage1")
    assert code == 1
    assert errors.splitlines() == [
        "error: 1 problem in the configuration, nothing was started:",
        "  data.shards: no value given (???)",
    ]
    assert not folder.exists() or not any(folder.iterdir())


def raise_ours(config):
    """A ValueError out of portraitgen's own code."""
    from portraitgen.data.catalog import find_shards

    find_shards("nowhere/*.tar")


def raise_defect(config):
    """A ValueError out of a library."""
    int("x")


def test_our_own_errors_are_short(run):
    code, errors, _ = run(raise_ours, *TINY)
    assert code == 1
    assert errors == "error: data.shards: no shard matches 'nowhere/*.tar' (of 'nowhere/*.tar')\n"


def test_a_traceback_can_be_asked_for(run, monkeypatch):
    monkeypatch.setenv("PORTRAITGEN_TRACEBACK", "1")
    code, errors, _ = run(raise_ours, *TINY)
    assert code == 1
    assert errors.startswith("Traceback")
    assert errors.splitlines()[-1].startswith("error: data.shards")


def test_a_second_writer_is_told_of_the_first_and_leaves_no_trace(run, tmp_path):
    """Two of one name once wrote one metrics.csv and a config.yaml that was not that of the weights."""
    folder = tmp_path / "runs/aniportrait/tiny_stage1"
    with one_writer(folder):
        code, errors, _ = run(lambda config: pytest.fail("it ran"), *TINY)
        assert code == 1
        assert errors.startswith(f"error: {folder} is being written by process {os.getpid()} of ")
        assert [path.name for path in folder.iterdir()] == [".writer.json"]


def fill_disk(config):
    """A full disk, as safetensors words it; others raise an OSError."""
    raise RuntimeError("I/O error: No space left on device (os error 28)")


def fill_disk_through(config):
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError:
        raise RuntimeError("unexpected pos 64 vs 0") from None


def lose_a_process(config):
    """As gloo words it, when the one that it waits for was killed; NCCL's is a type of torch.distributed."""
    raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error: reset by peer")


def lose_a_process_of_nccl(config):
    import torch

    raise torch.distributed.DistBackendError("NCCL error: remote process exited or there was a network error")


@pytest.mark.parametrize("task", [lose_a_process, lose_a_process_of_nccl])
def test_a_lost_process_is_said_in_one_line(run, task):
    code, errors, _ = run(task, *TINY)
    assert code == 1
    assert errors.startswith("error: another process of this run has ended")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("task", [fill_disk, fill_disk_through])
def test_a_full_disk_is_said_in_one_line(run, task):
    """It was a traceback of up to 97 lines that called itself a defect."""
    code, errors, folder = run(task, *TINY)
    assert code == 1
    assert errors.startswith(f"error: the disk of {folder}/aniportrait/tiny_stage1 is full: ")
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("name", ["/abs/path", "../up"])
def test_a_name_that_leads_out_of_the_runs_is_refused(run, tmp_path, name):
    """One part of the run lay there, the other below paths.runs."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*TINY, f"name={name}", f"paths.runs={tmp_path}"])
    assert f"name: {name} leads out of the folder of all runs" in next(setting_problems(config))


def test_a_defect_keeps_its_traceback(run):
    code, errors, _ = run(raise_defect, *TINY)
    assert code == 1
    assert "Traceback" in errors
    assert "invalid literal for int()" in errors
    assert "error: " not in errors.splitlines()[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_what_lightning_calls_a_misconfiguration_is_a_mistake(run):
    def build(config):
        from hydra.utils import instantiate

        instantiate(config.trainer)

    code, errors, _ = run(build, *TINY, "trainer.accelerator=gpu")
    assert code == 1
    assert errors.startswith("error: trainer: ")
    assert "Traceback" not in errors


def test_an_object_that_cannot_be_built_is_named(run):
    def build(config):
        from hydra.utils import instantiate

        instantiate(config.callbacks.ema)

    code, errors, _ = run(build, *TINY, "callbacks.ema.decay=2.0")
    assert code == 1
    assert errors.startswith("error: ")
    assert "ema.decay is 2.0" in errors
    assert "Traceback" not in errors


def test_an_object_that_is_the_whole_configuration_is_not_named_twice(run):
    """As generate.py builds what a weights file describes."""

    def build(config):
        from hydra.utils import instantiate

        instantiate({"_target_": "portraitgen.diffusion.latents.PixelCodec", "factor": 0})

    assert run(build, *TINY)[:2] == (1, "error: factor must be at least 1, not 0\n")


def test_an_error_after_the_start_goes_into_the_log(run):
    def fail_late(config):
        logging.getLogger("portraitgen").info("step 1")
        raise_ours(config)

    code, _, folder = run(fail_late, *TINY)
    assert code == 1
    log = (folder / "aniportrait/tiny_stage1/train.rank0.log").read_text()
    assert "step 1" in log
    assert "[ERROR] data.shards: no shard matches" in log


def test_a_folder_that_cannot_be_made(run, tmp_path):
    (tmp_path / "file").touch()
    code, errors, _ = run(check_config, *TINY, f"hydra.run.dir={tmp_path / 'file' / 'runs'}")
    assert code == 1
    assert errors.startswith("error: cannot write the results")


def test_other_exit_codes_pass(run):
    """A preempted run asks to be started again by its exit code."""

    def leave(config):
        raise SystemExit(75)

    assert run(leave, *TINY)[0] == 75


def test_trials_of_a_sweep_are_named_by_their_overrides_and_fail_alone(run):
    def fail_first(config):
        logging.getLogger("portraitgen").info("seed %d", config.seed)
        if config.seed == 0:
            raise_ours(config)

    code, errors, folder = run(fail_first, "-m", *TINY, "seed=0,1", "optimizer.lr=1e-4")
    assert code == 1
    assert errors.count("error: data.shards") == 1
    sweep = folder / "sweeps/aniportrait/tiny_stage1"
    assert sorted(each.name for each in sweep.iterdir() if each.is_dir()) == [
        "optimizer.lr=0.0001,seed=0",
        "optimizer.lr=0.0001,seed=1",
    ]


def test_a_trial_of_a_local_sweep_trains_in_one_process(run):
    """Lightning would start the whole sweep again for each further process."""
    code, errors, _ = run(check_training, "-m", *TINY, "seed=0", "trainer.devices=2", "strategy=ddp")
    assert code == 1
    assert "trainer.devices: 2, but a trial of a local sweep trains in one process" in errors


def test_a_trial_is_a_run_of_its_own_name(run):
    names = []
    code, _, folder = run(lambda config: names.append(config.name), "-m", *TINY, "seed=0,1")
    assert code == 0
    assert names == [f"sweeps/aniportrait/tiny_stage1/seed={seed}" for seed in (0, 1)]
    assert all((folder / name).is_dir() for name in names)
