"""What a long run shows: a progress bar in a terminal, plain lines in a log, one line of result per stage."""

import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_EVERY = 30.0  # seconds between lines where there is no terminal to draw a bar in


class Bar:
    """One stage's progress; `advance` after each unit of work."""

    def __init__(self, shown: "Shown", name: str, total: int, bars: Progress | None) -> None:
        self._shown, self._name, self._total, self._bars = shown, name, total, bars
        self._task = bars.add_task(name, total=total) if bars is not None else None
        self._done, self._told = 0, time.monotonic()

    def reach(self, done: int, total: int, info: str = "") -> None:
        """`done` of `total` units are done, where the total shows only now, or some were done before."""
        self._total = total
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, total=total)
        self.advance(info, steps=done - self._done)

    def advance(self, info: str = "", *, steps: int = 1) -> None:
        """`steps` more units are done; `info` is shown beside the bar."""
        self._done += steps
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, advance=steps, description=f"{self._name} {info}")
        elif time.monotonic() - self._told > _EVERY:
            self._told = time.monotonic()
            self._shown.line(f"  {self._name}: {self._done}/{self._total} {info}")


class Shown:
    """Where a run's words go. `quiet` shows nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        self.console.print(text, markup=False)

    @contextmanager
    def bar(self, name: str, total: int) -> Generator[Bar, None, None]:
        """A bar of `total` units that vanishes when the stage is over; its result is told by `line`."""
        if not self.console.is_terminal or self.console.quiet:
            yield Bar(self, name, total, None)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console, transient=True
        ) as bars:
            yield Bar(self, name, total, bars)
