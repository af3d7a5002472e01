"""`autoslim run`: all stages in order, or what is left of them."""

import re
import shlex
import signal
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import tyro
from rich.console import Console

from autoslim.cli._method import FLAT, hide_seed, named_method, show_seed
from autoslim.cli._plan import show_plan
from autoslim.pipeline import RunConfig, make_method, plan_run, resume, run
from autoslim.progress import Shown
from autoslim.recipes import RECIPES
from autoslim.search import METHODS

_INTERRUPTED, _TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


@dataclass(frozen=True, kw_only=True)
class ResumeArgs:
    """What `autoslim run --resume` takes: the recipe is read from the folder."""

    resume: str
    """Folder of the run that was stopped."""


@dataclass(frozen=True, kw_only=True)
class RunArgs(RunConfig):
    """A whole run."""

    dry_run: bool = False
    """Tell costs, budgets, and how long the search will take; write nothing."""


def run_command(args: list[str]) -> int:
    """Runs a recipe, or goes on with a run; returns the exit code, 130 or 143 when it was interrupted or terminated."""
    if any(arg.split("=")[0] == "--resume" for arg in args):
        folder = tyro.cli(ResumeArgs, args=args, prog="autoslim run").resume
        return _until_stopped(lambda: resume(folder, shown=Shown()), folder)
    name = args.pop(0) if args and not args[0].startswith("-") else next(iter(RECIPES))
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
    if given.dry_run:
        return show_plan(plan_run(config, shown=Shown()))
    return _until_stopped(lambda: run(config, shown=Shown(), command=command), config.out)


def _until_stopped(work: Callable[[], object], folder: str) -> int:
    """Does it, and returns 0; stopped by a signal, it says how to go on and returns 128 and the signal's number."""

    def stop(*_: object) -> None:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)  # a job that is preempted gets this one
    try:
        work()
    except (KeyboardInterrupt, SystemExit) as stopped:
        Console(stderr=True, soft_wrap=True).print(f"autoslim: stopped; go on with autoslim run --resume {folder}")
        return _INTERRUPTED if isinstance(stopped, KeyboardInterrupt) else _TERMINATED
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _describe(name: str, recipe: RunConfig) -> str:
    budgets = " ".join(f'--budget "{text}"' for text in recipe.budget)
    return (
        f"Trains one slimmable network, searches its widths under each budget, retrains what was found and reports. "
        f"Recipe {name} (of: {', '.join(RECIPES)}); its budgets unless given: {budgets}. "
        f"The search options are those of the method (--method {', '.join(METHODS)}). "
        f"A run that was stopped goes on with: autoslim run --resume DIR."
    )
