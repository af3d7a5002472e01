"""`autoslim trace`: the channel groups of a network, and why the others are frozen."""

import json
from dataclasses import dataclass

import torch
import tyro
from rich.console import Console
from rich.table import Table

from autoslim.costs import make_cost
from autoslim.graph import ChannelGraph
from autoslim.models import build_model
from autoslim.pipeline import parse_shape
from autoslim.trace import trace_channels


@dataclass(frozen=True, kw_only=True)
class TraceArgs:
    """What `autoslim trace` takes."""

    model: tyro.conf.Positional[str]
    """torchvision:NAME, timm:NAME, zoo:NAME or path/to/file.py:factory; builder arguments as ?key=value&key=value."""
    input: str = "1,3,224,224"
    """Shape of the example input."""
    json: bool = False
    """Print the graph as JSON."""


def trace_command(args: list[str]) -> int:
    """Traces a network and prints its groups; returns the exit code."""
    given = tyro.cli(TraceArgs, args=args, prog="autoslim trace", description="Shows the channel groups of a network.")
    shape = parse_shape(given.input)
    graph = trace_channels(build_model(given.model), torch.zeros(shape))
    console = Console(highlight=False, soft_wrap=given.json)
    if given.json:
        console.print(json.dumps(graph.to_json()), markup=False)
    else:
        _show(console, graph)
    return 0


def _show(console: Console, graph: ChannelGraph) -> None:
    table = Table("group", "channels", "atom", "layers", "candidates, or why it is frozen", box=None)
    for group in graph.groups:
        why = f"frozen: {group.frozen}" if group.frozen else " ".join(map(str, group.candidates))
        table.add_row(
            group.name,
            str(group.size),
            str(group.atom),
            str(len(group.layers)),
            why + (group.note and f"; {group.note}"),
        )
    console.print(table)
    for name in ("macs", "params", "memory"):
        cost = make_cost(name, graph)
        widest, narrowest = cost(graph.max_widths()), cost(graph.min_widths())
        console.print(
            f"{name:7} {widest / 1e6:.2f}M widest, {narrowest / 1e6:.2f}M narrowest ({narrowest / widest:.1%})"
        )
    for note in graph.notes:
        console.print(f"note: {note}", markup=False)
