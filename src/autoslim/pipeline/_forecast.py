"""What the trainings of a run will take, before they begin: a step of each kind is timed, the others are counted."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from autoslim.pipeline._finalists import rungs_of
from autoslim.pipeline._job import Job
from autoslim.pipeline._launch import make_fabric, scaler_of
from autoslim.supernet import Supernet
from autoslim.train import Loader, TrainConfig, train_network, train_supernet

_STEPS = 2  # taken; the last is timed
_LONGEST = 5.0  # seconds of one: where a step may take longer, it has fewer images
_PASSES = 12  # of a supernet's step: four sub-networks, forward and twice as much backward
_FEWEST = 8  # images of a step, in each process and part


@dataclass(frozen=True)
class Training:
    """What the supernet, or all networks that are trained alone, will take.

    Attributes:
        networks: To train: the supernet; or your own, the found, the uniform ones, and the finalists.
        steps: Of all of them together.
        seconds: Of one step, as timed with the supernet, or with your own network: those that are found take less.
    """

    networks: int
    steps: int
    seconds: float

    @property
    def total(self) -> float:
        """Seconds of all steps."""
        return self.steps * self.seconds


def time_trainings(job: Job, forward: float) -> tuple[Training, Training | None]:
    """The supernet's training, and all others; None where nothing is trained but the supernet.

    Networks are built for it and thrown away. Not timed: compilation and recorded passes, which make steps shorter.

    Args:
        job: That is prepared.
        forward: Seconds of an image's forward pass, as far as is known; where it is long, a step has fewer images.
    """
    config, device = job.config.train, job.fabric.device
    longest = max(job.ranks.gather(_PASSES * forward * config.batch_size))
    share = min(1.0, _LONGEST / max(longest, 1e-9))
    fewest = _FEWEST * job.ranks.size * config.accumulate
    images = min(config.batch_size, len(job.train_split), max(fewest, round(share * config.batch_size)))

    def clock(train: Callable[..., Any], network: Any) -> float:
        seconds = _time_step(job, train, network.to(device), images)
        return seconds * min(config.batch_size, len(job.train_split)) / images

    seconds = clock(train_supernet, Supernet(job.networks.build(), job.graph))
    supernet = Training(1, config.epochs_supernet * len(job.loader(job.train_split)), seconds)
    networks, steps = _count(job)
    if not networks:
        return supernet, None
    return supernet, Training(networks, steps, clock(train_network, job.networks.build_own()))


def _count(job: Job) -> tuple[int, int]:
    """Networks that are trained alone, and their steps."""
    config, train = job.config, job.config.train
    if config.retrain == "none":
        return 0, 0
    wanted, budgets = config.baselines.split(","), len(config.budgets)
    whole = ("base" in wanted) + budgets * (1 + ("uniform" in wanted))
    rungs = rungs_of(config.finalists, config.finalist_epochs or max(1, train.epochs_retrain // 2))
    steps = whole * train.epochs_retrain * len(job.loader(job.data.train))
    steps += budgets * sum(size * epochs for size, epochs in rungs) * len(job.loader(job.train_split))
    return whole + budgets * sum(size for size, _ in rungs), steps


def _time_step(job: Job, train: Callable[..., Any], network: Any, images: int) -> float:
    """Seconds of one step of so many images, with loading them."""
    once: dict[str, Any] = {"epochs_supernet": 1, "epochs_retrain": 1, "batch_size": images, "lr": 1e-9}
    config: TrainConfig = replace(job.config.train, **once, compile=False, cuda_graph=False)
    split = job.train_split.take(range(min(_STEPS * images, len(job.train_split))))
    loader: Loader = job.loader(split, config)
    runtime = make_fabric(config.precision)
    times = [time.perf_counter()]

    def on_step(loss: float, done: int) -> None:
        times.append(time.perf_counter())

    with job.seeded():
        for _ in range(1 if runtime.device.type == "cpu" else 2):  # a GPU's libraries load for each new shape, once
            train(
                network, loader, config, task=job.task, seed=job.config.seed, runtime=runtime,
                scaler=scaler_of(runtime), on_step=on_step,
            )  # fmt: skip
    return times[-1] - times[-2]
