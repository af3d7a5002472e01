"""Stage 1 of a run: the images loaded, the network built and traced, and its latency measured where that is limited."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from autoslim.costs import COSTS, make_cost
from autoslim.data import hold_out
from autoslim.errors import ModelError
from autoslim.models import describe_model
from autoslim.pipeline._batches import open_data
from autoslim.pipeline._job import Job
from autoslim.pipeline._latency import LATENCY, obtain_latency
from autoslim.pipeline._networks import Networks
from autoslim.pipeline._splits import list_splits
from autoslim.pipeline._task import PLAIN
from autoslim.report.text import say_count


def prepare(job: Job, check: Callable[[], None] = lambda: None, *, trained: bool = False) -> None:
    """Loads the data, builds and traces the model, and measures latency where a budget limits it.

    `check` is called before that: it may refuse a network or images that are not those of before. Where the
    supernet is `trained`, the weights that it started from are not read again.
    """
    config = job.config
    job.data = open_data(config, job.given, job.task)
    job.config = config = replace(config, data=job.data.name)  # a run that is resumed reads the same commit
    for note in job.data.notes:
        job.shown.line(f"data      {note}")
    classes, shape = job.data.num_classes, job.data.input_shape
    job.builder = describe_model(config.model, num_classes=classes, in_channels=shape[0])
    started = time.monotonic()
    job.networks = Networks(config, job.task, num_classes=classes, input_shape=shape, trained=trained)
    job.model, job.graph, job.own = job.networks.model, job.networks.graph, job.networks.own
    job.spent["trace"] = time.monotonic() - started
    job.costs = {name: make_cost(name, job.graph) for name in COSTS}
    job.base = job.price(job.own)
    frozen = [group for group in job.graph.groups if group.frozen is not None]
    macs, least = job.base["macs"], job.costs["macs"](job.graph.min_widths())
    job.shown.line(
        f"trace     {len(job.graph.groups)} channel groups ({len(frozen)} frozen), {say_count(macs)} MACs, "
        f"{say_count(job.base['params'])} parameters; narrowest {least / macs:.1%} of the MACs"
    )
    if config.widen > 1:
        most = say_count(job.costs["macs"](job.graph.max_widths()))
        job.notes.append(f"The search starts from your network {config.widen:g}x as wide: {most} MACs.")
        job.shown.line(f"widen     {job.notes[-1]}")
    _check_network(job)
    job.train_split, job.search_split = hold_out(
        job.data.train, most=max(config.search_images, 10_000), seed=config.seed
    )
    parts = {"train": job.train_split, "search": job.search_split, "test": job.data.test}
    job.splits = list_splits(job.data.files, **parts)
    check()
    if config.latency_limited:
        job.costs[LATENCY], job.base[LATENCY] = obtain_latency(job)


def _check_network(job: Job) -> None:
    """Raises ModelError for a network that can't be trained on the job's images, before anything is written.

    What fits but is of no use is told, and is a note of the job.
    """
    advice = "Give the number as a builder argument, or let the factory take num_classes."
    name, outputs, shape = job.config.model, job.data.num_classes, job.data.input_shape
    for note in job.graph.notes:
        if note.startswith("train mode"):
            raise ModelError(f"`{name}` can't be trained on {shape}: {note}. Try another --input.")
        job.shown.line(f"trace     {note}")
    with torch.no_grad():
        output = job.model.eval()(torch.zeros(2, *shape))
    try:
        note = job.task.check(output, outputs)
        if (targets := job.data.train.told) is not None:
            job.task.judge(output, targets.values[:1].expand(2, *targets.values.shape[1:]))
    except (IndexError, KeyError, TypeError, RuntimeError, ValueError, AttributeError) as error:
        what = "classes" if job.config.task == PLAIN else f"outputs of {job.config.task}"
        raise ModelError(f"`{name}`: its output does not fit {outputs} {what}: {error}. {advice}") from error
    notes = [f"`{name}`: {each}" for each in job.networks.notes]
    notes += [f"`{name}`: {note}. {advice}"] if note is not None else []
    for told in notes:
        job.shown.line(f"trace     {told}")
    job.notes += notes
