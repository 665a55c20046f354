import sys

import pytest

from portraitgen.runs.config import subcommands
from portraitgen.runs.config.schema import CONF
from portraitgen.runs.config.subcommands import CONVERT, EVALUATE, GENERATE, PREPARE, run_subcommand


@pytest.fixture
def called(monkeypatch):
    """Runs prepare.py with these words; gives the config that was chosen and the words that are left."""

    def call(*words, script="prepare.py", table=PREPARE):
        chosen = []
        monkeypatch.setattr(sys, "argv", [script, *words])
        monkeypatch.setattr(subcommands, "command", lambda task, config_name: chosen.append(config_name))
        run_subcommand(script, table)
        return (*chosen, sys.argv[1:])

    return call


@pytest.mark.parametrize(
    "subcommand", [each for table in (PREPARE, GENERATE, EVALUATE, CONVERT) for each in table.values()]
)
def test_every_word_has_a_task_and_a_configuration(subcommand):
    assert callable(subcommand.load())
    assert (CONF / f"{subcommand.config_name}.yaml").is_file()
    assert bool(subcommand.explain([])) == bool(subcommand.details)


def test_the_first_word_chooses(called):
    assert called("source=a", "out=b") == ("prepare", ["source=a", "out=b"])
    assert called("verify", "out=b") == ("prepare_verify", ["out=b"])
    assert called("+x=1") == ("prepare", ["+x=1"])
    assert called() == ("prepare", [])


def test_older_words_for_the_same_still_work(called):
    chosen = called("mode=landmarks", "driving=a.mp4", script="generate.py", table=GENERATE)
    assert chosen == ("generate_landmarks", ["driving=a.mp4"])
    assert called("eval=selftest", script="evaluate.py", table=EVALUATE) == ("evaluate_selftest", [])


def test_help_of_conversion_lists_the_kinds(called, capsys):
    called("--help", script="convert.py", table=CONVERT)
    assert "system=aniportrait\n  kind=stable_diffusion" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        called("aniportrait", script="convert.py", table=CONVERT)
    assert "has no 'aniportrait'; it takes settings alone: key=value" in capsys.readouterr().err


def test_an_unknown_word_is_a_clear_error(called, capsys, tmp_path):
    for word, message in (
        ("verfy", "prepare.py has no 'verfy'; did you mean 'verify'?; it takes "),
        (str(tmp_path), f"'{tmp_path}' is a path: write what it is, as in source={tmp_path}"),
    ):
        with pytest.raises(SystemExit):
            called(word, "out=b")
        assert capsys.readouterr().err.startswith(f"error: {message}")


def test_help_lists_what_there_is(called, capsys):
    called("--help")
    text = capsys.readouterr().out
    for word, subcommand in PREPARE.items():
        assert f"python prepare.py {word}".strip() in text
        assert subcommand.summary in text
