"""What Gradio keeps of a page that was opened, and that it goes with the visit."""

from collections.abc import Callable
from datetime import datetime, timedelta

import gradio as gr

_UNUSED = timedelta(minutes=2)
"""After which a page is dropped that no visit has: it may be about to begin one."""


def forget_session(blocks: gr.Blocks, session: str) -> None:
    """Drop what Gradio holds of a page that was closed.

    It keeps a copy of the settings of all parts for each page that was ever opened, up to
    `state_session_capacity` (10,000), and the messages of 2,000: closing one ends the values of `gr.State`
    alone, of which this page has none, and a small capacity would drop pages that are still open.
    """
    with blocks.state_holder.lock:
        blocks.state_holder.session_data.pop(session, None)
        blocks.state_holder.time_last_used.pop(session, None)
    queue = blocks._queue
    # What is still at work writes its last messages.
    if not any(event.session_hash == session for event in [*queue.event_ids_to_events.values()]):
        queue.pending_messages_per_session.pop(session, None)
        queue.pending_event_ids_session.pop(session, None)


def forget_unused_sessions(blocks: gr.Blocks, is_visit: Callable[[str], bool]) -> None:
    """Drop pages that no visit has: a step that ends after its visit brings its page back."""
    old = datetime.now() - _UNUSED
    for session, used in [*blocks.state_holder.time_last_used.items()]:
        if used < old and not is_visit(session):
            forget_session(blocks, session)
