"""`autoslim compare`: AutoSlim beside the methods of the field, on the same work."""

import shlex
from dataclasses import dataclass, field, fields, replace
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from autoslim._console import make_console
from autoslim.cli._method import FLAT
from autoslim.cli._stop import tell_stopped
from autoslim.compare import CompareConfig, compare_methods, list_methods, plan_comparison
from autoslim.compare._page import caution, say_difference, say_times
from autoslim.compare._result import KEPT
from autoslim.pipeline import RunConfig
from autoslim.progress import Shown
from autoslim.recipes import RECIPES
from autoslim.report.text import say_count, say_seconds
from autoslim.train import TrainConfig

_DEFAULT = "autoslim,uniform,l1,netadapt"
_KEPT = (
    f"{KEPT.strip()}: trained on from the weights that pruning kept, or the supernet's; all others from scratch. "
    "Uniform of their kind is slimmable's: uniform widths, trained on from the supernet's weights."
)
_SEARCH = (
    "search: image-MACs (multiply-accumulates of all passes on all images) until the widths were chosen, the training "
    "that it starts from included, as times AutoSlim's."
)


@dataclass(frozen=True, kw_only=True)
class CompareArgs:
    """What `autoslim compare` takes."""

    methods: str = _DEFAULT
    """Names with commas between them, or all."""
    seeds: int = 3
    """How many, from --seed on; each covers split, supernet, search and final training."""
    model: str = ""
    """The network; default the recipe's."""
    data: str = ""
    """The images; default the recipe's."""
    budget: tuple[str, ...] = ()
    """What the networks may cost; default the recipe's."""
    out: str = ""
    """Folder for everything; one that holds this comparison is gone on with."""
    seed: int = 0
    """The first seed."""
    input: str = ""
    """Input shape, e.g. 3,64,64; follows the data unless given."""
    search_images: int = 10_000
    """Images, held out of train, that decide each search step."""
    keep: tuple[str, ...] = ()
    """Layers whose shape must stay: a module's path or a glob, e.g. features.0 or "layer4.*"."""
    limit: tuple[str, ...] = ()
    """How fine searches step in layers: a path or glob, then a multiple: "*:divisor=1". All networks are then filled up
    with single channels, so that they cost the same."""
    runtime: str = "torch"
    """Where latency is measured: torch, torch.compile, onnxruntime, openvino or "command:./measure.sh {onnx}"."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How supernet and networks are trained."""
    dry_run: bool = False
    """Tell trainings and hours; write nothing."""


def compare_command(args: list[str]) -> int:
    """Compares methods; returns the exit code, 130 or 143 if interrupted."""
    command = shlex.join(["autoslim", "compare", *args])
    name = args.pop(0) if args and not args[0].startswith("-") else next(iter(RECIPES))
    recipe = RECIPES[name]()
    given = tyro.cli(
        CompareArgs,
        default=CompareArgs(out=f"{recipe.out}-compare", train=recipe.train, search_images=recipe.search_images),
        args=args,
        prog=f"autoslim compare {name}",
        description=(
            "Runs methods on the same network, images, budgets and seeds, and ends in one table: test accuracy, costs, "
            f"and what each search cost. Methods: {', '.join(list_methods())}. The same command again goes on with a "
            "comparison that was stopped, and takes more methods or seeds."
        ),
        config=FLAT,
    )
    methods = tuple(list_methods() if given.methods == "all" else given.methods.split(","))
    config = CompareConfig(run=_run_of(given, recipe), methods=methods, seeds=given.seeds)
    console = make_console()
    if given.dry_run:
        plan = plan_comparison(config, shown=Shown())
        console.print(
            f"{plan.trainings} final trainings, {plan.final_image_macs:.3g} image-MACs (multiply-accumulates of all "
            f"passes on all images); shared before them {plan.shared_image_macs:.3g}; trainings that methods choose by "
            f"about {plan.own_image_macs:.3g}. About {say_seconds(3600 * plan.hours)} at the speed of a few steps, "
            "without what searches take to judge networks.",
            soft_wrap=True,
        )
        return 0
    try:
        result = compare_methods(config, shown=Shown(), command=command)
    except KeyboardInterrupt as interrupt:
        return tell_stopped("the same command again goes on", interrupt)
    show_table(console, result)
    place = config.run.out
    console.print(f"All costs, pictures, settings: {place}/compare.html; numbers: compare.json", soft_wrap=True)
    return 0


def _run_of(given: CompareArgs, recipe: RunConfig) -> RunConfig:
    names = {one.name for one in fields(RunConfig)} & {one.name for one in fields(given)}
    changes: dict[str, Any] = {each: getattr(given, each) for each in names}
    for each in ("model", "data", "budget", "keep", "limit"):
        changes[each] = changes[each] or getattr(recipe, each)
    return replace(recipe, **changes)


def show_table(console: Console, result: dict[str, Any]) -> None:
    """What 80 columns hold of each row, what the words mean, and what can't be compared."""
    table = Table("method", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("accuracy, %", "to uniform (95% interval)", "MACs", "search"):
        table.add_column(column, justify="right", no_wrap=True)
    for budget in dict.fromkeys(row["budget"] for row in result["rows"]):
        table.add_row(budget, style="bold")
        for row in result["rows"]:
            if row["budget"] == budget:
                table.add_row(*_cells(row))
    console.print(table)
    notes = [_SEARCH, caution(result["rows"])]
    if any(row["method"].endswith(KEPT) for row in result["rows"]):
        notes.insert(0, _KEPT)
    notes += [f"More than 1% uneven, not to be compared: {line}" for line in result["uneven"]]
    for note in notes:
        console.print(note, soft_wrap=True)


def _cells(row: dict[str, Any]) -> list[str]:
    accuracy = f"{100 * row['accuracy_mean']:.2f}"
    if row["accuracy_std"] is not None:
        accuracy += f" \N{PLUS-MINUS SIGN} {100 * row['accuracy_std']:.2f}"
    difference, interval = say_difference(row["to_uniform"])
    told = f"{difference} ({interval})" if interval else difference
    return [row["method"], accuracy, told, say_count(row["macs"]), say_times(row["times_autoslim"])]
