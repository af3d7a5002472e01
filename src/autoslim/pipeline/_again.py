"""A finished run searched once more: another method, other settings, other budgets, on the supernet that is there.

Each such search has a folder of its own, `searches/NAME` in that of the run: `search.json` says what was asked,
`search.jsonl` has its steps, `found.json` its result, written whole. The results of the run itself are not touched.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from autoslim.budget import Budget
from autoslim.errors import ConfigError, RunFolderError
from autoslim.pipeline._config import RunConfig
from autoslim.pipeline._job import Job
from autoslim.pipeline._latency import LATENCY, TABLE, keep_latency, obtain_latency
from autoslim.pipeline._plan import Plan, make_plan
from autoslim.pipeline._reopen import load_supernet, read_config, reopen_job
from autoslim.pipeline._retrain import find_uniform
from autoslim.pipeline._search import STEPS, search_budgets
from autoslim.pipeline._task import check_task
from autoslim.progress import Shown
from autoslim.run_folder import RunFolder, read_json, write_json
from autoslim.search import Found, Score, Step
from autoslim.search._path import PathSearch
from autoslim.widths import Widths

SEARCHES = "searches"
_ASKED, _FOUND, _TIMES = "search.json", "found.json", "times.jsonl"
_LONGEST = 200  # characters of a folder's name; file systems take 255 bytes
_RUNTIME = ("runtime", "runtime_threads", "runtime_precision", "runtime_batch")


def search_again(
    folder: str | Path, config: RunConfig, *, name: str = "", data: Any = None, shown: Shown | None = None
) -> dict[str, Any]:
    """Searches the trained supernet of a run, or shows what the search of that name found.

    A search that was stopped goes on after its last step, or with what was scored so far.

    Args:
        folder: Of a run; its supernet must be trained.
        config: The run's (`read_config`), with another method, settings, budgets or runtime; other fields are not
            looked at.
        name: Of the search's folder; default the method and the budgets, or a digest of many budgets.
        data: What the run was given in Python, once more.
        shown: Where progress goes.

    Returns:
        What `found.json` holds, and "seconds" and "evaluations" spent on it, over all sessions but killed ones.

    Raises:
        RunFolderError: The supernet is not trained yet, the name is taken by a search of other settings, or another
            process is at work on that search.
        BudgetError: A budget that no network holds.
        ConfigError: A name that is no plain folder name.
    """
    name = name or _default_name(config)
    if Path(name).name != name or name.startswith("."):
        raise ConfigError(f"Search {name!r}: expected a plain folder name. Write for instance --name other-margin.")
    place = RunFolder(Path(folder) / SEARCHES / name)
    asked = _asked(config)
    _check_asked(place, asked)
    if not (place.path / _FOUND).exists():
        job = open_search(Path(folder), config, place, shown=shown, data=data)
        job.check_budgets()
        place.path.mkdir(parents=True, exist_ok=True)
        job.ranks.wait()  # all have looked at what was there
        with place.held():
            write_json(place.path / _ASKED, asked)
            keep_latency(job, place)
            _take_steps(job, place)
            job.ranks.wait()  # for what all go on from
            try:
                found = search_budgets(job, place)
                rows = [_row(job, each, place) for each in found]
            finally:
                place.append(_TIMES, {"evaluations": job.scorer.evaluations})
            write_json(place.path / _FOUND, {**asked, "_type": "Found", "images": len(job.judges), "found": rows})
            job.ranks.wait()
    spent = sum(line.get("evaluations", 0) for line in place.lines(_TIMES))
    told = {"folder": str(place.path), "seconds": place.seconds().get("search", 0.0), "evaluations": spent}
    return {**read_json(place.path / _FOUND, kind="Found"), **told}


def plan_search(folder: str | Path, config: RunConfig, *, data: Any = None, shown: Shown | None = None) -> Plan:
    """What such a search would take, and whether its budgets can be met; nothing is written into the run's folder.

    Args:
        folder: Of a run; if its supernet is not trained yet, one evaluation of the untrained network is timed.
        config: As for `search_again`.
        data: Likewise.
        shown: Where progress goes.
    """
    place = RunFolder(Path(folder) / SEARCHES)
    return make_plan(open_search(Path(folder), config, place, shown=shown, data=data, trained=False))


def read_search(folder: str | Path, name: str) -> RunConfig:
    """What a later search of a run was asked: the run's configuration with the search's own in it.

    Args:
        folder: Of the run.
        name: Of the search, a folder below `searches/`.

    Raises:
        RunFolderError: There is no such search.
    """
    asked = read_json(Path(folder) / SEARCHES / name / _ASKED, kind="Search")
    runtime = {field: asked[field] for field in _RUNTIME if field in asked}
    changes = {"method": asked["method"], "search": asked["settings"], "budget": asked["budgets"], **runtime}
    return RunConfig.from_json({**asdict(read_config(folder)), "finalists": 0, **changes})


def read_found(place: RunFolder) -> list[Found] | None:
    """What a later search found, budget by budget; None if it has not ended."""
    if not (place.path / _FOUND).exists():
        return None
    return [
        Found(Budget.parse(row["budget"]), Widths(row["widths"]), row["costs"], Score(row["loss"], row["accuracy"]))
        for row in read_json(place.path / _FOUND, kind="Found")["found"]
    ]


def open_search(
    folder: Path,
    config: RunConfig,
    place: RunFolder,
    *,
    shown: Shown | None = None,
    data: Any = None,
    trained: bool = True,
) -> Job:
    """The run's job, with what a search asks.

    Args:
        folder: Of the run.
        config: As for `search_again`.
        place: Of the search; a table of latencies in it is taken, else that of the run if its runtime is the same.
        shown: Where progress goes.
        data: What the run was given in Python, once more.
        trained: Whether the supernet must be trained.

    Raises:
        RunFolderError: The supernet is not trained though it must be, or model or data have changed.
        ConfigError: A setting of the search does not go with the run's task.
    """
    own = read_config(folder)
    job = reopen_job(folder, shown=shown, data=data)
    if trained or job.supernet_path.exists():
        load_supernet(job)
    changes = {field: getattr(config, field) for field in ("method", "search", "budget", *_RUNTIME)}
    job.config = replace(job.config, finalists=0, **changes)
    check_task(job.task, job.config)
    if job.config.latency_limited:
        same = all(getattr(own, field) == getattr(config, field) for field in _RUNTIME)
        tables = [place.path / TABLE, *([folder / TABLE] if same else [])]
        table = next((path for path in tables if path.exists()), tables[0])
        if LATENCY not in job.costs or table != folder / TABLE:  # else it is the run's own, which it has already
            known = same and LATENCY in job.costs
            job.costs[LATENCY], job.base[LATENCY] = obtain_latency(job, table, known=known)
    return job


def _default_name(config: RunConfig) -> str:
    """The method and the budgets; a digest of them where a folder could not have so long a name."""
    name = "-".join([config.method, *(budget.slug for budget in config.budgets)])
    return name if len(name) <= _LONGEST else f"{config.method}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _asked(config: RunConfig) -> dict[str, Any]:
    """What makes two searches of one run the same."""
    runtime = {field: getattr(config, field) for field in _RUNTIME} if config.latency_limited else {}
    settings = {"settings": asdict(config.search), "budgets": list(config.budget), **runtime}
    return {"_type": "Search", "_version": 1, "method": config.method, **settings}


def _check_asked(place: RunFolder, asked: Mapping[str, Any]) -> None:
    """Raises RunFolderError if the folder holds another search."""
    if not (place.path / _ASKED).exists():
        return
    before = read_json(place.path / _ASKED, kind="Search")
    odd = [name for name in {**before, **asked} if before.get(name) != asked.get(name)]
    if odd:
        raise RunFolderError(
            f"{place.path} holds a search with {odd[0]} {before.get(odd[0])}; expected {asked.get(odd[0])}. Give this "
            "search another --name, or delete that folder."
        )


def _take_steps(job: Job, place: RunFolder) -> None:
    """The run's own steps, where this search would take the same: another budget is then answered at once.

    Which step is taken depends on the budgets through the violated limits alone. Where all of them, then and now,
    limit one metric, a limit only scales what every step saves, so that the order of the steps is the same. (A latency
    is corrected by what was measured on the way, which is another matter.)
    """
    own = read_config(job.folder.path)
    limited = {tuple(limit.metric for limit in budget.limits) for budget in (*own.budgets, *job.config.budgets)}
    one_metric = len(limited) == 1 and all(len(metrics) == 1 for metrics in limited) and LATENCY not in job.costs
    same = isinstance(job.config.search, PathSearch) and job.config.search == own.search
    if (place.path / STEPS).exists() or not (one_metric and same):
        return
    taken, costs = list[Step](), job.price(job.space.widest)
    for step in map(Step.from_json, job.folder.lines(STEPS)):
        if all(budget.holds(costs, job.base) for budget in job.config.budgets):
            break
        taken.append(step)
        costs = dict(step.costs)
    place.rewrite(STEPS, [step.to_json() for step in taken])


def _row(job: Job, found: Found, place: RunFolder) -> dict[str, Any]:
    """One budget's network, and the uniform one of about its cost."""
    beside = find_uniform(job, found, place)
    price, score = {**job.price(beside.widths), **beside.measured}, job.scorer.score(beside.widths)
    uniform = {**beside.facts, "costs": price, **vars(score)}
    mine = {"widths": dict(found.widths), "costs": job.price(found.widths), **vars(found.score)}
    return {"budget": found.budget.text, **mine, "uniform": uniform}
