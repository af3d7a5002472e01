"""`autoslim report`: the page of a run written anew, or several runs side by side; a picture for papers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from autoslim._console import make_console
from autoslim.errors import ConfigError
from autoslim.report import write_comparison, write_png, write_report
from autoslim.report.run import read_runs


@dataclass(frozen=True, kw_only=True)
class ReportArgs:
    """What `autoslim report` takes."""

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders of finished runs."""
    out: str = ""
    """The page; report.html in the run's folder unless given, of several runs reports.html here."""
    png: str = ""
    """Also a picture for papers: width bars and accuracy against cost (.png, .pdf, .svg; needs matplotlib)."""
    axis: str = "macs"
    """Cost on the picture's horizontal axis: macs, params, memory, peak_memory or latency."""


def report_command(args: list[str]) -> int:
    """Writes the page and the picture; returns the exit code."""
    about = "Writes the report of a run anew, or one page that lays several runs side by side."
    given = tyro.cli(ReportArgs, args=args, prog="autoslim report", description=about)
    folders = [Path(run) for run in given.runs]
    if not folders:
        raise ConfigError(
            "autoslim report: no run was given; expected the folder of a finished run, or several. "
            "Write for instance: autoslim report runs/digits"
        )
    console = make_console(soft_wrap=True)
    if len(folders) == 1 and not given.out:
        page = write_report(folders[0])
    else:
        page = write_comparison(folders, Path(given.out or "reports.html"))
    console.print(f"report    {page} ({page.stat().st_size / 1000:.0f} kB)")
    if given.png:
        picture = write_png(read_runs(folders), Path(given.png), metric=given.axis)
        console.print(f"picture   {picture} ({picture.stat().st_size / 1000:.0f} kB)")
    return 0
