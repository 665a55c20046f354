"""Anybody's files through evaluate.py: graded, or refused with what to do."""

import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from portraitgen.media.decode import read_video
from portraitgen.media.encode import write_video
from portraitgen.metrics.networks.i3d import I3D
from portraitgen.metrics.networks.inception import Inception
from portraitgen.metrics.protocol import VideoFacts
from portraitgen.metrics.scores import Row
from portraitgen.runs.config.schema import CONF, register_configs
from portraitgen.runs.evaluate.compare import compare_results
from portraitgen.runs.evaluate.evaluate import evaluate
from portraitgen.runs.evaluate.kept_rows import GradedVideo, KeptRows


@pytest.fixture(scope="module")
def clips(carphone, tmp_path_factory):
    """Three real clips, and beside them the same, darker, one of which is missing."""
    folder = tmp_path_factory.mktemp("clips")
    frames = read_video(carphone)[:, :128, 30:158]
    for name in ("real", "ours"):
        (folder / name).mkdir()
    for index in range(3):
        clip = frames[40 * index : 40 * index + 3]
        write_video(folder / f"real/{index}.mp4", clip, fps=25, crf=10)
        if index < 2:
            write_video(folder / f"ours/{index}.mp4", (clip * 0.9).astype(np.uint8), fps=25, crf=10)
    return folder


@pytest.fixture
def config(clips, tmp_path):
    def config(*overrides):
        register_configs()
        given = [f"generated={clips / 'ours'}", f"real={clips / 'real'}", f"out={tmp_path / 'out'}"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("evaluate", [*given, "metrics.checks=[]", *overrides])

    return config


def test_videos_are_graded_by_their_names(config, tmp_path):
    evaluate(config())
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert 15 < results["psnr"] < 35
    assert results["landmark_error"] < 0.1
    assert results["missing"]["psnr"]["frames"] == 3
    assert "ours/2.mp4: no such file" in results["missing"]["psnr"]["reasons"][0]
    protocol = results["protocol"]
    assert (protocol["fps"], protocol["resolution"], protocol["num_videos"]) == (25.0, [128, 128], 3)
    assert protocol["source"]["real"].endswith("real")
    rows = {(row["video"], row["method"]): row for row in results["rows"]}
    assert "no such file" in rows["2", "generated"]["failure"]
    assert "psnr" not in rows["2", "generated"]
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<video") == 2, "the clips that are there are shown"


def test_the_documented_first_command_grades_and_passes_again_and_again(clips, tmp_path):
    """Default metrics and default `out`: checks against a reference that folders never have stopped the first
    start, a report that lies among the clips the second."""
    shutil.copytree(clips / "ours", tmp_path / "ours")
    (tmp_path / "ours/._0.mp4").write_bytes(b"\0\5\x16\7 a Mac's shadow of 0.mp4")
    (tmp_path / "ours/.ipynb_checkpoints").mkdir()
    shutil.copy(clips / "ours/0.mp4", tmp_path / "ours/.ipynb_checkpoints/0-checkpoint.mp4")
    register_configs()
    for _ in range(2):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            evaluate(compose("evaluate", [f"generated={tmp_path / 'ours'}", f"real={clips / 'real'}"]))
        written = json.loads((tmp_path / "ours/report/results.json").read_text())
        assert written["protocol"]["num_videos"] == 3
        assert written["passed"]
        assert not any(check["required"] for check in written["checks"])


def test_a_second_start_goes_on_where_the_first_was_broken_off(config, clips, tmp_path, monkeypatch, caplog):
    from portraitgen.metrics.graders.pixels import PixelGrader

    graded, whole = [], PixelGrader.grade

    def grade(self, clip):
        graded.append(clip.video)
        if broken and clip.video == "1":
            raise RuntimeError("killed")
        return whole(self, clip)

    monkeypatch.setattr(PixelGrader, "grade", grade)
    broken = False
    evaluate(config(f"out={tmp_path / 'at_once'}"))
    broken = True
    with pytest.raises(RuntimeError, match="killed"):
        evaluate(config())
    with next(tmp_path.glob("out/unfinished/rows-*.jsonl")).open("a") as file:
        file.write('\n{"protocol": "half a li')
    broken = False
    graded.clear()
    caplog.set_level("INFO")
    evaluate(config())
    assert set(graded) == {"1"}
    assert "going on: 1 of 3 videos were graded by an earlier start" in caplog.text
    one, other = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("at_once", "out"))
    assert one["rows"] == other["rows"]
    assert one["protocol"]["fingerprint"] == other["protocol"]["fingerprint"]
    assert (tmp_path / "at_once/frames.csv").read_text() == (tmp_path / "out/frames.csv").read_text()
    assert not (tmp_path / "out/unfinished").exists()
    graded.clear()
    evaluate(config())
    assert set(graded) == {"0", "1"}, "what is finished is graded anew"


def test_kept_rows_are_those_of_the_same_files_and_graders(tmp_path):
    facts = VideoFacts("a", 2, 25.0, 8, 8, "01")
    scores = {"psnr": np.array([1 / 3, np.nan]), "sync_c": np.array(np.nan)}
    row = Row("a", "generated", np.arange(2), scores, {"psnr": "black", "sync_c": "short"})
    lost = Row("a", "truth", np.arange(2), {}, failure="gone")
    KeptRows(tmp_path, {"graders": 1}).keep(GradedVideo(facts, (row, lost)), ["a.mp4", 7])
    read = KeptRows(tmp_path, {"graders": 1}).find("a", ["a.mp4", 7])
    assert read.facts == facts
    np.testing.assert_array_equal(read.rows[0].scores["psnr"], scores["psnr"])
    assert np.isnan(read.rows[0].scores["sync_c"])
    assert read.rows[0].reasons == row.reasons
    assert read.rows[1].failure == "gone"
    assert KeptRows(tmp_path, {"graders": 1}).find("a", ["a.mp4", 8]) is None, "another file"
    assert KeptRows(tmp_path, {"graders": 2}).find("a", ["a.mp4", 7]) is None, "another protocol"


def test_the_report_goes_to_wandb_and_shows_papers(config, tmp_path, monkeypatch):
    """Offline: what would be sent lies in a folder, with the table, the videos and the page."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    evaluate(config("wandb=portraits", "papers=[loopy/hdtf]"))
    media = {path.suffix for path in tmp_path.glob("out/wandb/offline-run-*/files/media/**/*.*")}
    assert {".mp4", ".png", ".html", ".json"} <= media
    assert "Figures of papers" in (tmp_path / "out/report.html").read_text()
    assert "17 to 20" in (tmp_path / "out/results.md").read_text()
    with pytest.raises(ValueError, match=r"papers: there is no table 'loopy/x'"):
        evaluate(config("papers=[loopy/x]"))


def test_real_against_itself_is_perfect(config, clips, tmp_path):
    evaluate(config(f"generated={clips / 'real'}"))
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert (results["psnr"], results["ssim"]) == (60, pytest.approx(1))
    assert (results["landmark_error"], results["detection_rate"]) == (0, 1)


@pytest.fixture(scope="module")
def set_graders(clips):
    """A grader of sets that needs no network: expression coefficients in files."""
    random = np.random.default_rng(0)
    for name in ("generated", "real"):
        (clips / "expression" / name).mkdir(parents=True)
        for video in range(3):
            coefficients = random.normal(size=(3 + video, 257)).astype(np.float32)
            np.save(clips / f"expression/{name}/{video}.npy", coefficients)
    return [
        "+metrics.graders.efid._target_=portraitgen.metrics.graders.efid.EfidGrader",
        *(f"+metrics.graders.efid.{name}={clips}/expression/{name}" for name in ("generated", "real")),
    ]


@pytest.fixture(scope="module")
def long_clips(carphone, tmp_path_factory):
    """As `clips`, none missing, and each as long as a window of FVD."""
    folder = tmp_path_factory.mktemp("long")
    frames = read_video(carphone)[:, :128, 30:158]
    for name, light in (("real", 1), ("ours", 0.7)):
        (folder / name).mkdir()
        for index in range(3):
            clip = (frames[40 * index : 40 * index + 16] * light).astype(np.uint8)
            write_video(folder / f"{name}/{index}.mp4", clip, fps=25, crf=10)
    return folder


@pytest.fixture(scope="module")
def network_graders(long_clips, key_seeded):
    """Graders of sets with networks, whose weights are by rule: those of PyTorch let the features die out."""
    for name, network in (("inception.pth", Inception), ("i3d.pt", I3D)):
        with torch.device("meta"):
            shapes = {key: tuple(tensor.shape) for key, tensor in network().state_dict().items()}
        tensors = key_seeded(shapes)
        double = {key: 2 * tensor if tensor.ndim > 3 else tensor for key, tensor in tensors.items()}
        torch.save(double, long_clips / name)
    graders = "portraitgen.metrics.graders"
    return [
        "metrics.graders.landmarks=null",
        f"+metrics.graders.fid={{_target_: {graders}.fid.FidGrader, weights: {long_clips}/inception.pth, "
        "frames: 2, kid_subset: 4}",
        f"+metrics.graders.fvd={{_target_: {graders}.fvd.FvdGrader, weights: {long_clips}/i3d.pt, "
        "min_windows: 2}",
    ]


def check_two_processes(clips, folder, words):
    """Two gloo processes, one of which has two videos of three, against what is in `folder`/out."""
    script = (
        "import sys; from portraitgen.runs.config.command import command; "
        "from portraitgen.runs.evaluate.evaluate import evaluate; command(evaluate, config_name='evaluate')"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    given = [f"generated={clips / 'ours'}", f"real={clips / 'real'}", f"out={folder / 'two'}"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *given, "metrics.checks=[]", *words],
            env={**os.environ, **store, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    for name in ("results.csv", "frames.csv", "results.md"):
        assert (folder / "two" / name).read_text() == (folder / "out" / name).read_text()
    one, two = (json.loads((folder / name / "results.json").read_text()) for name in ("out", "two"))
    assert one["intervals"] == two["intervals"]
    assert one["protocol"]["fingerprint"] == two["protocol"]["fingerprint"]
    return one


def test_neither_processes_nor_order_change_a_figure(config, clips, set_graders, tmp_path):
    evaluate(config(*set_graders))
    one = check_two_processes(clips, tmp_path, set_graders)
    assert one["efid_deep3d"] > 0
    check_other_order(config, clips, set_graders, tmp_path, one)


def check_other_order(config, clips, words, folder, one):
    lines = [f"{index}.mp4,{index}.mp4" for index in (2, 0, 1)]
    (folder / "pairs.csv").write_text("\n".join(["generated,real", *lines]) + "\n")
    given = [f"generated={clips}/ours", f"real={clips}/real", f"pairs={folder}/pairs.csv"]
    evaluate(config(*words, *given, f"out={folder}/other"))
    other = json.loads((folder / "other/results.json").read_text())
    assert set(one["intervals"]) == set(other["intervals"])
    for name in one["intervals"]:
        assert one[name] is not None, name
        assert other[name] == pytest.approx(one[name], rel=1e-5), name


@pytest.mark.slow
def test_networks_of_sets_know_neither_processes_nor_order_nor_batches(
    config, long_clips, network_graders, tmp_path, monkeypatch
):
    """FID, KID and FVD."""
    evaluate(config(*network_graders, f"generated={long_clips}/ours", f"real={long_clips}/real"))
    one = check_two_processes(long_clips, tmp_path, network_graders)
    assert min(one["fid"], abs(one["kid"]), one["fvd"]) > 1e-3
    monkeypatch.setattr("portraitgen.metrics.graders.fid.BATCH", 1)
    check_other_order(config, long_clips, network_graders, tmp_path, one)


def test_files_that_do_not_go_together_say_what_to_do(config, clips, tmp_path):
    frames = read_video(clips / "ours/0.mp4")
    other = tmp_path / "other"
    other.mkdir()
    cases = {
        "fps": ({"fps": 30}, frames, r"0\.mp4 has 30 fps, .*0\.mp4 25: write both at one rate, or say fps="),
        "size": ({"fps": 25}, frames[:, :64, :64], "0.mp4 is 64x64, .*is 128x128|0.mp4 is 64x64, .* 128x128"),
        "length": ({"fps": 25}, frames[:2], r"has 2 frames, .* 3: write both in one length, or say length="),
    }
    for settings, images, message in cases.values():
        write_video(other / "0.mp4", images, **settings)
        with pytest.raises(ValueError, match=message):
            evaluate(config(f"generated={other}"))
    write_video(other / "0.mp4", np.repeat(frames, 2, axis=0)[:, ::2, ::2], fps=50)
    evaluate(config(f"generated={other}", "fps=25", "resize=[96,96]", "length=shortest"))
    protocol = json.loads((tmp_path / "out/results.json").read_text())["protocol"]
    assert protocol["resolution"] == [96, 96]
    assert protocol["resize"].startswith("all frames to 96x96, bicubic")
    assert protocol["frame_sampler"] == (
        "all frames, brought to 25 fps by the nearest in time, the longer of a pair cut behind"
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["real=null", "fps=25"], r"fps=25\.0: clips of generate\.py have the rate"),
        (["real=null"], "no samples.jsonl"),
        (["length=long"], "length=long: give one of exact, shortest"),
        (["resize=[64]"], "give width and height in pixels"),
        (["fps=0"], "give frames a second"),
        (["show_by=fid"], "show_by=fid: no video has such a figure; known are psnr"),
        (["real=nowhere"], "real=nowhere: no such folder"),
        (["metrics.graders.pixels=null", "metrics.graders.landmarks=null"], "leaves nothing to grade"),
        (
            ["+metrics.graders.more._target_=portraitgen.metrics.graders.pixels.PixelGrader"],
            "both pixels and more give 'psnr'",
        ),
    ],
)
def test_settings_that_cannot_be(config, overrides, message):
    with pytest.raises(ValueError, match=message):
        evaluate(config(*overrides))


def test_pictures_with_prompts_need_no_truth(config, clips, tmp_path):
    import cv2

    frame = read_video(clips / "real/0.mp4")[0]
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures/man.png"), frame[..., ::-1])
    (tmp_path / "pairs.csv").write_text("generated,prompt\nman.png,a man in a car\n")
    evaluate(config(f"generated={tmp_path / 'pictures'}", "real=null", f"pairs={tmp_path / 'pairs.csv'}"))
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["psnr"] is None
    assert results["missing"]["psnr"]["reasons"] == ["man: no true frames are given"]


def test_a_clip_that_cannot_be_read_and_has_no_truth_compares(config, clips, tmp_path):
    """It states no size, rate or length: they were 0, so that the protocols differed."""
    register_configs()
    (tmp_path / "pairs.csv").write_text("generated,prompt\n0.mp4,a man\n1.mp4,a man who talks\n")
    for name in ("whole", "spoiled"):
        shutil.copytree(clips / "ours", tmp_path / name)
    (tmp_path / "spoiled/1.mp4").write_bytes(b"damaged")
    for name in ("whole", "spoiled"):
        given = [f"generated={tmp_path / name}", f"pairs={tmp_path / 'pairs.csv'}", "real=null"]
        evaluate(config(*given, "metrics=talking_head", "metrics.checks=[]", f"out={tmp_path / name}-out"))
    protocol = json.loads((tmp_path / "spoiled-out/results.json").read_text())["protocol"]
    assert (protocol["fps"], protocol["resolution"]) == (25.0, [128, 128])
    assert protocol["videos"]["1"]["width"] is None
    results = [str(tmp_path / f"{name}-out") for name in ("whole", "spoiled")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        compare_results(compose("evaluate_compare", [f"results={results}", f"out={tmp_path}/side"]))
    compared = json.loads((tmp_path / "side/comparison.json").read_text())
    assert compared["videos"] == ["0", "1"]
