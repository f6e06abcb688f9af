"""Ctrl-C and SIGTERM as requests that training reads between two steps."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from budgerigar.console import note


class StopRequest:
    """Set by a signal, read between steps, so that no step is cut in two."""

    requested = False


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turns the first Ctrl-C or SIGTERM into a request; a second one acts at once."""
    stop = StopRequest()

    def ask(number: int, _: FrameType | None) -> None:
        stop.requested = True
        note("stopping after this step; once more to stop at once")
        signal.signal(number, previous[number])

    previous: dict[int, signal._HANDLER] = {}
    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            previous[number] = signal.signal(number, ask)
    except ValueError:
        # Signals belong to the main thread; elsewhere the caller's own handling stands.
        pass
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
