"""What a comparison will take, before it is started: trainings, their multiply-accumulates, and hours."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoslim.baselines import BASELINES, Baseline, BnScale, MacCounter, NetAdapt, PolicySearch
from autoslim.budget import Budget
from autoslim.compare._bench import starts_of
from autoslim.pipeline import Job, prepare, scaler_of
from autoslim.progress import Shown
from autoslim.train import train_network

if TYPE_CHECKING:
    from autoslim.compare import CompareConfig

_BACKWARD = 3  # a training step costs a forward pass, and a backward pass of about two
_STEPS = 3  # that are timed


@dataclass(frozen=True)
class Forecast:
    """What is known beforehand; what searches take to judge networks is not, and not included.

    Attributes:
        trainings: Final trainings, of all seeds.
        final_image_macs: Of those.
        shared_image_macs: Of the supernets and the full-width networks that pruning starts from.
        own_image_macs: Of the trainings that methods choose by, about: bn-scale's, netadapt's proposals, rl's samples.
        hours: Of all three, at the speed of a few training steps at full width.
    """

    trainings: int
    final_image_macs: float
    shared_image_macs: float
    own_image_macs: float
    hours: float


def plan_comparison(config: "CompareConfig", *, shown: Shown | None = None) -> Forecast:
    """Prepares the first seed and times a few steps; nothing is written.

    Raises:
        BudgetError: A budget that no network holds.
    """
    job = Job(config.run, shown or Shown(), "autoslim compare --dry-run")
    prepare(job)
    job.check_budgets()
    cost, train = job.costs["macs"], job.config.train
    most = [cost(job.space.widest) * _share(job, budget) for budget in config.run.budgets]
    rows = sum(len(starts_of(name)) for name in config.methods)
    prunes = any(name in BASELINES and BASELINES[name].pretrained for name in config.methods)
    shares = any(name not in BASELINES and "kept" in starts_of(name) for name in config.methods)
    trainings = rows * len(most) * config.seeds
    loader = job.loader(job.data.train)
    images = len(loader) * loader.batch_size
    final = _BACKWARD * images * train.epochs_retrain * sum(most) * rows * config.seeds
    half = cost(job.graph.uniform_widths(0.5))
    subnets = cost(job.space.widest) + cost(job.space.narrowest) + train.random_subnets * half
    passes = shares * subnets * train.epochs_supernet + prunes * cost(job.space.widest) * train.epochs_retrain
    shared = _BACKWARD * images * config.seeds * passes
    baselines = [BASELINES[name]() for name in config.methods if name in BASELINES]
    own = _BACKWARD * config.seeds * sum(_own_macs(job, each, images, most) for each in baselines)
    return Forecast(trainings, final, shared, own, (final + shared + own) / _speed(job) / 3600)


def _own_macs(job: Job, baseline: Baseline, images: int, most: Sequence[float]) -> float:
    """Multiply-accumulates of the forward passes of a method's own trainings, for one seed.

    Args:
        job: Prepared.
        baseline: With its settings.
        images: Of an epoch.
        most: What each budget leaves of the MACs, about.
    """
    train, widest = job.config.train, job.costs["macs"](job.space.widest)
    match baseline:
        case BnScale():
            return images * train.epochs_retrain * widest
        case PolicySearch():
            steps = len(most) * baseline.samples * baseline.steps
            return steps * train.batch_size * job.costs["macs"](job.graph.uniform_widths(0.5))
        case NetAdapt():
            steps = baseline.steps * len(job.space.free)  # of an iteration: each group proposes a network
            return steps * train.batch_size * widest * sum(baseline.shares_left(min(most) / widest))
        case _:
            return 0.0


def _share(job: Job, budget: Budget) -> float:
    """About how much of the widest network's MACs a budget leaves: that of its limit on MACs, or half."""
    limits = [limit.absolute(job.base) for limit in budget.limits if limit.metric == "macs"]
    return min(min(limits, default=job.base["macs"] / 2) / job.costs["macs"](job.space.widest), 1.0)


def _speed(job: Job) -> float:
    """Multiply-accumulates per second of training at full width."""
    loader = job.loader(job.train_split.take(range(min(len(job.train_split), _STEPS * job.config.train.batch_size))))
    model = job.networks.build().to(job.fabric.device)
    config = replace(job.config.train, epochs_retrain=1)
    started = time.monotonic()
    with MacCounter() as counter:
        train_network(
            model, loader, config, task=job.task, seed=0, runtime=job.fabric,
            scaler=scaler_of(job.fabric), on_step=_pass_by,
        )  # fmt: skip
    return counter.macs / (time.monotonic() - started)


def _pass_by(loss: float, done: int) -> None:
    pass
