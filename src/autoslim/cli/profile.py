"""`autoslim profile`: what a network costs, layer by layer; `--paper`: the paper's table recomputed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from autoslim._console import make_console
from autoslim.cli._look import build_shown
from autoslim.errors import ConfigError
from autoslim.pipeline import parse_shape
from autoslim.profile import Cell, PaperTable, Profile, profile_network, profile_paper
from autoslim.progress import Shown, say_many
from autoslim.run_folder import read_json
from autoslim.saved import load
from autoslim.widths import Widths

_INPUT = "1,3,224,224"


@dataclass(frozen=True, kw_only=True)
class ProfileArgs:
    """What `autoslim profile` takes."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[MODEL]")] = ""
    """torchvision:NAME, timm:NAME, zoo:NAME or path/to/file.py:factory; builder arguments as ?key=value&key=value. Or
    the folder of a slim network, e.g. RUN/models/macs-50."""
    widths: str = ""
    """A widths.json: profile that sub-network."""
    input: str = _INPUT
    """Shape of the example input; a folder's network has its own."""
    paper: bool = False
    """Instead of a model: every network of the paper's table, printed and computed figures side by side."""
    latency: bool = True
    """Measure the latency of one image."""
    runtime: str = "torch"
    """Where latency is measured, as for autoslim run."""
    runtime_threads: int = 1
    """Threads that the runtime may use."""
    runtime_precision: str = "fp32"
    """Precision that the runtime calculates in, as for autoslim run."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        other = self.model or (self.widths and "--widths") or (self.input != _INPUT and "--input")
        given = {"--runtime": self.runtime, "--runtime-threads": self.runtime_threads}
        given |= {"--runtime-precision": self.runtime_precision}
        other = other or next((name for name, value in given.items() if value not in ("torch", 1, "fp32")), "")
        if self.paper and other:
            raise ConfigError(
                f"autoslim profile: --paper together with {other}; expected one of the two. "
                "Drop --paper to profile a model of your own."
            )
        if not self.paper and not self.model:
            raise ConfigError(
                "autoslim profile: no model; expected one, or --paper. Write for instance: autoslim profile "
                "torchvision:mobilenet_v2"
            )


def profile_command(args: list[str]) -> int:
    """Profiles a network, or the paper's; returns the exit code."""
    about = "Tells what a network costs: parameters, memory, MACs, latency, layer by layer."
    given = tyro.cli(ProfileArgs, args=args, prog="autoslim profile", description=about)
    console = make_console(soft_wrap=given.json)
    found = profile_paper(latency=given.latency, shown=Shown(quiet=given.json)) if given.paper else _profile(given)
    if given.json:
        console.print(json.dumps(found.to_json()))
    elif isinstance(found, Profile):
        _show_network(console, found, given)
    else:
        _show_paper(console, found)
    return 0


def _profile(given: ProfileArgs) -> Profile:
    setting: dict[str, Any] = {"runtime": given.runtime, "threads": given.runtime_threads}
    setting |= {"precision": given.runtime_precision, "latency": given.latency}
    folder = Path(given.model)
    if (folder / "config.json").exists():
        if given.widths or given.input != _INPUT:
            raise ConfigError(
                f"autoslim profile: {folder} is a slim network's folder, which has its widths and its input; expected "
                "neither --widths nor --input. Drop them."
            )
        shape = read_json(folder / "config.json", kind="SavedNetwork", version=2)["input"]
        return profile_network(load(folder), torch.zeros(shape), **setting)
    shape = parse_shape(given.input)
    widths = Widths.from_json(read_json(Path(given.widths), kind="Widths")) if given.widths else None
    return profile_network(build_shown(given.model, shape), torch.zeros(shape), widths=widths, **setting)


def _show_network(console: Console, profile: Profile, given: ProfileArgs) -> None:
    table = Table("layer", "kind", box=None)
    for column in ("channels", "params", "MACs", "share"):
        table.add_column(column, justify="right")
    for layer in profile.layers:
        numbers = (f"{layer.channels or '-'}", f"{layer.params:,}", f"{layer.macs:,}", f"{layer.share:.1%}")
        table.add_row(layer.layer or "(itself)", layer.kind, *numbers)
    console.print(table)
    for name in ("params", "memory", "peak_memory", "macs"):
        console.print(f"{name:11} {getattr(profile, name):,}")
    if profile.latency_ms is not None:
        how = f"{given.runtime}, {say_many(given.runtime_threads, 'thread')}, {given.runtime_precision}"
        console.print(f"{'latency':11} {profile.latency_ms}, one image, {how}")


def _show_paper(console: Console, table: PaperTable) -> None:
    shown = Table("network", box=None)
    for column in ("params (M)", "ours", "memory (M)", "ours", "FLOPs (M)", "ours", "latency (ms)", "here"):
        shown.add_column(column, justify="right")
    group = ""
    for row in table.rows:
        if row.group != group:
            group = row.group
            shown.add_row(group, style="bold")
        cells = [*_show_cell(row.params, 1), *_show_cell(row.memory, 1), *_show_cell(row.flops, 0)]
        here = "-" if row.latency is None else f"{row.latency.median:.3g}"
        shown.add_row(row.name, *cells, f"{row.printed_ms or '-'}", here)
    console.print(shown)
    for row in table.rows:
        if row.note:
            console.print(f"{row.name}: {row.note}")
    counts = ", ".join("{} {} of {}".format(column, *table.count(column)) for column in ("params", "memory", "flops"))
    console.print(f"Equal to the printed digit (* is not): {counts}.")
    correlation = table.rank_correlation()
    if correlation is not None:
        console.print(f"Latency here against the printed one: rank correlation {correlation:.2f}.")


def _show_cell(cell: Cell, digits: int) -> tuple[str, str]:
    printed, ours = ("-" if value is None else f"{value:.{digits}f}" for value in (cell.printed, cell.computed))
    return printed, ours + "*" * (cell.agrees is False)
