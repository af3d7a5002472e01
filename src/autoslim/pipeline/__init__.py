"""The stages in order: trace, train the supernet, search, retrain what was found, test, report.

Each stage leaves a file that the next one reads; a run that was stopped goes on with the first stage whose file is
missing. The test images are touched by the last stage alone, after everything else has ended.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from autoslim.data import GIVEN
from autoslim.errors import BudgetError
from autoslim.pipeline._again import plan_search as plan_search
from autoslim.pipeline._again import search_again as search_again
from autoslim.pipeline._alone import Alone as Alone
from autoslim.pipeline._alone import train_alone as train_alone
from autoslim.pipeline._batches import Prepared as Prepared
from autoslim.pipeline._config import RunConfig as RunConfig
from autoslim.pipeline._config import parse_shape as parse_shape
from autoslim.pipeline._finalists import choose_finalists
from autoslim.pipeline._guess import tell_widest
from autoslim.pipeline._job import Job as Job
from autoslim.pipeline._latency import keep_latency
from autoslim.pipeline._launch import join_ranks as join_ranks
from autoslim.pipeline._launch import leave_ranks as leave_ranks
from autoslim.pipeline._launch import scaler_of as scaler_of
from autoslim.pipeline._plan import Plan as Plan
from autoslim.pipeline._plan import make_plan
from autoslim.pipeline._prepare import prepare as prepare
from autoslim.pipeline._reopen import read_config as read_config
from autoslim.pipeline._reopen import reopen_job as reopen_job
from autoslim.pipeline._retrain import retrain
from autoslim.pipeline._search import search_budgets
from autoslim.pipeline._splits import write_splits as write_splits
from autoslim.pipeline._summary import sum_up
from autoslim.pipeline._task import locate_task
from autoslim.pipeline._training import CHECKPOINTS
from autoslim.pipeline._training import check_training as check_training
from autoslim.pipeline._training import checkpoints_of as checkpoints_of
from autoslim.pipeline._training import obtain_supernet as obtain_supernet
from autoslim.pipeline._training import train_found as train_found
from autoslim.progress import Shown
from autoslim.report import write_report
from autoslim.run_folder import RunFolder, remove_folder, write_json


def run(config: RunConfig, *, data: Any = None, shown: Shown | None = None, command: str = "") -> Path:
    """Starts a run in a new folder and returns the folder; see `resume` for one that was stopped.

    Args:
        config: What to do; recipes give whole ones. All processes that share the run are given the same.
        data: Datasets of torch's, or loaders over them, in place of what `config.data` names: train, or (train, test).
            See `autoslim.data.load_datasets` for what they may be. Give them to `resume`, too.
        shown: Where progress goes.
        command: The command line that asked for it, kept in the summary.
    """
    # Everything that can be refused is refused before the folder is made.
    config = config if data is None else replace(config, data=GIVEN)
    RunFolder.check(Path(config.out))
    job, plan = _begin(config, shown or Shown(), command, data)
    for line in plan.lines():
        job.shown.line(f"plan      {line}")
    if plan.refused is not None:
        raise BudgetError(plan.refused)
    job.folder = RunFolder.create(Path(config.out), {"command": command, "config": asdict(job.config), **job.identity})
    with job.folder.held():
        return _finish(job)


def plan_run(config: RunConfig, *, data: Any = None, shown: Shown | None = None) -> Plan:
    """What a run will cost before it is started: its networks, its budgets, its search. Nothing is written."""
    return _begin(config, shown or Shown(), "", data)[1]


def _begin(config: RunConfig, shown: Shown, command: str, data: Any) -> tuple[Job, Plan]:
    if not config.budget:
        raise BudgetError('RunConfig.budget is empty; expected at least one. Give for instance ("macs<=50%",).')
    check_training(config)
    job = Job(config, shown, command, data)
    job.config = replace(job.config, task=locate_task(job.config.task))
    job.ranks.wait()  # all have looked at the folder before the first of them makes it
    prepare(job)
    return job, make_plan(job, train=True)


def _finish(job: Job) -> Path:
    """The stages after the trace, in order; one whose file is there is not run again."""
    path = job.folder.path
    write_json(path / "graph.json", job.graph.to_json())
    write_splits(path, job.splits)
    for stage, seconds in job.spent.items():
        job.folder.append("times.jsonl", {"stage": stage, "seconds": seconds})
    obtain_supernet(job)
    tell_widest(job)
    keep_latency(job, job.folder)
    found = choose_finalists(job, search_budgets(job))
    places = retrain(job, found)
    write_json(path / "summary.json", sum_up(job, found, places))
    if job.ranks.first:
        remove_folder(path / CHECKPOINTS)
        job.shown.line(f"report    {write_report(path)}")
    job.ranks.wait()  # whoever called may read the summary at once
    return path


def resume(folder: str | Path, *, data: Any = None, shown: Shown | None = None) -> Path:
    """Goes on with a run that was stopped, from the first stage that had not ended.

    A finished run gets its report anew and nothing else. RunFolderError if model or data are no longer the same, or
    another process is at work in the folder.
    `data` is what the run was given in Python, if it was.
    """
    run_folder, _ = RunFolder.open(Path(folder))
    shown = shown or Shown()
    ranks = join_ranks()
    if (run_folder.path / "summary.json").exists():
        if ranks.first:
            shown.line(f"report    {write_report(run_folder.path)}")
        return run_folder.path
    check_training(read_config(folder))
    with run_folder.held():
        return _finish(reopen_job(folder, shown=shown, data=data))
