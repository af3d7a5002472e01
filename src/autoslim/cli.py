"""The command line: one command per stage, `run` for all of them. Options are the fields of the configurations."""

import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import tyro
from rich.console import Console
from rich.table import Table

from autoslim._registry import unknown_name
from autoslim.costs import make_cost
from autoslim.errors import AutoSlimError
from autoslim.graph import ChannelGraph
from autoslim.models import build_model
from autoslim.pipeline import RunConfig, parse_shape, resume, run
from autoslim.progress import Shown
from autoslim.recipes import RECIPES
from autoslim.trace import trace_channels

_HELP = """autoslim: sets the channel numbers of a neural network automatically, under a real budget.

  autoslim run [RECIPE] [options]   train one slimmable network, search the widths, retrain what was found, report
  autoslim run --resume DIR         go on with a run that was stopped
  autoslim trace MODEL [options]    show the channel groups of a network and what freezes the others

`autoslim run --help` and `autoslim trace --help` list the options. RECIPE is one of: {recipes} (default: {default}).
"""


@dataclass(frozen=True, kw_only=True)
class TraceArgs:
    """What `autoslim trace` takes."""

    model: tyro.conf.Positional[str]
    """torchvision:NAME, timm:NAME, zoo:NAME or path/to/file.py:factory; builder arguments as ?key=value&key=value."""
    input: str = "1,3,224,224"
    """Shape of the example input."""
    json: bool = False
    """Print the graph as JSON."""


@dataclass(frozen=True, kw_only=True)
class ResumeArgs:
    """What `autoslim run --resume` takes: the recipe is read from the folder."""

    resume: str
    """Folder of the run that was stopped."""


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, or 2 for an error that was told."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        recipes = list(RECIPES)
        Console(highlight=False, soft_wrap=True).print(
            _HELP.format(recipes=", ".join(recipes), default=recipes[0]), markup=False
        )
        return 0
    try:
        if args[0] not in _COMMANDS:
            raise unknown_name("command", args[0], list(_COMMANDS), hint="See autoslim --help.")
        return _COMMANDS[args[0]](args[1:])
    except AutoSlimError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"autoslim: {error}", markup=False)
        return 2


def _run(args: list[str]) -> int:
    if any(arg.split("=")[0] == "--resume" for arg in args):
        resume(tyro.cli(ResumeArgs, args=args, prog="autoslim run").resume, shown=Shown())
        return 0
    name = args.pop(0) if args and not args[0].startswith("-") else next(iter(RECIPES))
    recipe = RECIPES[name]()
    # Given budgets replace the recipe's: an option that can be repeated would be added to its default.
    config = tyro.cli(
        RunConfig,
        default=replace(recipe, budget=()),
        args=args,
        prog=f"autoslim run {name}",
        description=_describe(name, recipe),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.UseAppendAction),
    )
    command = shlex.join(["autoslim", "run", name, *args])
    config = replace(config, budget=config.budget or recipe.budget)
    if config.out == recipe.out and (config.model, config.data) != (recipe.model, recipe.data) and name == "digits":
        # Work of your own does not go into the folder of the demonstration.
        config = replace(config, out="runs/" + re.sub(r"\W+", "-", f"{config.model}-{config.data}").strip("-"))
    try:
        run(config, shown=Shown(), command=command)
    except KeyboardInterrupt:
        Console(stderr=True, soft_wrap=True).print(f"autoslim: stopped; go on with autoslim run --resume {config.out}")
        return 130
    return 0


def _describe(name: str, recipe: RunConfig) -> str:
    budgets = " ".join(f'--budget "{text}"' for text in recipe.budget)
    return (
        f"Trains one slimmable network, searches its widths under each budget, retrains what was found and reports. "
        f"Recipe {name} (of: {', '.join(RECIPES)}); its budgets unless given: {budgets}. "
        f"A run that was stopped goes on with: autoslim run --resume DIR."
    )


def _trace(args: list[str]) -> int:
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


_COMMANDS: dict[str, Callable[[list[str]], int]] = {"run": _run, "trace": _trace}
