"""Stage 3, train: the sandwich rule with in-place distillation, and the plain training of the networks it led to."""

from collections.abc import Callable

from torch import nn

from autoslim.supernet import Supernet
from autoslim.tasks import Task
from autoslim.train._config import TrainConfig as TrainConfig
from autoslim.train._loop import Batch as Batch
from autoslim.train._loop import Loader as Loader
from autoslim.train._loop import Runtime as Runtime
from autoslim.train._loop import learning_rate as learning_rate
from autoslim.train._loop import parameter_groups as parameter_groups
from autoslim.train._loop import train
from autoslim.train._sandwich import sandwich_step as sandwich_step


def train_supernet(
    net: Supernet,
    loader: Loader,
    config: TrainConfig,
    *,
    task: Task,
    seed: int,
    runtime: Runtime,
    on_step: Callable[[float], None],
) -> list[float]:
    """Trains all sub-networks at once; returns the mean loss of each epoch.

    Raises:
        TrainingError: The loss is no longer finite.
    """

    def step(batch: Batch, number: int) -> float:
        return sandwich_step(
            net,
            batch,
            task=task,
            seed=(seed << 32) + number,
            subnets=config.random_subnets,
            smoothing=config.label_smoothing,
            runtime=runtime,
        )

    return train(net, loader, config, config.epochs_supernet, step, runtime, on_step)


def train_network(
    model: nn.Module,
    loader: Loader,
    config: TrainConfig,
    *,
    task: Task,
    runtime: Runtime,
    on_step: Callable[[float], None],
) -> list[float]:
    """Plain training from labels with the same recipe; the weights are those of the last epoch.

    Raises:
        TrainingError: The loss is no longer finite.
    """

    def step(batch: Batch, number: int) -> float:
        with runtime.autocast():
            loss = task.loss(model(batch[0]), batch[1], smoothing=config.label_smoothing)
        runtime.backward(loss)
        return float(loss.detach())

    return train(model, loader, config, config.epochs_retrain, step, runtime, on_step)
