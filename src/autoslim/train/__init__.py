"""Stage 3, train: the sandwich rule with in-place distillation, and the plain training of the networks it led to."""

from collections.abc import Callable

import torch
from torch import nn

from autoslim.checkpoint import Checkpoints
from autoslim.ranks import Ranks
from autoslim.supernet import Supernet
from autoslim.tasks import Task
from autoslim.train._config import TrainConfig as TrainConfig
from autoslim.train._cpu import CPUConvolutions as CPUConvolutions
from autoslim.train._loop import Batch as Batch
from autoslim.train._loop import Loader as Loader
from autoslim.train._loop import OnStep as OnStep
from autoslim.train._loop import Runtime as Runtime
from autoslim.train._loop import Tracker as Tracker
from autoslim.train._loop import Trained as Trained
from autoslim.train._loop import train
from autoslim.train._recorded import Recorded
from autoslim.train._sandwich import sandwich_step as sandwich_step
from autoslim.train._schedule import learning_rate as learning_rate
from autoslim.train._schedule import parameter_groups as parameter_groups


def train_supernet(
    net: Supernet,
    loader: Loader,
    config: TrainConfig,
    *,
    task: Task,
    seed: int,
    runtime: Runtime,
    on_step: OnStep,
    checkpoints: Checkpoints | None = None,
    tracker: Tracker | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Trained:
    """Trains all sub-networks at once, in place; see `train` for what resumes and what is raised.

    Raises:
        TrainingError: Ten steps in a row are not finite.
    """
    own = Ranks.here().rank if config.different_subnets else 0

    def step(batch: Batch, number: int, share: float) -> torch.Tensor:
        return sandwich_step(
            net,
            batch,
            task=task,
            seed=((seed + (own << 16)) << 32) + number,
            subnets=config.random_subnets,
            smoothing=config.label_smoothing,
            share=share,
            runtime=runtime,
        )

    return train(
        net, loader, config, config.epochs_supernet, step, runtime=runtime, on_step=on_step, seed=seed,
        checkpoints=checkpoints, tracker=tracker, scaler=scaler,
    )  # fmt: skip


def train_network(
    model: nn.Module,
    loader: Loader,
    config: TrainConfig,
    *,
    task: Task,
    seed: int,
    runtime: Runtime,
    on_step: OnStep,
    checkpoints: Checkpoints | None = None,
    tracker: Tracker | None = None,
    scaler: torch.amp.GradScaler | None = None,
    penalty: Callable[[], torch.Tensor] | None = None,
) -> Trained:
    """Plain training from labels with the same recipe, in place: the weights of the last step, or their average.

    A `penalty`, a scalar, is added to the loss of each step. With `config.compile` what torch has compiled before is
    forgotten, that of others, too.
    """
    forward: nn.Module = model
    if config.compile:
        torch.compiler.reset()  # networks of one class share a limit: the ninth would not be compiled
        forward = torch.compile(model)  # pyright: ignore[reportAssignmentType]

    def passes(batch: Batch, share: float) -> torch.Tensor:
        with runtime.autocast():
            loss = task.loss(forward(batch[0]), batch[1], smoothing=config.label_smoothing)
            loss = (loss if penalty is None else loss + penalty()) * share
        runtime.backward(loss)
        return loss.detach().reshape(1)

    recorded = Recorded(model, passes) if config.cuda_graph and runtime.device.type == "cuda" else passes

    def step(batch: Batch, number: int, share: float) -> torch.Tensor:
        return recorded(batch, share)

    return train(
        model, loader, config, config.epochs_retrain, step, runtime=runtime, on_step=on_step, seed=seed,
        ema=config.ema, checkpoints=checkpoints, tracker=tracker, scaler=scaler,
    )  # fmt: skip
