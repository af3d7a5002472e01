"""SIGTERM and SIGINT in the middle of a training: heard, and acted upon between two steps."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

HELD = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def hold_signals(hold: bool) -> Generator[list[int], None, None]:
    """Collects the signals that ask this process to end; on leaving, the first is delivered to whoever handled it.

    A second Ctrl-C is delivered at once: whoever presses it twice does not want to wait. SIGTERM is not, as a job's
    manager and its launcher may each send one. Without `hold`, and outside the main thread, where Python lets nobody
    handle signals, they do what they did.

    Raises:
        KeyboardInterrupt: A signal came, and its own handler let the process live.
    """
    asked: list[int] = []
    before: dict[int, Any] = {}

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    def hear(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            restore()
            signal.raise_signal(number)
        asked.append(number)

    if hold and threading.current_thread() is threading.main_thread():
        for number in HELD:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, hear)
    try:
        yield asked
    finally:
        restore()
    if asked:
        signal.raise_signal(asked[0])
        raise KeyboardInterrupt
