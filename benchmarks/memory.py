"""What greedy's memory costs and misses, on the steps of an exhaustive search: no network is run.

    python benchmarks/memory.py STEPS [STEPS ...] [--budgets 70,60,50,40,30]

STEPS are the steps of `Exhaustive()` that `search.py` leaves in its --work (`steps-SEED-exhaustive.jsonl`): each holds
the harm of every group. Greedy's own code chooses at each of them with what it remembers; whatever it chooses, the path
goes on as it did. Told are the evaluations, the steps at which it chooses another group, and its regret: the harm of
its choices beyond that of the best, for what the best saves, as a share of the whole path's rise in loss. Beside it the
drift: how the harm of a group that was not narrowed changes with the steps since it was seen, in quantiles.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoslim import trace_channels
from autoslim.budget import Budget
from autoslim.costs import make_cost
from autoslim.models import build_model
from autoslim.search import Greedy, Sample, Space, Step
from autoslim.search._path import Option, Point, current_limits, make_rank, options
from supernet import MODEL

SETTINGS = {
    "default": Greedy(race=False),
    "narrowed 1": Greedy(race=False, narrowed=1.0),
    "narrowed 0.3": Greedy(race=False, narrowed=0.3),
    "margin 0": Greedy(race=False, margin=0.0),
    "margin 0.05": Greedy(race=False, margin=0.05),
    "margin 0.15": Greedy(race=False, margin=0.15),
    "fading 0.95": Greedy(race=False, fading=0.95),
    "fading 0.97": Greedy(race=False, fading=0.97),
    "fading 0.97, margin 0": Greedy(race=False, fading=0.97, margin=0.0),
    "fading 0.99": Greedy(race=False, fading=0.99),
    "fading 1": Greedy(race=False, fading=1.0),
}
AGES, QUANTILES, NOISE = (1, 2, 5, 10, 20, 40), (0.05, 0.25, 0.5, 0.75), 5e-4


@dataclass
class Told:
    """A scorer that answers with the rise that the exhaustive search saw: one image each, on a base of 0."""

    rises: Mapping[Any, float]

    def samples(self, trials: Sequence[Any], *, base: Any = None, referee: Any = None) -> list[Sample]:
        return [Sample(np.array([self.rises[widths]]), np.zeros(1)) for widths in trials]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", type=Path, nargs="+")
    parser.add_argument("--budgets", default="70,60,50,40,30", help="shares of the MACs, in percent")
    args = parser.parse_args()
    budgets = [Budget.parse(f"macs<={share}%") for share in args.budgets.split(",")]
    print(json.dumps({path.name: replay(path, budgets) for path in args.steps}, indent=1))


def replay(path: Path, budgets: list[Budget]) -> dict[str, Any]:
    steps = [Step.from_json(json.loads(line)) for line in path.read_text().splitlines()]
    places = list(walk(steps, budgets))
    rise = sum(max(step.tried[step.group][1], 0.0) for step in steps)
    settings = {}
    for name, greedy in SETTINGS.items():
        evaluations, others, regret = choose(greedy, steps, places)
        settings[name] = {"evaluations": evaluations, "other_choices": others, "regret": round(regret / rise, 4)}
    return {"steps": len(steps), "settings": settings, "drift": drift(steps)}


def walk(steps: Sequence[Step], budgets: list[Budget]) -> Iterator[tuple[Point, list[Option]]]:
    """Where each step was taken, and the options there."""
    graph = trace_channels(build_model(MODEL, num_classes=10), torch.zeros(1, 3, 32, 32)).limit("*", divisor=1)
    cost = make_cost("macs", graph)
    space = Space.of(graph.groups)
    base = {"macs": cost(space.widest)}
    here = Point(space.widest, base, None, Sample(np.zeros(1), np.zeros(1)))
    for step in steps:
        unmet = [budget for budget in budgets if not budget.holds(here.costs, base)]
        limits = current_limits(unmet, base, here.costs)
        offered = options(space, {"macs": cost}, limits, base, here, Greedy().min_saving)
        yield here, [option for option in offered if option.group in step.tried]
        here = Point(step.widths, step.costs, None, Sample(np.zeros(1), np.zeros(1)))


def choose(
    greedy: Greedy, steps: Sequence[Step], places: Sequence[tuple[Point, list[Option]]]
) -> tuple[int, int, float]:
    told = Told({})
    chooser, evaluations, others, regret = greedy.chooser(told), 0, 0, 0.0  # pyright: ignore
    for number, (step, (here, offered)) in enumerate(zip(steps, places, strict=True), start=1):
        rises = {option.group: step.tried[option.group][1] for option in offered}
        told.rises = {option.widths: rises[option.group] for option in offered}
        choice = chooser.choose(here, offered, number)
        rank = make_rank(offered, greedy.normalize)
        best = min(offered, key=lambda option: rank(option, rises[option.group]))
        harms = [max(rises[option.group], 0.0) / option.saving for option in (choice.option, best)]
        evaluations, others = evaluations + len(choice.tried), others + (choice.option.group != best.group)
        regret += (harms[0] - harms[1]) * best.saving
        chooser.remember(Step(**{**vars(step), "tried": choice.tried}))
    return evaluations, others, regret


def drift(steps: Sequence[Step]) -> dict[int, list[float]]:
    """Per age in steps: quantiles of a group's rise over its rise then, its next width being the same."""
    found: dict[int, list[float]] = {}
    for age in AGES:
        ratios = [
            later.tried[group][1] / rise
            for before, later in zip(steps, steps[age:], strict=False)
            for group, (after, rise, _) in before.tried.items()
            if rise > NOISE and group in later.tried and later.tried[group][0] == after
        ]
        found[age] = [round(float(each), 3) for each in np.quantile(ratios, QUANTILES)] if ratios else [math.nan]
    return found


if __name__ == "__main__":
    main()
