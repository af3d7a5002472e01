"""`autoslim trace`: the channel groups of a network, and why the others are frozen."""

import json
from dataclasses import dataclass
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autoslim._console import make_console
from autoslim.cli._explain import collect, dot_text, group_shares, say_layers
from autoslim.cli._look import build_shown
from autoslim.costs import make_cost
from autoslim.errors import ConfigError
from autoslim.graph import ChannelGraph
from autoslim.pipeline import parse_shape
from autoslim.report.text import say_cost
from autoslim.rewrite import Traced, trace_best
from autoslim.trace import trace_channels


@dataclass(frozen=True, kw_only=True)
class TraceArgs:
    """What `autoslim trace` takes."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """torchvision:NAME, timm:NAME, zoo:NAME or path/to/file.py:factory; builder arguments as ?key=value&key=value."""
    input: str = "1,3,224,224"
    """Shape of the example input."""
    rewrite: bool = False
    """Rewrite the network if numbers in its own code block groups and that frees more; tells which one is shown."""
    json: bool = False
    """Print the graph as JSON, with the groups' shares of MACs and parameters."""
    dot: bool = False
    """Print the groups as a Graphviz file: who reads whose channels."""


def trace_command(args: list[str]) -> int:
    """Traces a network and prints its groups; returns the exit code."""
    given = tyro.cli(TraceArgs, args=args, prog="autoslim trace", description="Shows the channel groups of a network.")
    if given.json and given.dot:
        raise ConfigError("autoslim trace: --json and --dot were both given; expected one. Drop the other.")
    shape = parse_shape(given.input)
    model, x = build_shown(given.model, shape), torch.zeros(shape)
    traced = trace_best(model, x) if given.rewrite else None
    graph = trace_channels(model, x) if traced is None else traced.graph
    console = make_console(soft_wrap=given.json or given.dot)
    if given.json:
        console.print(json.dumps({**graph.to_json(), "shares": group_shares(graph), **_which(traced)}))
    elif given.dot:
        console.print(dot_text(graph))
    else:
        _show(console, graph)
        if traced is not None:
            which = "the rewritten network" if traced.rewritten else "the model's own code"
            console.print(f"shown: {which}: {traced.why}", soft_wrap=True)
    return 0


def _which(traced: Traced | None) -> dict[str, bool]:
    return {} if traced is None else {"rewritten": traced.rewritten}


def _show(console: Console, graph: ChannelGraph) -> None:
    reasons, notes = collect(graph, lambda group: group.frozen), collect(graph, lambda group: group.note)
    number = {reason: index for index, reason in enumerate(reasons, 1)}
    table = Table(box=None)
    for name in ("group", "layers", "channels", "candidates"):
        table.add_column(name, justify="right" if name == "channels" else "left")
    table.add_column("MACs", justify="right")
    table.add_column("params", justify="right")
    for group, share in zip(graph.groups, group_shares(graph), strict=True):
        table.add_row(
            Text(group.name),
            Text(say_layers(group)),
            f"{group.size}" + (f" by {group.atom}" if group.atom > 1 else ""),
            f"frozen ({number[group.frozen]})" if group.frozen else " ".join(map(str, group.candidates)),
            f"{share['macs']:.1%}",
            f"{share['params']:.1%}",
        )
    console.print(table)
    console.print("MACs, params: what would go with all of a group's channels; what lies between two counts for both.")
    for reason, names in reasons.items():
        console.print(f"frozen ({number[reason]}): {reason}\n  {', '.join(names)}", soft_wrap=True)
    for note, names in notes.items():
        console.print(f"note: {note}\n  {', '.join(names)}", soft_wrap=True)
    for name in ("macs", "params", "memory", "peak_memory"):
        cost = make_cost(name, graph)
        widest, narrowest = cost(graph.max_widths()), cost(graph.min_widths())
        console.print(
            f"{name:11} {say_cost(name, widest)} widest, {say_cost(name, narrowest)} narrowest "
            f"({narrowest / widest:.1%})"
        )
    for note in graph.notes:
        console.print(f"note: {note}")
