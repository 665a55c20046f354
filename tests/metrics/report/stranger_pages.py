"""Report pages in which every word that comes from outside is unfriendly, as a stranger's may be."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from portraitgen.media.encode import write_video
from portraitgen.metrics.checks import Check
from portraitgen.metrics.comparison import compare
from portraitgen.metrics.graders.landmarks import METRICS as LANDMARK_METRICS
from portraitgen.metrics.graders.pixels import METRICS as PIXEL_METRICS
from portraitgen.metrics.protocol import Protocol, VideoFacts
from portraitgen.metrics.report.history_page import History
from portraitgen.metrics.report.media import Media
from portraitgen.metrics.report.panels import encode_png
from portraitgen.metrics.report.paper_tables import load_table
from portraitgen.metrics.report.report import write_comparison, write_history, write_report, write_trials
from portraitgen.metrics.report.trials_page import Trial
from portraitgen.metrics.results import Results, aggregate
from portraitgen.metrics.saved import load_results
from portraitgen.metrics.scores import MetricInfo, Row

MARKUP = '<img src="x"><script>alert(1)</script>'
FORMULA = "=HYPERLINK(1)"
LONG = "/data/" + "WDA_AlexandriaOcasioCortez_000_" * 4
VIDEOS = (FORMULA, f"-{MARKUP}", LONG, "'quoted", "[/b] a | b ](x)")


def graded(name: str, lead: float = 0.0, skipped: str = "no weights") -> Results:
    """Results in which every word that comes from outside is unfriendly."""
    rows = []
    generator = np.random.default_rng(0)
    for index, video in enumerate(VIDEOS):
        for method, quality in (("generated", 24 + lead), ("copy_reference", 13.0)):
            error = generator.normal(4e-5, 1e-5, 8)
            missing = method == "generated" and index
            scores = {"psnr": quality + generator.normal(0, 1, 8), "landmark_error": error}
            if missing:
                scores["landmark_error"] = np.full(8, np.nan)
            reasons = {"landmark_error": f"no face {MARKUP}"} if missing else {}
            rows.append(Row(video, method, np.arange(90, 98), scores, reasons))
    protocol = Protocol(
        videos=tuple(VideoFacts(video, 8, 25.0, 64, 48, video) for video in VIDEOS),
        frame_sampler=MARKUP,
        resize="none",
        crop="none",
        face_backend="dlib",
        min_face_score=0.15,
        settings={"weights": LONG, MARKUP: name},
        commit="8edd2b0c" * 5,
        command=f"python evaluate.py generated={LONG}",
        graders={"psnr": {MARKUP: MARKUP}},
        versions={MARKUP: MARKUP},
    )
    return aggregate(
        rows,
        metrics={**PIXEL_METRICS, **LANDMARK_METRICS},
        protocol=protocol,
        skipped={MARKUP: skipped, "sync": f"needs {LONG}"},
        checks=[Check("psnr", "copy_reference", 8.0)],
    )


def write_pages(folder: Path) -> dict[str, dict[str, Path]]:
    """A report, a comparison of two runs, one of the eight trials of a sweep, a history, trials."""
    images = np.random.default_rng(0).integers(0, 255, (12, 64, 200, 3), dtype=np.uint8)
    write_video(folder / "panel.mp4", images, fps=25)
    (folder / "sheet.png").write_bytes(encode_png(images[0]))
    media = [Media(folder / "panel.mp4", f"{LONG} {MARKUP}"), Media(folder / "sheet.png", MARKUP)]
    given = {"title": f"{MARKUP} {LONG}", "media": media, "media_heading": MARKUP}
    paper = replace(load_table("loopy/hdtf"), title=MARKUP, source=MARKUP)
    report = write_report(graded("a"), folder / "a", papers=[paper], **given)
    write_report(graded("b", -0.6), folder / "b", title="b")
    saved = {MARKUP: load_results(folder / "a"), FORMULA: load_results(folder / "b")}
    # Whoever hands over a results.json can write anything into it.
    stranger = replace(saved[FORMULA], protocol={**saved[FORMULA].protocol, "fingerprint": MARKUP})
    comparison = compare({**saved, FORMULA: stranger}, allow_other_protocols=True)
    trials = {
        f"weights=a.safetensors, sampling.guidance_scale={number}, seed={number}": saved[
            (MARKUP, FORMULA)[number % 2]
        ]
        for number in range(8)
    }
    rounds = {300: load_results(folder / "b"), 600: load_results(folder / "a")}
    history = History(rounds, {f"best {MARKUP}": 300, "last": 600}, cost=MARKUP)
    marked = MetricInfo(MARKUP, MARKUP, 2, True, MARKUP)
    ended = [
        Trial(f"{MARKUP} {LONG}", MARKUP, {"a": (0.9, 0.8, 1.0), "b": (0.5, 0.4, 0.6)}),
        Trial(FORMULA, "ended", {"a": (0.7, 0.6, 0.8), "b": (0.4, 0.1, 0.5)}),
        Trial("without", "failed", {"a": (math.nan,) * 3, "b": (math.nan,) * 3}),
    ]
    figures = {"a": marked, "b": replace(marked, higher_is_better=False)}
    return {
        "trials": {"html": write_trials(ended, figures, folder / "t", title=MARKUP)},
        "history": write_history(
            history, folder / "h", notes=[MARKUP], **{k: given[k] for k in ("title", "media")}
        ),
        "report": report,
        "comparison": write_comparison(comparison, folder / "c", papers=[paper], **given),
        "sweep": write_comparison(compare(trials), folder / "d", papers=[paper], **given),
    }
