"""The choice of a search method on the command line: its name is read first, the options that follow are its own."""

from collections.abc import Sequence
from dataclasses import field, fields, make_dataclass
from typing import Any

import tyro

from autoslim.search import METHODS

FLAT = (tyro.conf.OmitArgPrefixes, tyro.conf.UseAppendAction)  # --margin, not --search.margin; --budget again and again


def named_method(args: Sequence[str], default: str) -> str:
    """What `--method` names; UnknownNameError if there is no such method.

    >>> named_method(["--lr", "0.1", "--method", "uniform"], "greedy"), named_method(["--method=greedy"], "uniform")
    ('uniform', 'greedy')
    """
    name = default
    for at, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if option == "--method" and (equals or at + 1 < len(args)):
            name = value if equals else args[at + 1]
    METHODS[name]  # refuses another one  # pyright: ignore[reportUnusedExpression]
    return name


def hide_seed(settings: Any) -> Any:
    """A method's settings without the option `--seed`: a run has one already, and every draw follows it."""
    kind = type(settings)
    if "seed" not in {one.name for one in fields(kind)}:
        return settings
    seedless = [("seed", tyro.conf.Suppress[int], field(default=settings.seed))]
    hidden = make_dataclass(kind.__name__, seedless, bases=(kind,), frozen=True, kw_only=True)
    return hidden(**vars(settings))


def show_seed(name: str, settings: Any, seed: int) -> Any:
    """The inverse, with the run's seed."""
    kind = METHODS[name]
    return settings if type(settings) is kind else kind(**{**vars(settings), "seed": seed})
