"""What Gradio keeps of pages goes with their visits."""

from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

gr = pytest.importorskip("gradio", reason="needs the extra demo")


@pytest.fixture
def blocks():
    """A page that is served, and that three sessions have opened."""
    with gr.Blocks(analytics_enabled=False) as made:
        made.load(lambda: None)
    made.queue().launch(prevent_thread_lock=True, quiet=True, enable_monitoring=False)
    for session in ("ann", "bob", "cid"):
        made.state_holder[session]
        made._queue.pending_messages_per_session[session] = object()
        made._queue.pending_event_ids_session[session] = set()
    yield made
    made.close()


def held(blocks):
    queue = blocks._queue
    return [
        sorted(kept)
        for kept in (
            blocks.state_holder.session_data,
            blocks.state_holder.time_last_used,
            queue.pending_messages_per_session,
            queue.pending_event_ids_session,
        )
    ]


def test_a_closed_page_is_forgotten_and_others_are_not(blocks):
    from portraitgen.runs.demo.sessions import forget_session  # imports Gradio

    forget_session(blocks, "ann")
    forget_session(blocks, "ann")
    assert held(blocks) == [["bob", "cid"]] * 4


def test_messages_stay_for_what_is_at_work(blocks):
    from portraitgen.runs.demo.sessions import forget_session

    blocks._queue.event_ids_to_events["1"] = SimpleNamespace(session_hash="ann")
    forget_session(blocks, "ann")
    assert held(blocks) == [["bob", "cid"]] * 2 + [["ann", "bob", "cid"]] * 2


def test_pages_that_no_visit_has_are_forgotten_when_they_are_old(blocks):
    from portraitgen.runs.demo.sessions import forget_unused_sessions

    for session in ("ann", "bob"):
        blocks.state_holder.time_last_used[session] = datetime.now() - timedelta(minutes=10)
    forget_unused_sessions(blocks, lambda session: session == "bob")
    assert held(blocks) == [["bob", "cid"]] * 4
