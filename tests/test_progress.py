"""Progress: a bar with rate and time left in a terminal, lines in a log, nothing when quiet."""

import io

import pytest
from rich.console import Console

from autoslim import progress
from autoslim.progress import Shown


@pytest.fixture
def clock(monkeypatch):
    """The time that is told: clock[0], in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_lines_with_rate_and_time_left(clock, capsys):
    with Shown().bar("supernet", 100) as bar:
        for step in range(100):
            clock[0] += 0.5
            bar.advance(f"loss {step}")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["  supernet: 61/100 loss 60, 2/s, 0:20 left"]  # one in 30 seconds


def test_slow_units_are_told_in_seconds_each(clock, capsys):
    with Shown().bar("search", 10) as bar:
        clock[0] += 40
        bar.advance()
    assert capsys.readouterr().out.splitlines() == ["  search: 1/10, 40 s each, 6:00 left"]


def test_what_was_done_before_tells_nothing_of_the_pace(clock, capsys):
    with Shown().bar("supernet", 0) as bar:
        for done in range(901, 951):
            clock[0] += 1
            bar.reach(done, 1000, "loss 1")
    assert capsys.readouterr().out.splitlines() == ["  supernet: 931/1000 loss 1, 1 s each, 1:09 left"]


def test_a_terminal_gets_a_bar(clock):
    shown, seen = Shown(), io.StringIO()
    shown.console = Console(file=seen, force_terminal=True, width=120, color_system=None)
    with shown.bar("retrain", 8) as bar:
        clock[0] += 0.5
        bar.advance("loss 0.1 :cat: [red]", steps=2)
    text = seen.getvalue()
    for part in ("retrain loss 0.1 :cat: [red]", "2/8", "4/s, 0:02 left", "━"):
        assert part in text


def test_names_that_are_not_utf8_are_written_out(clock, capsys):
    shown, seen = Shown(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    shown.line("caf\udce9.jpg")
    with shown.bar("caf\udce9", 2) as bar:
        clock[0] += 99
        bar.advance("\udce9")
    assert capsys.readouterr().out.splitlines() == ["caf\\udce9.jpg", "  caf\\udce9: 1/2 \\udce9, 99 s each, 1:39 left"]
    shown.console = Console(file=seen, force_terminal=True, width=120, color_system=None)
    with shown.bar("caf\udce9", 2) as bar:
        bar.advance("\udce8")
    seen.flush()
    assert b"caf\\udce9 \\udce8" in seen.buffer.getvalue()


def test_quiet_is_silent(clock, capsys):
    shown = Shown(quiet=True)
    shown.line("told")
    with shown.bar("search", 2) as bar:
        clock[0] += 99
        bar.advance()
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
