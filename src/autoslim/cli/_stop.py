"""What a command does when it is asked to end: one line on how to go on, and the exit code that the shell expects."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from autoslim._console import make_console


class Terminated(KeyboardInterrupt):
    """SIGTERM: a machine that is taken away, a job that is preempted."""


@contextmanager
def hear_terminate() -> Generator[None, None, None]:
    """Lets SIGTERM end a command as Ctrl-C does; the handler that was there before is restored."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets no other thread handle signals
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def tell_stopped(how: str, interrupt: KeyboardInterrupt) -> int:
    """Says `how` to go on; returns 143 after SIGTERM, 130 after Ctrl-C."""
    make_console(stderr=True, soft_wrap=True).print(f"autoslim: stopped; {how}")
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
