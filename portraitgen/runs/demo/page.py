"""The page: for each weights file the inputs of its system, its jobs, and what came of them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr
import torch
from gradio.components.base import Component

from portraitgen.media.allocator import collect_garbage
from portraitgen.runs.demo.blame import blamed, longest
from portraitgen.runs.demo.desk import Cancelled, Desk, Job, OutOfMemory
from portraitgen.runs.demo.examples import Example
from portraitgen.runs.demo.fields import Field, label_of, make_field
from portraitgen.runs.demo.given_files import GivenFiles, Uploaded
from portraitgen.runs.demo.look import Look, Seen
from portraitgen.runs.demo.offer import Offer
from portraitgen.runs.demo.result import Result
from portraitgen.runs.demo.sessions import forget_session, forget_unused_sessions
from portraitgen.runs.demo.texts import (
    head_text,
    live_text,
    problem_text,
    progress_text,
    results_text,
    said_text,
    seen_text,
    title_text,
    waiting_text,
)
from portraitgen.runs.demo.visits import Visit, Visits
from portraitgen.training.inputs import Input, Way

log = logging.getLogger(__name__)

_ABOUT = "Try what these weights draw. One job at a time; your files are removed when you leave."
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_LOOK_AGAIN_S = 0.25
_FIRST = ("photos", "text", "video", "sound", "layout")
"""Kinds of inputs that stand before the settings also where they need not be given."""
_LARGEST_SEED = 2**32 - 1

Updates = dict[Component | gr.Accordion, Any]


class Page:
    """Builds the page and answers it.

    Args:
        offers: what can be tried, one tab each.
        visits: whose files are whose.
        desk: does the jobs.
        look: at files that come in.
        examples: that a visitor can try, by kind of input.
    """

    def __init__(
        self,
        offers: Sequence[Offer],
        *,
        visits: Visits,
        desk: Desk,
        look: Look,
        examples: Mapping[str, Sequence[Example]],
    ) -> None:
        self._visits, self._desk, self._look, self._examples = visits, desk, look, examples
        with gr.Blocks(title="portraitgen", analytics_enabled=False) as self.blocks:
            gr.HTML(head_text("portraitgen", _ABOUT))
            if len(offers) == 1:
                self._tab(offers[0])
            else:
                with gr.Tabs():
                    for offer in offers:
                        with gr.Tab(offer.title):
                            self._tab(offer)
            self.blocks.unload(self._leave)

    def _tab(self, offer: Offer) -> None:
        ways = offer.ways
        words = [way.meaning for way in ways]
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                gr.HTML(title_text(offer.title))
                way = gr.Radio(words, value=words[0], label="What to make", visible=len(ways) > 1)
                needed = {name for each in ways for name in each.needs}
                fields = [
                    self._field(each, needed=each.name in needed)
                    for each in offer.inputs
                    if each.name in needed or each.kind in _FIRST
                ]
                with gr.Accordion("Settings", open=False) as settings:
                    shown = {field.input.name for field in fields}
                    fields += [
                        self._field(each, needed=False, folded=settings)
                        for each in (*offer.inputs, *offer.sampling.inputs)
                        if each.name not in shown
                    ]
                    seed = gr.Number(
                        0,
                        label="Seed",
                        info="the same seed gives the same result",
                        precision=0,
                        minimum=0,
                        maximum=_LARGEST_SEED,
                    )
                with gr.Row():
                    go = gr.Button("Generate", variant="primary", min_width=120)
                    stop = gr.Button("Cancel", variant="stop", interactive=False, min_width=120)
            with gr.Column(scale=3, min_width=280):
                status = gr.HTML(visible=False)
                live = gr.HTML(visible=False)
                results = gr.HTML(results_text("", []))
        groups = [field.group for field in fields]
        shows = {each.meaning: [_takes(each, field) for field in fields] for each in ways}
        for group, visible in zip(groups, shows[words[0]], strict=True):
            group.visible = visible
        way.change(
            lambda chosen: [gr.update(visible=visible) for visible in shows[chosen]],
            way,
            groups,
            queue=False,
            **_QUIET,
        )
        self._look_at_uploads(fields)
        parts = [part for field in fields for part in field.parts]
        outputs = [go, stop, status, live, results, settings, *(field.problem for field in fields)]
        by_words = dict(zip(words, ways, strict=True))

        async def run(request: gr.Request, *given: Any) -> AsyncIterator[Updates]:
            visit = self._visits.of(request.session_hash)
            async for updates in self._run(offer, fields, by_words, outputs, visit, given):
                yield updates

        go.click(
            run,
            [way, seed, *parts],
            outputs,
            concurrency_limit=None,
            trigger_mode="multiple",  # else a press right after a result is lost
            **_QUIET,
        )
        stop.click(self._stop, None, None, queue=False, **_QUIET)

    def _field(self, each: Input, *, needed: bool, folded: gr.Accordion | None = None) -> Field:
        field = make_field(each, needed=needed, folded=folded)
        examples = self._examples.get(each.kind, ())
        if examples and field.seen:
            with field.group, gr.Row(elem_classes="pg-examples"):
                for example in examples:
                    button = gr.Button(f"Try an example: {example.name}", size="sm", min_width=100)
                    give = partial(_example, example, several=each.photos != 1)
                    button.click(give, None, field.parts[0], queue=False, **_QUIET)
        return field

    def _look_at_uploads(self, fields: Sequence[Field]) -> None:
        for field in fields:
            choices = [other for other in fields if other.input.of == field.input.name]
            see = self._seer(field, choices=len(choices))
            for part, seen in zip(field.parts, field.seen, strict=True) if field.seen else ():
                outputs = [seen, field.problem, *(other.parts[0] for other in choices)]
                changes: Any = part.change  # type: ignore[attr-defined]
                changes(see, part, outputs, concurrency_limit=2, **_QUIET)

    def _seer(self, field: Field, *, choices: int) -> Callable[..., list[Any]]:
        def see(request: gr.Request, files: list[Uploaded]) -> list[Any]:
            visit = self._visits.of(request.session_hash)
            visit.uploads |= {file.path for file in files}
            return self._see(field.input.kind, files, choices=choices)

        return see

    def _see(self, kind: str, files: Sequence[Uploaded], *, choices: int) -> list[Any]:
        """What is shown below a file that came in, what is wrong with it, and which faces can be chosen."""
        texts, problem, faces = [], "", 0
        for file in files:
            try:
                seen = self._see_file(kind, file)
            except ValueError as error:
                names = GivenFiles(file.path.parent, shown={str(file.path): file.file_name})
                problem = names.readable(str(error))
                continue
            texts.append(seen_text(seen, file.file_name))
            problem = problem or seen.problem
            faces = max(faces, seen.faces or 0)
        numbers = map(str, range(1, faces + 1)) if faces > 1 else ()
        others = [gr.update(choices=["largest", "left", "right", *numbers])] * choices
        shown = gr.update(value="".join(texts), visible=bool(texts))
        wrong = gr.update(value=problem_text(problem) if problem else "", visible=bool(problem))
        return [shown, wrong, *others]

    def _see_file(self, kind: str, file: Uploaded) -> Seen:
        if kind == "photos":
            return self._look.photo(file.path, file.file_name)
        if kind == "sound":
            return self._look.sound(file.path)
        return self._look.video(file.path, file.file_name) if kind == "video" else self._look.file(file.path)

    async def _run(
        self,
        offer: Offer,
        fields: Sequence[Field],
        ways: Mapping[str, Way],
        outputs: Sequence[Component],
        visit: Visit,
        given: Sequence[Any],
    ) -> AsyncIterator[Updates]:
        go, stop, status, live, results, _, *problems = outputs
        clean: Updates = {each: gr.update(value="", visible=False) for each in problems}
        if visit.job is not None and not visit.job.finished.is_set():
            text = said_text("Your last job is still at work: cancel it first.")
            yield {status: gr.update(value=text, visible=True)}
            return
        way = ways[given[0]]
        asked = GivenFiles(visit.new_folder())
        values: dict[str, Any] = {}
        try:
            values = asked.place(_values(fields, way, given[2:]))
            wanted = offer.wanted(way, values, seed=int(given[1] or 0))
            job = self._desk.submit(partial(offer.draw, wanted, values, asked, asked.folder))
        except ValueError as error:
            visit.discard(asked.folder)
            yield {**clean, **self._said(str(error), fields, asked, status)}
            return
        visit.job = job
        yield {
            **clean,
            go: gr.update(interactive=False),
            stop: gr.update(interactive=True),
            live: gr.update(value="", visible=False),
        }
        shown: tuple[Any, Any] = (None, None)
        while not job.finished.is_set():
            now = self._shown(job)
            changed: Updates = {
                part: gr.update(value=text, visible=True)
                for part, text, before in zip((status, live), now, shown, strict=True)
                if text is not None and text != before
            }
            shown = now
            if changed:
                yield changed
            await asyncio.sleep(_LOOK_AGAIN_S)
        yield {
            go: gr.update(interactive=True),
            stop: gr.update(interactive=False),
            live: gr.update(value="", visible=False),
            **self._ended(job, visit, offer, fields, values, asked, status, results),
        }

    def _shown(self, job: Job) -> tuple[str, str | None]:
        before = self._desk.before(job)
        text = waiting_text(before) if before else progress_text(job)
        return text, None if job.picture is None else live_text(job.picture)

    def _ended(
        self,
        job: Job,
        visit: Visit,
        offer: Offer,
        fields: Sequence[Field],
        values: Mapping[str, Any],
        asked: GivenFiles,
        status: Component,
        results: Component,
    ) -> Updates:
        error = job.error
        if error is None:
            result: Result = job.result
            visit.keep(result, most=offer.limits.results)
            return {
                status: gr.update(value=said_text("Done."), visible=True),
                results: gr.update(value=results_text(visit.name, visit.results)),
            }
        visit.discard(asked.folder)
        if isinstance(error, Cancelled):
            return {status: gr.update(value=said_text("Cancelled."), visible=True)}
        if _is_out_of_memory(error):
            name = longest(offer.inputs, values)
            message = (
                "this takes more memory than the machine has left: give "
                f"{'a shorter clip or ' if name in ('driving', 'audio', 'length') else ''}a smaller size"
            )
            return self._said(f"{name}: {message}" if name else message, fields, asked, status)
        if isinstance(error, ValueError):
            return self._said(str(error), fields, asked, status)
        log.error("a job of the page failed", exc_info=error)
        text = problem_text("This failed by a fault of ours; the log says how.")
        return {status: gr.update(value=text, visible=True)}

    def _said(self, message: str, fields: Sequence[Field], asked: GivenFiles, status: Component) -> Updates:
        """A message beside the input that it is about, and where that is."""
        name, said = blamed(message, [field.input.name for field in fields], asked)
        field = next((field for field in fields if field.input.name == name), None)
        if field is None:
            return {status: gr.update(value=problem_text(said), visible=True)}
        where = said_text(f"Not made: see what is said beside “{label_of(field.input)}”.")
        unfold: Updates = {} if field.folded is None else {field.folded: gr.update(open=True)}
        return {
            **unfold,
            field.problem: gr.update(value=problem_text(said), visible=True),
            status: gr.update(value=where, visible=True),
        }

    def _stop(self, request: gr.Request) -> None:
        visit = self._visits.of(request.session_hash)
        if visit.job is not None:
            self._desk.leave(visit.job)

    def _leave(self, request: gr.Request) -> None:
        self._visits.end(request.session_hash)
        forget_session(self.blocks, request.session_hash or "")
        collect_garbage()

    def sweep(self) -> None:
        """Remove what is left of visits that are over, and of those of which nothing is heard any more."""
        self._visits.sweep()
        forget_unused_sessions(self.blocks, self._visits.has)
        collect_garbage()


def _takes(way: Way, field: Field) -> bool:
    return field.input.name in (*way.needs, *way.takes) or field.input.of_sampling


def _values(fields: Sequence[Field], way: Way, given: Sequence[Any]) -> dict[str, Any]:
    """Input → value as typed, of what the way takes and was given."""
    values: dict[str, Any] = {}
    left = iter(given)
    for field in fields:
        mine = [next(left) for _ in field.parts]
        if _takes(way, field):
            value = field.read(*mine)
            if value is not None:
                values[field.input.name] = value
    return values


def _example(example: Example, *, several: bool) -> Any:
    return [str(example.path)] if several else str(example.path)


def _is_out_of_memory(error: BaseException) -> bool:
    known = (OutOfMemory, MemoryError, torch.OutOfMemoryError)
    return isinstance(error, known) or "can't allocate memory" in str(error)
