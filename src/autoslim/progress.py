"""What a long run shows: a progress bar in a terminal, plain lines in a log, one line of result per stage."""

import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from autoslim._console import make_console, printable

_EVERY = 30.0  # seconds between lines where there is no terminal to draw a bar in


def say_clock(seconds: float) -> str:
    """A span of time as a clock shows it.

    >>> say_clock(75.4), say_clock(7384)
    ('1:15', '2:03:04')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def say_many(number: int, thing: str) -> str:
    """A number of things.

    >>> say_many(1, "thread"), say_many(12000, "step")
    ('1 thread', '12,000 steps')
    """
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


class Bar:
    """One stage's progress, with its rate and the time left; `advance` after each unit of work."""

    def __init__(self, shown: "Shown", name: str, total: int, bars: Progress | None) -> None:
        self._shown, self._name, self._total, self._bars = shown, printable(name), total, bars
        self._task = bars.add_task(self._name, total=total, pace="") if bars is not None else None
        self._done, self._before = 0, 0
        self._started = self._told = time.monotonic()

    def reach(self, done: int, total: int, info: str = "") -> None:
        """`done` of `total` units are done, where the total shows only now, or some were done before."""
        if self._done == 0:
            self._before = done - 1  # by an earlier session: they tell nothing of the pace
        self._total = total
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, total=total)
        self.advance(info, steps=done - self._done)

    def advance(self, info: str = "", *, steps: int = 1) -> None:
        """`steps` more units are done; `info` is shown beside the bar."""
        self._done += steps
        now = time.monotonic()
        if self._bars is not None and self._task is not None:
            self._bars.update(
                self._task, advance=steps, description=f"{self._name} {printable(info)}", pace=self._pace(now)
            )
        elif now - self._told > _EVERY:
            self._told = now
            told = f"{self._done}/{self._total} {info}".rstrip()
            self._shown.line(f"  {self._name}: {told}, {self._pace(now)}")

    def _pace(self, now: float) -> str:
        """The mean rate so far, and the time left if it goes on so: "12.3/s, 1:15 left"."""
        steps, seconds = self._done - self._before, now - self._started
        if steps <= 0 or seconds <= 0:
            return ""
        each = seconds / steps
        rate = f"{1 / each:.3g}/s" if each < 1 else f"{each:.3g} s each"
        return f"{rate}, {say_clock(max(self._total - self._done, 0) * each)} left"


class Shown:
    """Where a run's words go. `quiet` shows nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = make_console(quiet=quiet, soft_wrap=True)

    def line(self, text: str) -> None:
        self.console.print(text)

    @contextmanager
    def bar(self, name: str, total: int) -> Generator[Bar, None, None]:
        """A bar of `total` units that vanishes when the stage is over; its result is told by `line`."""
        if not self.console.is_terminal or self.console.quiet:
            yield Bar(self, name, total, None)
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns, TextColumn("{task.fields[pace]}"), TimeElapsedColumn(), console=self.console, transient=True
        ) as bars:
            yield Bar(self, name, total, bars)
