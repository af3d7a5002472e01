"""A run folder made into a job again, for work on what the run left."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoslim.errors import RunFolderError
from autoslim.pipeline._config import RunConfig
from autoslim.pipeline._job import Job
from autoslim.pipeline._prepare import prepare
from autoslim.pipeline._splits import check_splits
from autoslim.pipeline._training import obtain_supernet
from autoslim.progress import Shown
from autoslim.run_folder import RunFolder


def read_config(folder: str | Path) -> RunConfig:
    """What the run in a folder was asked to do; RunFolderError if there is none."""
    return replace(RunConfig.from_json(RunFolder.open(Path(folder))[1]["config"]), out=str(folder))


def reopen_job(folder: str | Path, *, shown: Shown | None = None, data: Any = None) -> Job:
    """The job of a run folder, prepared: data loaded, network built and traced, nothing trained yet.

    Its budgets are not checked: what was measured since may have put one out of reach, and not every use of the run
    asks for it.

    Args:
        folder: Of a run.
        shown: Where progress goes.
        data: What the run was given in Python, once more; see `run`.

    Raises:
        RunFolderError: Model or data are no longer those that the run was started with.
    """
    run_folder, saved = RunFolder.open(Path(folder))
    job = Job(read_config(folder), shown or Shown(), saved["command"], data)
    job.folder = run_folder

    def check() -> None:
        check_splits(run_folder.path, job.splits, job.data.files)
        _check_identity(folder, saved, job.identity)

    prepare(job, check, trained=job.supernet_path.exists())
    return job


def load_supernet(job: Job) -> None:
    """Puts the trained weights into the supernet of a run; RunFolderError if they are not there."""
    if not job.supernet_path.exists():
        raise RunFolderError(
            f"`{job.supernet_path.name}` is missing in {job.folder.path}; expected the trained supernet of a run. "
            f"Restore it, or if the run has not got so far: autoslim run --resume {job.folder.path}"
        )
    obtain_supernet(job)  # reads it


def _check_identity(folder: str | Path, saved: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    for what, now in identity.items():
        then = saved.get(what)
        if then != now:
            differ, advice = _differ(then, now, f"under `{what}` in {Path(folder) / 'run.json'}")
            raise RunFolderError(
                f"The {what} is not the one {folder} was started with{differ}; expected the same, or its stages would "
                f"not fit together. {advice}"
            )


def _differ(then: Any, now: Any, place: str) -> tuple[str, str]:
    """Where two descriptions differ, and what to do: a file that was changed since has another sha256."""
    advice = "Restore it, or start a new run with another --out."
    if not isinstance(then, Mapping) or not isinstance(now, Mapping):
        return "", advice
    odd = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    changed = odd == ["sha256"] and "path" in now
    file = f" of {now['path']}" if changed else ""
    told = ", ".join(f"the {name}{file} is {now.get(name)!r} and was {then.get(name)!r}" for name in odd)
    if not changed:
        return f": {told}", advice
    return f": {told}", (
        "Put the file back as it was, from version control or a copy. If you know that the new code builds the same "
        f"network, layers and forward alike, write its sha256 {place} and, of networks that the run has trained, under "
        "`model` in the config.json of their folders. A network that is another one needs a new run with another --out."
    )
