"""`autoslim search`: the supernet of a run searched once more."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from autoslim._console import make_console
from autoslim.budget import Budget
from autoslim.cli._method import FLAT, named_method
from autoslim.cli._plan import show_plan
from autoslim.cli._stop import tell_stopped
from autoslim.errors import ConfigError
from autoslim.pipeline import plan_search, read_config, search_again
from autoslim.progress import Shown, say_many
from autoslim.report.text import say_cost
from autoslim.search import METHODS, make_method
from autoslim.tasks import Metric, find_task


@dataclass(frozen=True, kw_only=True)
class SearchArgs:
    """What `autoslim search` takes; defaults are the run's."""

    method: str = "greedy"
    """Search method; the search options below are its own."""
    budget: tuple[str, ...] = ()
    """What the slim network may cost, as for autoslim run; the run's budgets unless given."""
    name: str = ""
    """Name of the result, a folder in RUN/searches; method and budgets unless given."""
    dry_run: bool = False
    """Tell costs, budgets, and how long the search will take; write nothing into the run's folder."""
    json: bool = False
    """Print the result as JSON."""
    quiet: bool = False
    """Show nothing but errors; the result is in RUN/searches."""
    runtime: str = "torch"
    """Where latency is measured, as for autoslim run."""
    runtime_threads: int = 1
    """Threads that the runtime may use."""
    runtime_precision: str = "fp32"
    """Precision that the runtime calculates in, as for autoslim run."""
    runtime_batch: int = 1
    """Images at a time."""
    search: Any = None
    """How the widths are searched."""


_NOT_THE_RUNS = ("name", "dry_run", "json", "quiet", "budget")  # options that are no fields of its configuration


def search_command(args: list[str]) -> int:
    """Searches a run's supernet and prints what was found; returns the exit code, 130 or 143 if interrupted."""
    folder = args.pop(0) if args and not args[0].startswith("-") else ""
    default = _defaults(folder, args)
    given = tyro.cli(
        SearchArgs, default=default, args=args, prog=f"autoslim search {folder or 'RUN'}", description=_about(),
        config=FLAT,
    )  # fmt: skip
    if not folder:
        raise ConfigError("autoslim search: no run; expected its folder first. Write: autoslim search RUN [options]")
    run = read_config(folder)
    changes = {name: value for name, value in vars(given).items() if name not in _NOT_THE_RUNS}
    config = replace(run, budget=given.budget or run.budget, finalists=0, **changes)
    shown = Shown(quiet=given.json or given.quiet)
    if given.dry_run:
        return show_plan(plan_search(folder, config, shown=shown), as_json=given.json)
    try:
        found = search_again(folder, config, name=given.name, shown=shown)
    except KeyboardInterrupt as interrupt:
        return tell_stopped("the same command goes on with the search", interrupt)
    console = make_console(soft_wrap=given.json)
    if given.json:
        console.print(json.dumps(found))
    elif not given.quiet:
        _show(console, found, find_task(run.task).metric)
    return 0


def _defaults(folder: str, args: list[str]) -> SearchArgs:
    """The run's method and runtime; its search settings too, unless another method is named."""
    if not folder:
        method = named_method(args, SearchArgs.method)
        return SearchArgs(method=method, search=make_method(method))
    run = read_config(folder)
    method = named_method(args, run.method)
    runtime = {name: getattr(run, name) for name in vars(SearchArgs()) if name.startswith("runtime")}
    search = run.search if method == run.method else make_method(method, seed=run.seed)
    return SearchArgs(method=method, search=search, **runtime)


def _about() -> str:
    return (
        "Searches the trained supernet of a run once more: RUN is its folder, and comes first. The result goes to "
        f"RUN/searches; the run's own is not touched. Methods: {', '.join(METHODS)}. What "
        "was stopped goes on when called again."
    )


def _show(console: Console, found: dict[str, Any], metric: Metric) -> None:
    rows: list[dict[str, Any]] = found["found"]
    limited = [limit.metric for row in rows for limit in Budget.parse(row["budget"]).limits]
    metrics = list(dict.fromkeys(["macs", "params", *limited]))
    table = Table("budget", box=None)
    for column in (*metrics, f"search {metric.name}", "uniform", "gain"):
        table.add_column(column, justify="right")
    for row in rows:
        mine, uniform = row["accuracy"], row["uniform"]["accuracy"]
        costs = [say_cost(name, row["costs"][name]) for name in metrics]
        table.add_row(row["budget"], *costs, metric.say(mine), metric.say(uniform), metric.say_gain(mine - uniform))
    console.print(table)
    name = metric.name.capitalize() if metric.name.islower() else metric.name
    images = found["images"]
    each = f" (one is {100 / images:.2g} points)" if metric.key == "accuracy" else ""
    console.print(
        f"{name} in the supernet on {images} search images{each}; uniform: one ratio for all layers, of about "
        f"the same cost, or under a latency the widest that holds it. "
        f"{say_many(round(found['evaluations']), 'evaluation')}, {found['seconds']:.1f} s, {found['folder']}",
        soft_wrap=True,
    )
    for row in rows:
        if row["uniform"].get("note"):
            console.print(f"{row['budget']}: uniform is {row['uniform']['note']}", soft_wrap=True)
    run, name = Path(found["folder"]).parents[1], Path(found["folder"]).name
    console.print(
        f'A network of it: autoslim pick {run} --search {name} --budget "{rows[0]["budget"]}" --extract DIR',
        soft_wrap=True,
    )
