"""Stage 3 of a run: the search, until what it found holds its budgets as measured, not only as predicted.

A latency is predicted while the search runs, and measured for each network that it finds. Where the two differ the
prediction is corrected, the path so far is priced anew, and the search goes on from there, until all that it finds has
been measured.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from autoslim.budget import Budget
from autoslim.costs.latency import LatencyCost
from autoslim.errors import BudgetError
from autoslim.pipeline._job import Job
from autoslim.pipeline._latency import LATENCY, TABLE
from autoslim.report.text import say_count
from autoslim.run_folder import RunFolder
from autoslim.search import Found, Method, Step
from autoslim.widths import Widths

STEPS = "search.jsonl"
ROUNDS = 20  # of searching and measuring; a latency that does not settle by then is noise


def search_budgets(job: Job, place: RunFolder | None = None, method: Method | None = None) -> list[Found]:
    """A network for each budget; every accepted step is on the disk before the next.

    Args:
        job: With a trained supernet, and budgets.
        place: Where steps, times and measured latencies go; default the run's own folder.
        method: That searches; default the run's own.

    Raises:
        BudgetError: No network holds a budget as measured.
    """
    place = place or job.folder
    searcher: Method = method or job.config.search
    found = _search(job, place, searcher)
    cost = job.costs.get(LATENCY)
    if not isinstance(cost, LatencyCost):
        return found
    for _ in range(ROUNDS):
        new: dict[Widths, list[Budget]] = {}
        for each in _limited(found):
            if each.widths not in cost.measured:
                new.setdefault(each.widths, []).append(each.budget)
        if not new:
            break
        job.costs[LATENCY] = cost = measure_found(job, cost, new)
        cost.save(place.path / TABLE)
        found = _search(job, place, searcher)
    for each in _limited(found):
        told = cost.measured.get(each.widths)
        if told is None or not each.budget.holds({**each.costs, LATENCY: told}, job.base):
            raise BudgetError(
                f"Budget {each.budget.text!r}: after {ROUNDS} rounds of searching and measuring the network found "
                f"takes {told or each.costs[LATENCY]:.3g} ms; expected one that holds it. The machine may be too busy "
                f"to measure on. Close other programs and go on (autoslim run --resume {job.folder.path}, or the same "
                "autoslim search again)."
            )
    return found


def binding_metric(found: Found, base: Mapping[str, float]) -> str:
    """The metric of the limit that is used up the most: the one a fair counterpart must match."""
    return max(found.budget.limits, key=lambda limit: found.costs[limit.metric] / limit.absolute(base)).metric


def _search(job: Job, place: RunFolder, method: Method) -> list[Found]:
    """One search, from the steps that were taken already."""
    done, last = _steps(job, place), [time.monotonic()]
    worth = partial(job.task.metric.tell, digits=1)

    def on_step(step: Step) -> None:
        place.append(STEPS, step.to_json())
        now = time.monotonic()
        place.append("times.jsonl", {"search_step": step.step, "step_seconds": round(now - last[0], 3)})
        last[0] = now
        share = step.costs["macs"] / job.base["macs"]
        bar.advance(f"{step.group} {step.before}->{step.after}, {share:.0%} of MACs, {worth(step.accuracy)}")

    most = sum(len(group.candidates) - 1 for group in job.graph.groups)
    with job.timed("search", place), job.shown.bar("search", most) as bar:
        found = method.search(
            job.space, job.costs, job.config.budgets, job.scorer, base=job.base, done=done, on_step=on_step
        )
    if not (place.path / STEPS).exists():
        place.rewrite(STEPS, [])  # a search that takes no steps: the file says so
    by = "" if method is job.config.search else f" by {place.path.name}"
    for each in found:
        latency = f", {each.costs[LATENCY]:.3g} ms {_known(job, each.widths)}" if LATENCY in each.costs else ""
        job.shown.line(
            f"search    {each.budget.text}{by}: {say_count(each.costs['macs'])} MACs{latency}, "
            f"{worth(each.score.accuracy)} in the supernet on {len(job.judges)} search images, {job.took('search')}"
        )
    return found


def _known(job: Job, widths: Widths) -> str:
    cost = job.costs.get(LATENCY)
    return "measured" if isinstance(cost, LatencyCost) and widths in cost.measured else "predicted"


def _steps(job: Job, place: RunFolder) -> list[Step]:
    """The steps so far, at today's prices where those follow from measurements."""
    lines = place.lines(STEPS)
    steps = [Step.from_json(line) for line in lines]
    cost = job.costs.get(LATENCY)
    if isinstance(cost, LatencyCost) and steps and all(LATENCY in step.costs for step in steps):
        prices = cost.many([step.widths for step in steps]).tolist()
        steps = [replace(step, costs={**step.costs, LATENCY: price}) for step, price in zip(steps, prices, strict=True)]
        if [step.to_json() for step in steps] != lines:
            place.rewrite(STEPS, [step.to_json() for step in steps])
    return steps


def _limited(found: Sequence[Found]) -> list[Found]:
    return [each for each in found if any(limit.metric == LATENCY for limit in each.budget.limits)]


def measure_found(
    job: Job, cost: LatencyCost, new: Mapping[Widths, Sequence[Budget]], *, what: str = "measure"
) -> LatencyCost:
    """A prediction, corrected by what networks really take, each found for some budgets."""
    with job.shown.bar("measure", len(new)) as bar:
        measured = job.ranks.tell(cost.measure(list(new), on_progress=bar.reach) if job.ranks.first else [])
    for (widths, budgets), latency in zip(new.items(), measured, strict=True):
        held = [each.holds({**job.price(widths), LATENCY: latency.median}, job.base) for each in budgets]
        texts = [each.text for each in budgets]
        verdicts = [f"holds {text}" if one else f"too slow for {text}" for one, text in zip(held, texts, strict=True)]
        verdict = ", ".join(verdicts) + ", the search goes on" * (not all(held))
        noisy = "; the machine is too busy to be sure" if latency.noisy else ""
        job.shown.line(f"{what:<10}predicted {cost(widths):.3g} ms, measured {latency}: {verdict}{noisy}")
    return cost.corrected({widths: latency.median for widths, latency in zip(new, measured, strict=True)})
