"""`autoslim run`: all stages in order, or what is left of them."""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import tyro

from autoslim._console import make_console
from autoslim.cli._method import FLAT, hide_seed, named_method, show_seed
from autoslim.cli._plan import show_plan
from autoslim.cli._stop import tell_stopped
from autoslim.pipeline import RunConfig, plan_run, resume, run
from autoslim.progress import Shown
from autoslim.recipes import RECIPES
from autoslim.search import METHODS, make_method
from autoslim.train import TrainConfig


@dataclass(frozen=True, kw_only=True)
class ResumeArgs:
    """What `autoslim run --resume` takes: the recipe is read from the folder."""

    resume: str
    """Folder of the run that was stopped."""
    quiet: bool = False
    """Show nothing but errors."""
    json: bool = False
    """Show nothing but the summary and its folder, as JSON."""


@dataclass(frozen=True, kw_only=True)
class RunArgs(RunConfig):
    """A whole run."""

    dry_run: bool = False
    """Tell costs, budgets, and how long training and search will take; write nothing."""
    quiet: bool = False
    """Show nothing but errors."""
    json: bool = False
    """Show nothing but the summary and its folder, or with --dry-run the plan, as JSON."""


def run_command(args: list[str]) -> int:
    """Runs a recipe, or goes on with a run; returns the exit code, 130 or 143 when it was interrupted or terminated."""
    if any(arg.split("=")[0] == "--resume" for arg in args):
        again = tyro.cli(ResumeArgs, args=args, prog="autoslim run")
        shown = Shown(quiet=again.quiet or again.json)
        return _until_stopped(lambda: resume(again.resume, shown=shown), again.resume, as_json=again.json)
    named = bool(args) and not args[0].startswith("-")
    name = args.pop(0) if named else next(iter(RECIPES))
    recipe = RECIPES[name]()
    method = named_method(args, recipe.method)
    settings = recipe.search if method == recipe.method else make_method(method)
    # Given budgets replace the recipe's: an option that can be repeated would be added to its default.
    default: dict[str, Any] = {**vars(recipe), "budget": (), "method": method, "search": hide_seed(settings)}
    given = tyro.cli(
        RunArgs,
        default=RunArgs(**default),
        args=args,
        prog=f"autoslim run {name}",
        description=_describe(name, recipe),
        config=FLAT,
    )
    command = shlex.join(["autoslim", "run", name, *args])
    config = RunConfig(**{field.name: getattr(given, field.name) for field in fields(RunConfig)})
    search = show_seed(method, config.search, config.seed)
    config = replace(config, budget=config.budget or recipe.budget, search=search)
    if config.out == recipe.out and (config.model, config.data) != (recipe.model, recipe.data) and name == "digits":
        # Work of your own does not go into the folder of the demonstration.
        config = replace(config, out="runs/" + re.sub(r"\W+", "-", f"{config.model}-{config.data}").strip("-"))
    shown = Shown(quiet=given.quiet or given.json)
    if not named and (config.model, config.data) != (recipe.model, recipe.data):
        shown.line(f"recipe    {name}, as none was named: {_say_training(config.train)}")
    if given.dry_run:
        return show_plan(plan_run(config, shown=shown), as_json=given.json)
    return _until_stopped(lambda: run(config, shown=shown, command=command), config.out, as_json=given.json)


def _until_stopped(work: Callable[[], Path], folder: str, *, as_json: bool) -> int:
    """Does it, and returns 0; stopped by a signal, it says how to go on and returns 128 and the signal's number."""
    try:
        done = work()
    except KeyboardInterrupt as interrupt:
        begun = (Path(folder) / "run.json").exists()
        how = f"go on with autoslim run --resume {folder}" if begun else "nothing was written yet"
        return tell_stopped(how, interrupt)
    if as_json:
        summary = json.loads((done / "summary.json").read_text(encoding="utf-8"))
        make_console(soft_wrap=True).print(json.dumps({"folder": str(done), **summary}))
    return 0


def _say_training(train: TrainConfig) -> str:
    """What matters most of a training, each with its option."""
    return (
        f"--lr {train.lr:g}, --batch-size {train.batch_size}, --augment {train.augment}, --epochs-supernet "
        f"{train.epochs_supernet}, --epochs-retrain {train.epochs_retrain}"
    )


def _describe(name: str, recipe: RunConfig) -> str:
    budgets = " ".join(f'--budget "{text}"' for text in recipe.budget)
    return (
        f"Trains one slimmable network, searches its widths under each budget, retrains what was found and reports. "
        f"Recipe {name} (of: {', '.join(RECIPES)}); its budgets unless given: {budgets}. "
        f"The search options are those of the method (--method {', '.join(METHODS)}). "
        f"A run that was stopped goes on with: autoslim run --resume DIR."
    )
