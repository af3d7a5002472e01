"""`autoslim trust`: how well the supernet of a finished run ranks its sub-networks."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.table import Table

from autoslim._console import make_console
from autoslim.cli._stop import tell_stopped
from autoslim.progress import Shown
from autoslim.trust import measure_trust


@dataclass(frozen=True, kw_only=True)
class TrustArgs:
    """What `autoslim trust` takes."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder of a finished run."""
    samples: int = 12
    """Sub-networks that are trained alone, spread over the MACs of the run's budgets."""
    epochs: int = 0
    """Epochs for each of them; 0: a quarter of those of the retraining."""
    quiet: bool = False
    """Show nothing but errors; the result is in RUN/trust.json."""
    json: bool = False
    """Print the result as JSON."""


def trust_command(args: list[str]) -> int:
    """Measures the supernet's ranking; returns the exit code, 130 or 143 if interrupted."""
    about = (
        "Tells how well the supernet ranks: trains a few sub-networks alone and compares the two orders (Kendall's "
        "tau). What was stopped goes on when called again."
    )
    given = tyro.cli(TrustArgs, args=args, prog="autoslim trust", description=about)
    shown = Shown(quiet=given.quiet or given.json)
    try:
        trust = measure_trust(given.run, samples=given.samples, epochs=given.epochs, shown=shown)
    except KeyboardInterrupt as interrupt:
        return tell_stopped(f"go on with autoslim trust {given.run}", interrupt)
    if given.json:
        make_console(soft_wrap=True).print(json.dumps(trust))
    elif not given.quiet:
        _show(trust)
    return 0


def _show(trust: dict[str, Any]) -> None:
    console = make_console()
    metric = trust.get("metric", "accuracy")
    names = {"loss": "supernet, loss", "accuracy": f"supernet, {metric}", "macs": "MACs alone"}
    table = Table(f"order against {metric} alone", box=None)
    for column in ("tau", "95% interval", "at like cost", "95% interval"):
        table.add_column(column, justify="right")
    for name, order in trust["orders"].items():
        cells = [_say(order["tau"]), _range(order, ""), _say(order["within"]), _range(order, "within_")]
        table.add_row(names[name], *cells)
    console.print(table)
    gain, low, high = map(_say, trust["gain"])
    console.print(f"Supernet's loss over MACs alone: {gain}, 95% interval {low} to {high}.")
    console.print(
        f"{trust['samples']} samples of {trust['epochs']} epochs, {trust['images']} search images, "
        f"{trust['image_macs']:.3g} image-MACs.", soft_wrap=True
    )  # fmt: skip


def _say(value: float | None) -> str:
    return "none" if value is None else f"{value:+.2f}"


def _range(order: dict[str, Any], prefix: str) -> str:
    return f"{_say(order[prefix + 'low'])} to {_say(order[prefix + 'high'])}"
