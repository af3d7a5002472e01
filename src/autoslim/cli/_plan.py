"""`--dry-run`: what is shown before anything is spent."""

import json

from rich.console import Console
from rich.table import Table

from autoslim._console import make_console
from autoslim.pipeline import Plan
from autoslim.report.text import say_cost


def show_plan(plan: Plan, *, as_json: bool = False) -> int:
    """Prints a plan; returns the exit code: 2 where its budgets are refused."""
    console = make_console(soft_wrap=as_json)
    if as_json:
        console.print(json.dumps(plan.to_json()))
    else:
        _show(console, plan)
    if plan.refused is None:
        return 0
    make_console(stderr=True, soft_wrap=True).print(f"autoslim: {plan.refused}")
    return 2


def _show(console: Console, plan: Plan) -> None:
    prices = Table("cost", box=None)
    for column in ("narrowest", "uniform half", "widest", "yours"):
        prices.add_column(column, justify="right")
    for metric, price in plan.prices.items():
        row = (price.narrowest, price.half, price.widest, price.own)
        prices.add_row(metric, *(say_cost(metric, value) for value in row))
    console.print(prices)
    budgets = Table("budget", "limit", box=None)
    for column in ("at most", "of yours", "narrowest", "verdict"):
        budgets.add_column(column, justify="right")
    for reach in plan.budgets:
        shares = (f"{reach.share:.1%}", f"{reach.narrowest:.1%}")
        most = say_cost(reach.metric, reach.most)
        budgets.add_row(reach.budget, reach.metric, most, *shares, plan.verdict(reach))
    console.print(budgets)
    for line in plan.durations():
        console.print(line, soft_wrap=True)
