"""The page of a run that was graded while it trained, from the files that its rounds left."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from portraitgen.metrics.report.report import write_results
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.evaluate.history import show_history
from tests.metrics.report.html_page import Page
from tests.metrics.report.stranger_pages import graded


def show(run, *overrides):
    register_configs()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        show_history(compose("evaluate_history", [f"run={run}", *overrides]))
    return Page((run / "history/history.html").read_text())


@pytest.fixture
def run(tmp_path):
    """Three rounds, the second one the best by PSNR, whose clips are gone."""
    for step, lead in ((100, -3.0), (200, 1.0), (300, 0.0)):
        write_results(graded("a", lead), tmp_path / f"graded/step_{step:08d}")
    (tmp_path / "graded/best.json").write_text(json.dumps({"psnr": {"step": 200}, "gone": {"step": 7}}))
    (tmp_path / "metrics.csv").write_text(
        "step,perf/grading_s,perf/grading_share\n100,2.0,0.1\n200,1.0,0.04\n"
    )
    return tmp_path


def test_the_best_and_the_last_weights_stand_beside_each_other(run, caplog):
    page = show(run)
    said = "".join(page.said)
    assert "best PSNR, step 200" in said
    assert "last, step 300" in said
    assert "3 rounds on 5 videos, steps 100 to 300" in said
    assert "2 rounds took 3 s, 4.0% of the time of the last start." in said
    assert "the best weights by gone are not shown" in caplog.text
    assert "the clips of step 200 are not shown" in caplog.text
    assert not page.all("video")


@pytest.mark.parametrize(("overrides", "heading"), [([], "{parent}/short"), (["title=Mine"], "Mine")])
def test_a_run_in_this_folder_has_its_name_or_the_title_that_was_given(run, monkeypatch, overrides, heading):
    """The title was passed over."""
    (run / "short").mkdir()
    (run / "graded").rename(run / "short/graded")
    monkeypatch.chdir(run)
    page = show(Path("short"), *overrides)
    assert heading.format(parent=run.name) in page.said


def test_every_figure_has_its_curve_with_intervals(run):
    page = show(run)
    plots = [each["aria-label"] for each in page.all("svg") if each.get("class") == "plot"]
    assert any(label.startswith("PSNR (dB)") for label in plots)
    assert [each for each in page.all("path") if each.get("class") == "band"]
    assert [each for each in page.all("g") if each.get("class") == "best"], "the best round is marked"


def test_rounds_of_another_protocol_are_left_out_and_said_to_be(run):
    path = run / "graded/step_00000100/results.json"
    content = json.loads(path.read_text())
    content["protocol"]["fingerprint"] = "other"
    path.write_text(json.dumps(content))
    said = "".join(show(run).said)
    assert "2 rounds" in said
    assert "1 earlier round left out, whose figures were taken otherwise" in said


def test_a_control_that_is_better_is_marked(run):
    write_results(graded("a", -20.0), run / "graded/step_00000400")
    said = "".join(show(run).said)
    assert "behind copy of reference" in said
    assert "PSNR is behind copying the reference frame" in said


def test_a_run_that_was_not_graded_is_named(tmp_path):
    with pytest.raises(ValueError, match="nothing was graded in it; train with callbacks=grading"):
        show(tmp_path)


def test_a_damaged_list_is_named(run):
    (run / "graded/best.json").write_text("[]")
    with pytest.raises(ValueError, match=r"best\.json is damaged"):
        show(run)
