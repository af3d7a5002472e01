"""Which other searches' networks may compete with those of a run's own, where it has finalists."""

from dataclasses import replace
from typing import Any

from autoslim.errors import ConfigError
from autoslim.search import METHODS, Evolution, Exhaustive, Greedy, Method, Uniform, make_method

_LIKELIEST = ("knapsack", "random")  # of the other methods; shapes look at no image


def rivals_of(search: Any, *, by_image: bool = True, seed: int = 0) -> dict[str, Method]:
    """Searches whose networks may compete with those of `search`, the likeliest first.

    Args:
        search: The run's own.
        by_image: Whether the task's metric is a mean over images, by which a step can be decided.
        seed: Of what they draw.
    """
    greedy = search if isinstance(search, Greedy) else Greedy()
    normalize = "none" if greedy.normalize == "cost" else "cost"
    metric = "accuracy" if greedy.metric == "loss" else "loss"
    rivals: dict[str, Method] = {} if greedy is search else {"greedy": greedy}
    rivals[f"greedy, normalize={normalize}"] = replace(greedy, normalize=normalize)
    if by_image or metric == "loss":
        rivals[f"greedy, metric={metric}"] = replace(greedy, metric=metric)
    dear = (Exhaustive, Evolution)  # cost too much to be run beside the one that was asked for
    left_out = (Greedy, Uniform, *dear, type(search))
    names = dict.fromkeys([*_LIKELIEST, *METHODS])
    return rivals | {name: make_method(name, seed=seed) for name in names if METHODS[name] not in left_out}


def check_finalists(finalists: int, epochs: int, *, search: Any, retrain: str, by_image: bool = True) -> None:
    """Raises ConfigError for settings that can't be met; `by_image` as for `rivals_of`."""
    rivals = rivals_of(search, by_image=by_image)
    if finalists != 0 and not 2 <= finalists <= 2 + len(rivals):
        raise ConfigError(
            f"RunConfig.finalists is {finalists}; expected 0 (off), or from 2 (the found and the uniform network) to "
            f"{2 + len(rivals)} (with {'; '.join(rivals)}). Write for instance --finalists 2."
        )
    if finalists and retrain == "none":
        raise ConfigError(
            'RunConfig.finalists was given, but retrain="none"; expected networks that are trained. Drop one of them.'
        )
    if epochs < 0:
        raise ConfigError(f"RunConfig.finalist_epochs is {epochs}; expected 1 or more, or 0 for half the retraining.")
