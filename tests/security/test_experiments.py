"""An experiment of somebody else runs no code of its own, and stays small."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from portraitgen.runs.config import hydra_settings
from portraitgen.runs.config.check import ConfigError, find_problems
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.config.targets import COMMAND_TARGETS, resolve_target
from portraitgen.runs.config.words import readable_words
from portraitgen.runs.config.yaml_files import check_yaml, load_yaml
from portraitgen.runs.train import rundir
from tests.command_line import ROOT, run_command

GIVEN = ["data.shards=none.tar"]


@pytest.fixture
def experiment(tmp_path):
    """Writes conf/experiment/evil.yaml into a folder for --config-dir, and gives that folder."""

    def write(text: str, **more: str) -> Path:
        folder = tmp_path / "theirs"
        for name, content in {"experiment/evil": text, **more}.items():
            path = folder / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return folder

    return write


HEAD = (
    "# @package _global_\ndefaults:\n  - override /model: aniportrait_tiny\n  - override /data: face_frames\n"
)
TINY = (CONF / "experiment/aniportrait/tiny_stage1.yaml").read_text()

HYDRA = {
    "callback": "hydra: {callbacks: {a: {_target_: os.system, _args_: ['touch MARKER']}}}",
    "environment": "hydra: {job: {env_set: {GIT_CONFIG_COUNT: '1'}}}",
    "copied environment": "hydra: {job: {env_copy: [HOME]}}",
    "log handler": "hydra: {job_logging: {handlers: {a: {(): 'os.system', command: 'touch MARKER'}}}}",
    "log file elsewhere": "hydra: {job_logging: {handlers: {file: {filename: /tmp/elsewhere.log}}}}",
    "log format": "hydra: {job_logging: {formatters: {file: {format: 'touch MARKER'}}}}",
    "log class": "hydra: {job_logging: {loggers: {a: {level: INFO, handlers: [file]}}}}",
    "Hydra's own log": "hydra: {hydra_logging: {handlers: {a: {(): 'os.system'}}}}",
    "launcher class": "hydra: {launcher: {_target_: os.system}}",
    "sweeper class": "hydra: {sweeper: {_target_: os.system}}",
}


SCRIPTS = {
    "in a setting": 'hydra: {launcher: {partition: "cpu\\ntouch MARKER"}}',
    "by an interpolation": 'data: {more: "a\\ntouch MARKER"}\nhydra: {launcher: {comment: "${data.more}"}}',
    "in the name of the run": 'name: "a\\ntouch MARKER"',
    "in a folder": 'hydra: {sweep: {dir: "a\\rb"}}',
}


def refused(folder: Path, command: str, *words: str) -> str:
    """What the composition with files of `folder` is refused for."""
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(ConfigError) as caught:
        compose(command, ["experiment=evil", f"hydra.searchpath=[file://{folder}]", *words])
    return str(caught.value)


@pytest.mark.parametrize("case", HYDRA)
def test_of_hydra_only_what_is_listed_may_be_set(experiment, case):
    folder = experiment(f"{TINY}\n{HYDRA[case]}\n")
    assert "\n  hydra." in refused(folder, "train", *GIVEN)


def test_and_a_command_says_so_before_it_starts(experiment, tmp_path, capfd):
    folder = experiment(f"{TINY}\n{HYDRA['log handler']}\n")
    code = run_command("train.py", f"--config-dir={folder}", "experiment=evil", *GIVEN, folder=tmp_path)
    errors = capfd.readouterr().err
    assert code == 1
    assert errors.startswith(
        "error: 1 problem in the configuration, nothing was started:\n  hydra.job_logging"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"theirs"}


OTHER_WAYS = {
    "package": ("defaults: [{/evil@hydra.callbacks: x}]", {"evil/x": "a: {_target_: os.system}"}),
    "header": ("defaults: [{/evil: x}]", {"evil/x": "# @package hydra.job\nenv_set: {A: b}"}),
    "group": (
        "defaults: [{override /hydra/callbacks: x}]",
        {"hydra/callbacks/x": "a: {_target_: os.system}"},
    ),
    "another log": (
        "defaults: [{override /hydra/hydra_logging: x}]",
        {"hydra/hydra_logging/x": "version: 1\nfilters: {a: {(): os.abort}}"},
    ),
    "commands for a cluster": (
        "defaults: [{override /hydra/launcher: submitit_slurm}]\nhydra: {launcher: {setup: ['touch M']}}",
        {},
    ),
}


@pytest.mark.parametrize("case", OTHER_WAYS)
def test_nor_by_other_ways_into_its_settings(experiment, case):
    words, more = OTHER_WAYS[case]
    folder = experiment(f"# @package _global_\n{words}\n", **more)
    assert "\n  hydra." in refused(folder, "generate", "weights=a", "out=out")


def hydra_lines(words: list[str], conf: Path = CONF) -> list[str]:
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(
            "train", ["experiment=aniportrait/tiny_stage1", *words, *GIVEN], return_hydra_config=True
        )
    return [*hydra_settings.hydra_problems(config.hydra, words, conf=conf)]


def test_what_the_user_types_is_asked_for():
    words = ["+hydra.job.env_set.A=b", "hydra/job_logging=disabled", "hydra/launcher=slurm_a100"]
    assert hydra_lines([*words, "hydra.sweep.subdir=x"]) == []
    assert hydra_lines(["hydra/launcher=slurm_a100", "+hydra.launcher.setup=[module load cuda]"]) == []


def test_and_what_this_machine_s_settings_say(tmp_path):
    (tmp_path / "local").mkdir()
    config = OmegaConf.create({"hydra": {"job": {"config_name": "train", "env_set": {"A": "b"}}}})
    assert [*hydra_settings.hydra_problems(config.hydra, [], conf=tmp_path)] != []
    (tmp_path / "local" / "default.yaml").write_text("hydra: {job: {env_set: {A: b}}}")
    assert [*hydra_settings.hydra_problems(config.hydra, [], conf=tmp_path)] == []


@pytest.mark.parametrize(
    "target",
    [
        "portraitgen.nn.checkpointing.run",
        "portraitgen.media.files.replace_file",
        "portraitgen.media.files.replacing",
        "portraitgen.data.shards.ShardWriter",
        "portraitgen.runs.train.rundir.describe_commit",
        "portraitgen.runs.config.command.command",
        "portraitgen.systems.aniportrait.weights.publish",
        "torch.nn.functional.relu",
        "torch.nn.utils.clip_grad_norm_",
        "torch.optim.lr_scheduler.warnings.warn",
        "diffusers.models.modeling_utils.load_state_dict",
        "diffusers.DiffusionPipeline.from_pretrained",
        "transformers.AutoModel.from_pretrained",
        "transformers.AutoTokenizer.from_pretrained",
        "transformers.models.auto.configuration_auto.AutoConfig.from_pretrained",
        "lightning.pytorch.utilities.model_summary.ModelSummary",
        "lightning.pytorch.cli.LightningCLI",
        "peft.PeftModel.from_pretrained",
    ],
)
def test_a_target_is_on_the_list(target):
    with pytest.raises(
        ValueError, match=r"may name here|has no|not in an allowed package|cannot be imported"
    ):
        resolve_target(target)


def test_the_list_holds_no_name_that_is_gone():
    for name in COMMAND_TARGETS.own:
        if not name.endswith(".*"):
            assert callable(resolve_target(name))


OPTIONS = (
    *("weights_only: false", "use_safetensors: false", "trust_remote_code: true", "custom_pipeline: x"),
    *("device_map: disk", "offload_folder: /tmp/x", "cache_dir: /tmp/x"),
    *("allow_all_kernels: true", "attn_implementation: a/b"),
)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    "target",
    [
        "portraitgen.nn.clip_image.ClipImageEncoder",
        "diffusers.AutoencoderKL",
        "transformers.CLIPVisionModel",
    ],
)
def test_keywords_of_from_pretrained_are_listed(target, option):
    key = option.partition(":")[0]
    place = "path" if "ClipImage" in target else "pretrained_model_name_or_path"
    (problem,) = find_problems(
        OmegaConf.create(f"model: {{_target_: {target}.from_pretrained, {place}: somewhere, {option}}}")
    )
    assert problem.startswith(f"model.{key}: ")


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch MARKER']",
        "a: !!python/object/apply:pathlib.Path [/tmp/x]",
        "a: !!python/name:os.system",
        "a: !!binary aGk=",
        "a: !!set {b}",
        "a: !own b",
    ],
)
def test_tags_are_refused(text, experiment):
    with pytest.raises(ValueError, match="YAML tags such as"):
        check_yaml(text, "evil.yaml")
    folder = experiment(f"# @package _global_\n{text}\n")
    assert "evil.yaml, line 2: YAML tags such as" in refused(folder, "train", *GIVEN)


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(12), "aliases written out"),
        ("a: &a [*a]", "refers to itself"),
        ("a: " + "[" * 200 + "]" * 200, "levels deep"),
        ("a: " + "9" * 100_000, "digits"),
        ("a: 1." + "9" * 100_000, "digits"),
        ("\n".join(f"a{n}: 1" for n in range(60_000)), "values"),
        ("a: " + "x" * (1 << 21), "larger than"),
        ("a: [", "no YAML"),
        ("a: \x00", "no YAML"),
    ],
)
def test_yaml_is_bounded(text, message, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    began = time.monotonic()
    with pytest.raises(ValueError, match=message):
        load_yaml(tmp_path / "a.yaml")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "lines",
    [
        ["a0: xxxxxxxxxx", *(f"a{n}: ${{a{n - 1}}}${{a{n - 1}}}" for n in range(1, 60))],
        ["a0: {b: x}", *(f"a{n}: {{b: '${{a{n - 1}}}', c: '${{a{n - 1}}}'}}" for n in range(1, 60))],
        ["a:", "  x0: xxxxxxxxx", *(f"  x{n}: ${{.x{n - 1}}}${{.x{n - 1}}}" for n in range(1, 60))],
    ],
)
def test_interpolations_are_bounded(lines, experiment):
    theirs = "\n".join(["model:", *(f"  {line}" for line in lines)]).replace("${a", "${model.a")
    folder = experiment(f"# @package _global_\ndefaults: [{{override /data: face_frames}}]\n{theirs}\n")
    chosen = ("model=aniportrait_tiny", "stage=aniportrait/image", "sampling=aniportrait")
    assert "interpolations resolve to more than" in refused(folder, "train", *chosen, *GIVEN)


def test_a_reference_to_itself_is_named_and_does_not_hang():
    with pytest.raises(ConfigError, match="a"):
        raise ConfigError(find_problems(OmegaConf.create("a: ${b}\nb: ${a}")))


def test_git_runs_nothing_that_a_checkout_names(tmp_path, monkeypatch):
    """core.fsmonitor, hooks, filters: `git status` started them to record the commit."""
    marker = tmp_path / "marker"
    script = tmp_path / "evil.sh"
    script.write_text(f"#!/bin/sh\ntouch {marker}\ncat\n")
    script.chmod(0o755)
    root = tmp_path / "checkout"
    module = root / "portraitgen" / "runs" / "train" / "rundir.py"
    module.parent.mkdir(parents=True)
    module.write_text("1")
    (root / ".gitattributes").write_text("* filter=evil\n")

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=root, check=True)

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "a")
    git("config", "core.fsmonitor", str(script))
    git("config", "filter.evil.clean", str(script))
    module.write_text("2")
    for name, value in {"COUNT": "1", "KEY_0": "core.fsmonitor", "VALUE_0": str(script)}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    monkeypatch.setattr(rundir, "__file__", str(module))
    said = rundir.describe_commit()
    assert len(said["commit"]) == 40
    assert said["dirty"] is True
    assert not marker.exists()
    git("status", "--porcelain")  # the trap is real
    assert marker.exists()


def test_all_this_holds_in_a_fresh_process(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    marker = tmp_path / "marker"
    (folder / "evil.yaml").write_text(
        f"# @package _global_\nhydra: {{callbacks: {{a: {{_target_: os.mkdir, path: {marker}}}}}}}\n"
    )
    words = [f"--config-dir={tmp_path}", "experiment=evil", "weights=a", "out=out"]
    call = [sys.executable, str(ROOT / "generate.py"), *words]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "hydra.callbacks.a._target_" in done.stderr
    assert not marker.exists()


def test_python_without_docstrings_is_refused_in_one_message(tmp_path):
    """It failed inside of transformers."""
    environment = os.environ | {"PYTHONOPTIMIZE": "2"}
    call = [sys.executable, str(ROOT / "generate.py"), "weights=a", "out=out"]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "PYTHONOPTIMIZE=2" in done.stderr


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_no_setting_breaks_a_line_of_a_job_script(text, experiment):
    """submitit writes them behind `#SBATCH`: what came after a line break was run on the cluster."""
    said = refused(experiment(HEAD + text), "train", "hydra/launcher=slurm_a100", *GIVEN)
    assert "has a line break or another control character" in said
    assert "hydra." in said


def test_interpolations_that_lead_on_and_on_are_refused(experiment):
    chain = "".join(f"  a{number}: ${{data.a{number + 1}}}\n" for number in range(3000))
    said = refused(experiment(f"{HEAD}data:\n{chain}  a3000: 1\n"), "train", *GIVEN)
    assert "data: its interpolations lead from one to the next for hundreds of times" in said


def test_a_shell_command_that_prints_shards_is_the_users_own(experiment, tmp_path):
    """An experiment of somebody else could name one, data.shards=pipe:…, and training would run it."""
    command = f"pipe:touch {tmp_path}/MARKER"
    said = "data.shards: a shell command (pipe:…) that a configuration file gives is not run"
    given = TINY.replace("\ndata:\n", f"\ndata:\n  shards: '{command}'\n")
    assert said in refused(experiment(given), "train")
    listed = TINY.replace("\ndata:\n", f"\ndata:\n  more: '{command}'\n  shards: [a.tar, '${{data.more}}']\n")
    assert said in refused(experiment(listed), "train")
    for hidden in (f"'{{{command},b.tar}}'", f"{{'{command}': 1}}", f"'{command} ${{hydra:runtime.cwd}}'"):
        folder = experiment(TINY.replace("\ndata:\n", f"\ndata:\n  shards: {hidden}\n"))
        words = [f"--config-dir={folder}", "experiment=evil", f"paths.runs={tmp_path}/runs"]
        assert run_command("train.py", *words, folder=tmp_path) == 1
        assert not (tmp_path / "MARKER").exists(), hidden
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for typed in (command, f"{command}; echo 'a,b' \"$HOME\""):
            words = readable_words(["experiment=aniportrait/tiny_stage1", f"data.shards={typed}"])
            assert compose("train", words).data.shards == typed
    assert not (tmp_path / "MARKER").exists()
