"""The task of a run: found by its name, and held against the run's settings and its network."""

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from autoslim.errors import ConfigError
from autoslim.pipeline._config import RunConfig
from autoslim.pipeline._rivals import check_finalists
from autoslim.search._path import PathSearch
from autoslim.tasks import TASKS, Metric, Task, find_task

PLAIN = "classification"  # the task of runs that say nothing of one


def open_task(config: RunConfig) -> Task:
    """The task that a run is for.

    Raises:
        UnknownNameError: There is none of that name.
        ConfigError: Its file gives none, or a setting of the run does not go with it.
    """
    task = find_task(config.task)
    check_task(task, config)
    return task


def check_task(task: Task, config: RunConfig) -> None:
    """Raises ConfigError for a setting of the run that does not go with its task."""
    kind = f"the task {config.task}"
    if task.targets is not None and config.train.augment not in task.targets.augments:
        raise ConfigError(
            f"RunConfig.train.augment is {config.train.augment!r}, which the targets of {kind} can't follow; expected "
            f"one of {', '.join(task.targets.augments)}. Write --augment {task.targets.augments[-1]}."
        )
    if task.targets is not None and (config.train.mixup or config.train.cutmix):
        raise ConfigError(
            f"RunConfig.train.mixup is {config.train.mixup}, cutmix {config.train.cutmix}; expected 0 with {kind}: "
            "only labels can be mixed. Drop them."
        )
    if task.metric.whole is not None:
        if isinstance(config.search, PathSearch) and config.search.metric == "accuracy":
            raise ConfigError(
                f"RunConfig.search has metric='accuracy', but {task.metric.name} is no mean over images, which a step "
                "of the search is decided by; expected metric='loss'. Drop it."
            )
        check_finalists(
            config.finalists, config.finalist_epochs, search=config.search, retrain=config.retrain, by_image=False
        )


def locate_task(name: str) -> str:
    """The name of a run's task as it is stored: that of a file with its whole path, for commands in other folders."""
    if name in TASKS:
        return name
    text, _, factory = name.rpartition(":")
    return f"{Path(text).expanduser().resolve()}:{factory}"


def describe_task(config: RunConfig) -> dict[str, str]:
    """What the `config.json` of a network says of its task; nothing for classification."""
    if config.task == PLAIN:
        return {}
    if config.task in TASKS:
        return {"task": config.task}
    path = Path(config.task.rpartition(":")[0]).expanduser()
    return {"task": config.task, "task_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def summary_of(metric: Metric) -> tuple[int, Any]:
    """Version and metric of `summary.json`: version 1 has accuracies, version 2 the scores of any metric."""
    if metric.key == "accuracy":
        return 1, metric.name
    return 2, {"name": metric.name, "higher": metric.higher, "share": metric.share}


def adapt_network(task: Task, config: RunConfig, model: nn.Module) -> nn.Module:
    """The network as the task has it.

    Raises:
        ConfigError: It is no longer the user's own module, and was to be rewritten.
    """
    adapted = task.adapt(model)
    if config.rewrite and adapted is not model:
        raise ConfigError(
            f"RunConfig.rewrite was given with the task {config.task}, which runs the network in a way of its own; "
            "expected one of the two. Drop --rewrite."
        )
    return adapted
