"""`autoslim doctor`: what is installed, and whether it works."""

import json
from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autoslim._console import make_console
from autoslim.doctor import Check, Diagnosis, diagnose
from autoslim.progress import Shown

_COLOURS = {"works": "green", "missing": "yellow", "fails": "red"}


@dataclass(frozen=True, kw_only=True)
class DoctorArgs:
    """What `autoslim doctor` takes."""

    self_test: bool = True
    """Run the whole pipeline on the digits, too, in a folder that is removed again: about 20 seconds."""
    json: bool = False
    """Print JSON."""


def doctor_command(args: list[str]) -> int:
    """Tries everything and tells what was found; returns the exit code: 1 where something needed does not work."""
    about = (
        "Tries what is installed: packages and extras, devices, runtimes, threads and allocator, and the pipeline "
        "from trace to ONNX. Exit code 1 if something that autoslim run needs does not work."
    )
    given = tyro.cli(DoctorArgs, args=args, prog="autoslim doctor", description=about)
    found = diagnose(self_test=given.self_test, shown=Shown(quiet=given.json))
    console = make_console(soft_wrap=given.json)
    if given.json:
        console.print(json.dumps(found.to_json()))
    else:
        _show(console, found)
    return 0 if found.well else 1


def _show(console: Console, found: Diagnosis) -> None:
    console.print(found.machine)
    table = Table(box=None, show_header=False)
    before = ""
    for check in found.checks:
        kind, before = ("" if check.kind == before else check.kind), check.kind
        table.add_row(kind, Text(check.name), Text(check.state, style=_COLOURS[check.state]), Text(_say(check)))
    console.print(table)
    lacking = [check.name for check in found.checks if check.needed and check.state != "works"]
    broken = f"autoslim run needs what does not work here: {', '.join(lacking)}."
    console.print(broken if lacking else "All that autoslim run needs works.")


def _say(check: Check) -> str:
    return f"{check.told}. {check.advice}" if check.advice else check.told
