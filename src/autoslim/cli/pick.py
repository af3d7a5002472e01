"""`autoslim pick`: a sub-network for a budget from a finished search."""

import json
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from autoslim._console import make_console
from autoslim.pick import Picked, extract_picked, pick_network
from autoslim.pipeline import read_config
from autoslim.progress import Shown
from autoslim.report.text import say_cost
from autoslim.tasks import Metric, find_task


@dataclass(frozen=True, kw_only=True)
class PickArgs:
    """What `autoslim pick` takes."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder of a run whose search is done."""
    budget: str
    """What the network may cost, as for autoslim run: "macs<=30%", "latency<=4ms", "macs<=30%,params<=2M"."""
    search: str = ""
    """Pick from this later search, a folder below RUN/searches, and not from the run's own."""
    extract: str = ""
    """Write the network into this new folder, with the supernet's weights: not retrained (autoslim retrain does)."""
    json: bool = False
    """Print JSON."""


def pick_command(args: list[str]) -> int:
    """Picks a network and prints it; returns the exit code."""
    about = (
        "Takes a network for a budget from a finished search, without searching again: the first of its path that "
        "holds it, or of a method that goes down no path (evolution, knapsack, random, uniform) what it found for this "
        "very budget. Its accuracy is that in the supernet, on the search images; retrained it will be another."
    )
    given = tyro.cli(PickArgs, args=args, prog="autoslim pick", description=about)
    shown = Shown(quiet=given.json)
    picked = pick_network(given.run, given.budget, search=given.search, shown=shown)
    folder = extract_picked(given.run, picked, given.extract) if given.extract else None
    console = make_console(soft_wrap=True)
    if given.json:
        console.print(json.dumps({**picked.to_json(), "folder": None if folder is None else str(folder)}))
        return 0
    _show(console, picked, find_task(read_config(given.run).task).metric)
    if picked.step == 0:
        console.print("The whole network holds this budget: nothing is slimmed.")
    if folder is None:
        console.print("Nothing was written: --extract DIR writes this network.")
    else:
        console.print(
            f"{folder} has the network with the supernet's weights and BatchNorm statistics of its own. It was not "
            f"retrained; this trains it as the run does, and tests it: autoslim retrain {given.run} {folder}"
        )
    return 0


def _show(console: Console, picked: Picked, metric: Metric) -> None:
    costs = [
        f"{metric} {say_cost(metric, value)} ({value / picked.base[metric]:.1%})"
        for metric, value in picked.costs.items()
        if metric in picked.base
    ]
    where = f"found by {picked.method}" if picked.step is None else f"after {picked.step} of {picked.steps} steps"
    console.print(f"{picked.budget.text}: {where}. {', '.join(costs)}")
    if picked.score is not None:
        console.print(
            f"predicted: {metric.name} {metric.say(picked.score.accuracy)}, loss {picked.score.loss:.3f} in the "
            "supernet on the search images"
        )
    table = Table("group", box=None)
    table.add_column("channels", justify="right")
    for group, width in picked.widths.items():
        table.add_row(group, str(width))
    console.print(table)
