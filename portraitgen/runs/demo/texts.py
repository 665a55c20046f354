"""The parts of the page that are written here, as HTML: what a file shows, progress, problems, results."""

import base64
from html import escape

from portraitgen.runs.demo.desk import Job
from portraitgen.runs.demo.look import Seen
from portraitgen.runs.demo.result import Result

_NOTHING = "What is made appears here, and stays until this page is closed."


def head_text(title: str, about: str) -> str:
    """The heading of the page."""
    return f"<header class='pg-head'><h1>{escape(title)}</h1><p>{escape(about)}</p></header>"


def title_text(title: str) -> str:
    """The heading of a tab."""
    return f"<h2 class='pg-title'>{escape(title)}</h2>"


def seen_text(seen: Seen, name: str) -> str:
    """What a file shows."""
    facts = escape(seen.facts)
    picture = ""
    if seen.picture is not None:
        picture = f"<img src='{_data(seen.picture)}' alt='{escape(name)}: {facts}'>"
    return f"<figure class='pg-seen'>{picture}<figcaption>{facts}</figcaption></figure>"


def problem_text(message: str) -> str:
    """What is wrong, for people who look and for those who listen."""
    return f"<p class='pg-problem' role='alert'>{escape(message)}</p>"


def said_text(message: str) -> str:
    """A plain message in the place of the progress."""
    return f"<div class='pg-progress'><p role='status'>{escape(message)}</p></div>"


def waiting_text(before: int) -> str:
    """The place in the queue."""
    others = "1 job comes" if before == 1 else f"{before} jobs come"
    return said_text(f"Place {before} in the queue: {others} first.")


def progress_text(job: Job) -> str:
    """How far a job is."""
    stage, done, total, left = escape(job.stage), job.done, job.total, job.seconds_left
    if not total:
        bar = f"<div class='pg-bar pg-busy' role='progressbar' aria-label='{stage}'><i></i></div>"
        return f"<div class='pg-progress'><p role='status'>{stage} …</p>{bar}</div>"
    values = f"aria-valuemin='0' aria-valuemax='{total}' aria-valuenow='{done}'"
    fill = f"<i style='width:{min(done / total, 1):.1%}'></i>"
    bar = f"<div class='pg-bar' role='progressbar' aria-label='{stage}' {values}>{fill}</div>"
    count = f"{done} of {total}{f', {_duration(left)} left' if left else ''}"
    return f"<div class='pg-progress'><p role='status'>{stage}</p>{bar}<p class='pg-fine'>{count}</p></div>"


def live_text(picture: bytes) -> str:
    """The newest frame beside what it is made of."""
    shown = f"<img src='{_data(picture)}' alt='the newest frame, beside what it is made of'>"
    return f"<figure class='pg-live'>{shown}<figcaption>the newest frame</figcaption></figure>"


def results_text(visit: str, results: list[Result]) -> str:
    """All results of a visit, the newest first."""
    if not results:
        return f"<p class='pg-fine pg-empty'>{_NOTHING}</p>"
    newest, *earlier = [_result(visit, result) for result in reversed(results)]
    if not earlier:
        return newest
    summary = f"<summary>Earlier results ({len(earlier)})</summary>"
    return f"{newest}<details class='pg-earlier'>{summary}{''.join(earlier)}</details>"


def _result(visit: str, result: Result) -> str:
    addresses = {name: escape(f"result/{visit}/{result.folder.name}/{name}") for name in result.files}
    title, place = escape(result.title), f"pg-{visit}-{result.folder.name}"
    shown = f"<img src='{addresses[result.main]}' alt='{title}'>"
    kinds = {result.main: "Picture", result.settings: "Settings"}
    if result.panel is not None:
        beside = _video(addresses[result.panel], f"{title}, beside what it is made of", "metadata")
        shown = _video(addresses[result.main], title, "auto")
        shown += f"<details open><summary>Beside what it is made of</summary>{beside}</details>"
        kinds = {result.main: "Video", result.panel: "Comparison", result.settings: "Settings"}
    notes = "".join(f"<p class='pg-note'>{escape(note)}</p>" for note in result.notes)
    links = "".join(
        f"<a class='pg-link' download='{escape(name)}' href='{addresses[name]}'>{kind}</a>"
        for name, kind in kinds.items()
    )
    return (
        f"<article class='pg-result'><h3>{title}</h3>{shown}{notes}"
        f"<nav aria-label='Downloads of {title}'>{links}</nav>"
        f"<p class='pg-fine' id='{place}'>The same file, bit for bit, from a shell:</p>"
        f"<pre tabindex='0' aria-labelledby='{place}'><code>{escape(result.command)}</code></pre>"
        "<button type='button' class='pg-copy'>Copy the command</button></article>"
    )


def _video(address: str, label: str, preload: str) -> str:
    options = f"controls loop playsinline preload='{preload}'"
    return f"<video {options} aria-label='{label}' src='{address}'></video>"


def _duration(seconds: float) -> str:
    whole = max(round(seconds), 1)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def _data(picture: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
