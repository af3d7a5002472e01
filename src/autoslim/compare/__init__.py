"""Every method of the field on the same work: same network, data, recipe, budgets, seeds; and what each search costs.

A seed covers split, supernet, search and final training; methods of one seed share its supernet and its images. What a
method chose is trained from scratch as all others are, and where it kept weights also trained on from those, a row of
its own. All networks of a budget cost within a percent of each other. Each trained network is a file: what was stopped
goes on there. The test images are read after a network's last training. The table holds all that the folder does.
"""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autoslim._console import printable
from autoslim._registry import unknown_name
from autoslim.baselines import BASELINES
from autoslim.baselines._base import import_needed
from autoslim.compare._bench import STAGE, Bench, make_settings, read_of
from autoslim.compare._bench import list_methods as list_methods
from autoslim.compare._latency import measure_latencies
from autoslim.compare._page import render_page
from autoslim.compare._plan import plan_comparison as plan_comparison
from autoslim.compare._result import summarise as summarise
from autoslim.errors import ConfigError, RunFolderError
from autoslim.pipeline import Job, RunConfig, check_training, join_ranks, prepare, reopen_job, write_splits
from autoslim.progress import Shown
from autoslim.run_folder import RunFolder, read_json, write_json, write_whole
from autoslim.runtimes import describe_machine
from autoslim.widths import Widths

_ASKED, _RESULT, _PAGE = "asked.json", "compare.json", "compare.html"


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """A comparison."""

    run: RunConfig
    """The work: network, data, budgets, recipe; its seed is the first one, its folder holds everything."""
    methods: tuple[str, ...]
    """Names of `list_methods()`."""
    seeds: int = 3
    """How many: the run's own and those after it."""

    def __post_init__(self) -> None:
        known = list_methods()
        for name in self.methods:
            if name not in known:
                raise unknown_name("method", name, known, hint="Write all for every one.")
        if not self.methods or self.seeds < 1:
            raise ConfigError(
                f"CompareConfig: {len(self.methods)} methods, {self.seeds} seeds; expected at least one of each."
            )
        for field, wanted in (("finalists", 0), ("retrain", "scratch"), ("from_weights", "")):
            if getattr(self.run, field) != wanted:
                raise ConfigError(
                    f"CompareConfig: the run's {field} is {getattr(self.run, field)!r}; expected {wanted!r}: all "
                    "methods end in the same training. Drop it."
                )
        if self.run.task != "classification":
            raise ConfigError(
                f"CompareConfig: the run's task is {self.run.task!r}; expected 'classification': several of the "
                "methods are led by accuracy. Compare the runs of other tasks with: autoslim report RUN RUN"
            )
        if self.run.train.compile:
            raise ConfigError(
                "CompareConfig: the run's train.compile is True; expected False: passes are counted where operators "
                "run, and a compiled network has none. Drop --compile."
            )
        odd = [text for text, (_, limits) in zip(self.run.limit, self.run.limits, strict=True) if "min" in limits]
        if odd:
            raise ConfigError(
                f"CompareConfig: the run's limit {odd[0]!r} sets a narrowest width; expected a divisor alone, how fine "
                "the searches step: not every method can be held to more. Drop min."
            )
        if self.run.latency_limited:
            raise ConfigError(
                "CompareConfig: a budget limits latency; expected budgets of other costs, which are exact. Write for "
                "instance macs<=50%."
            )


def compare_methods(config: CompareConfig, *, shown: Shown | None = None, command: str = "") -> dict[str, Any]:
    """Runs the comparison, or what is left of it, and returns what `compare.json` then holds; also writes the page.

    Args:
        config: The work, methods and seeds. A folder may be given more of both later.
        shown: Where progress goes.
        command: The command line that asked for it, told in the result.

    Raises:
        RunFolderError: The folder holds something else, or a comparison of other work or of other settings, or another
            process is at work on a seed.
        BudgetError: A method can't hold a budget.
        ConfigError: Several processes share the run, or a package that a method needs is not installed.
    """
    shown = shown or Shown()
    path = Path(config.run.out)
    check_training(config.run)
    if (size := join_ranks().size) > 1:
        raise ConfigError(
            f"compare_methods: {size} processes share the run; expected one: each counts its own passes. Start it "
            "without torchrun."
        )
    for name in config.methods:
        if name in BASELINES:
            import_needed(name)
    _claim(path, config)
    _read_rows(path)  # what can't stand in one table is told before anything runs
    job: Job | None = None
    for seed in range(config.run.seed, config.run.seed + config.seeds):
        with _open(replace(config.run, seed=seed, out=str(path / f"seed-{seed}")), shown) as opened:
            job, bench = opened, Bench(opened)
            for name in config.methods:
                bench.take(name)
    assert job is not None  # one seed or more
    return _conclude(path, config, job, command)


def _conclude(path: Path, config: CompareConfig, job: Job, command: str) -> dict[str, Any]:
    """The table of all that is finished in the folder, its latencies measured, on the disk as JSON and as a page."""
    told = _read_rows(path)
    taken: list[dict[str, Any]] = [row for rows in told.values() for row in rows["rows"]]
    latencies = measure_latencies(job, [Widths(row["widths"]) for row in taken], path / "latency.json")
    stages = [stage for folder in path.glob("seed-*") for stage in RunFolder(folder).seconds().items()]
    result = summarise(
        [{**row, "latency": latency} for row, latency in zip(taken, latencies, strict=True)],
        model=config.run.model,
        data=config.run.data,
        machine=describe_machine(),
        latency=read_json(path / "latency.json", kind="Latencies")["on"],
        command=command,
        hours=sum(seconds for stage, seconds in stages if stage.startswith(STAGE)) / 3600,
        work={name: getattr(config.run, name) for name in ("search_images", "widen", "keep", "limit")},
        recipe=asdict(config.run.train),
        methods={file.parent.name: told[file]["settings"] for file in reversed(told)},  # those of the first seed
    )
    result = json.loads(json.dumps(result))  # as it is read back
    write_json(path / _RESULT, result)
    page = render_page(result)
    write_whole(path / _PAGE, lambda aside: aside.write_text(printable(page), encoding="utf-8"))
    return result


def _read_rows(path: Path) -> dict[Path, dict[str, Any]]:
    """All that is finished in the folder, {file: content}: the methods in their order, and of each the seeds.

    Raises:
        RunFolderError: A file is of other settings of a method than this version's, of whatever seed.
    """
    known = list_methods()
    places = {
        file: (known.index(file.parent.name), int(file.parts[-4].removeprefix("seed-")))
        for file in path.glob("seed-*/methods/*/rows.json")
    }
    return {
        file: read_of(file, "Rows", repr(make_settings(known[method], seed=seed)))
        for file, (method, seed) in sorted(places.items(), key=lambda each: each[1])
    }


def _claim(path: Path, config: CompareConfig) -> None:
    """Makes the folder, or goes on in it; more methods and seeds may be asked for later, or by others meanwhile."""
    begun = any(path.glob("seed-*"))
    if (path / _ASKED).exists() and begun:
        kept = RunConfig.from_json(read_json(path / _ASKED, kind="Comparison")["run"])
        before = replace(kept, out=config.run.out, seed=config.run.seed, search=config.run.search)
        if before != config.run:
            odd = next(name for name, value in vars(config.run).items() if value != getattr(before, name))
            raise RunFolderError(
                f"{path} holds a comparison with {odd} {getattr(before, odd)!r}; expected "
                f"{getattr(config.run, odd)!r}, as all else must be. Give another --out."
            )
        return
    if begun or not (path / _ASKED).exists():  # what was refused before its first seed claims nothing
        RunFolder.check(path)
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / _ASKED, {"_type": "Comparison", "_version": 1, "run": asdict(config.run)})


@contextmanager
def _open(config: RunConfig, shown: Shown) -> Generator[Job, None, None]:
    """The job of one seed, new or gone on with; its folder is this process's meanwhile."""
    path = Path(config.out)
    if (path / "run.json").exists():
        with RunFolder(path).held():
            yield reopen_job(path, shown=shown)
        return
    job = Job(config, shown, "autoslim compare")
    prepare(job)
    job.check_budgets()
    job.folder = RunFolder.create(path, {"command": job.command, "config": asdict(job.config), **job.identity})
    with job.folder.held():
        write_splits(path, job.splits)
        yield job
