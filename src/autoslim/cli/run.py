"""`autoslim run`: all stages in order, or what is left of them."""

import re
import shlex
from dataclasses import dataclass, replace

import tyro
from rich.console import Console

from autoslim.pipeline import RunConfig, resume, run
from autoslim.progress import Shown
from autoslim.recipes import RECIPES


@dataclass(frozen=True, kw_only=True)
class ResumeArgs:
    """What `autoslim run --resume` takes: the recipe is read from the folder."""

    resume: str
    """Folder of the run that was stopped."""


def run_command(args: list[str]) -> int:
    """Runs a recipe, or goes on with a run; returns the exit code, 130 when it was interrupted."""
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
