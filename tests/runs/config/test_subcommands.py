import sys

import pytest

from portraitgen.runs.config import subcommands
from portraitgen.runs.config.schema import CONF
from portraitgen.runs.config.subcommands import PREPARE, run_subcommand


@pytest.fixture
def called(monkeypatch):
    """Runs prepare.py with these words; gives the config that was chosen and the words that are left."""

    def call(*words):
        chosen = []
        monkeypatch.setattr(sys, "argv", ["prepare.py", *words])
        monkeypatch.setattr(subcommands, "command", lambda task, config_name: chosen.append(config_name))
        run_subcommand("prepare.py", PREPARE)
        return (*chosen, sys.argv[1:])

    return call


@pytest.mark.parametrize("word", PREPARE)
def test_every_word_has_a_task_and_a_configuration(word):
    assert callable(PREPARE[word].load())
    assert (CONF / f"{PREPARE[word].config_name}.yaml").is_file()


def test_the_first_word_chooses(called):
    assert called("source=a", "out=b") == ("prepare", ["source=a", "out=b"])
    assert called("verify", "out=b") == ("prepare_verify", ["out=b"])
    assert called("+x=1") == ("prepare", ["+x=1"])
    assert called() == ("prepare", [])


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
