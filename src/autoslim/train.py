"""Stage 3, train: the sandwich rule with in-place distillation, and the plain training of the networks it led to."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from autoslim.errors import ConfigError, TrainingError
from autoslim.supernet import Supernet
from autoslim.tasks import Task

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the supernet and the found networks are trained: SGD with Nesterov momentum."""

    epochs_supernet: int = 20
    """Epochs of the supernet, on train without the search images."""
    epochs_retrain: int = 20
    """Epochs of each found network, of the uniform ones and of your own, on all of train."""
    batch_size: int = 128
    """Images per step."""
    lr: float = 0.1
    """Peak learning rate."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises linearly to its peak."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls to 0 after that."""
    momentum: float = 0.9
    """Nesterov momentum."""
    weight_decay: float = 5e-4
    """On all weights but those of BatchNorm, biases and depthwise kernels."""
    label_smoothing: float = 0.0
    """For whatever learns from labels: the widest network of the supernet, and each network that is retrained."""
    augment: Literal["none", "crop", "crop+flip"] = "crop+flip"
    """Random crops of the image padded by an eighth; horizontal flips."""
    random_subnets: int = 2
    """Sub-networks per supernet step beside the widest and the narrowest (the sandwich rule's n)."""

    def __post_init__(self) -> None:
        for name, least in (("epochs_supernet", 1), ("epochs_retrain", 1), ("batch_size", 2), ("random_subnets", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"TrainConfig.{name} is {getattr(self, name)}; expected at least {least}.")
        ranges = {"lr": (0, None), "warmup": (0, 1), "momentum": (0, 1), "label_smoothing": (0, 1)}
        ranges |= {"weight_decay": (0, None)}
        for name, (least, below) in ranges.items():
            value = getattr(self, name)
            fits = math.isfinite(value) and value >= least and (below is None or value < below)
            if not fits or (name == "lr" and value == 0):
                what = "above 0" if name == "lr" else f"{least} or more" + (f", below {below}" if below else "")
                raise ConfigError(
                    f"TrainConfig.{name} is {value}; expected {what}. Give another --{name.replace('_', '-')}, or none "
                    f"for the recipe's."
                )


class Loader(Protocol):
    """Batches of an epoch; the same number gives the same batches."""

    def __len__(self) -> int: ...

    def epoch(self, number: int) -> Iterable[Batch]: ...


class Runtime(Protocol):
    """The part of Lightning Fabric that a step needs."""

    @property
    def device(self) -> torch.device: ...

    def autocast(self) -> Any: ...

    def backward(self, tensor: torch.Tensor) -> None: ...


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay: none on BatchNorm, biases and depthwise kernels."""
    depthwise = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, _ConvNd) and module.groups > 1 and module.groups == module.in_channels
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    spared = [p for p in parameters if p.dim() <= 1 or id(p) in depthwise]
    decayed = [p for p in parameters if p.dim() > 1 and id(p) not in depthwise]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """The learning rate of step `step` of `steps`: a linear rise, then a cosine or linear fall to 0."""
    rise = int(steps * config.warmup)
    if step < rise:
        return config.lr * (step + 1) / rise
    share = (step - rise) / max(steps - rise, 1)
    return config.lr * ((1 + math.cos(math.pi * share)) / 2 if config.schedule == "cosine" else 1 - share)


def sandwich_step(
    net: Supernet,
    batch: Batch,
    *,
    task: Task,
    seed: int,
    subnets: int = 2,
    smoothing: float = 0.0,
    runtime: Runtime | None = None,
) -> float:
    """Gradients of one training step of the supernet, left in `.grad` (AutoSlim, section 3.2).

    The widest learns from the labels, the narrowest and `subnets` random ones from its detached output; their losses
    are summed. All passes use batch statistics, only the widest's update running ones.

    Args:
        net: The supernet, in train mode.
        batch: Images [N, C, H, W] and labels [N].
        task: Gives loss and distillation target.
        seed: Of the random widths; a different one each step.
        subnets: Number of random sub-networks.
        smoothing: Label smoothing, for the widest alone.
        runtime: Lightning Fabric, or None for plain float32.

    Returns:
        The summed loss.
    """
    images, labels = batch
    graph = net.graph
    drawn = [graph.random_widths(seed * 64 + index) for index in range(subnets)]
    taught: Any = None
    total = 0.0
    for widths in (graph.max_widths(), graph.min_widths(), *drawn):
        with net.leaves_at(widths):
            with runtime.autocast() if runtime is not None else torch.autocast("cpu", enabled=False):
                output = net(images)
                if taught is None:
                    loss, taught = task.loss(output, labels, smoothing=smoothing), task.teach(output)
                else:
                    loss = task.distill(output, taught)
            runtime.backward(loss) if runtime is not None else loss.backward()
        total += float(loss.detach())
    return total


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

    return _train(net, loader, config, config.epochs_supernet, step, runtime, on_step)


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

    return _train(model, loader, config, config.epochs_retrain, step, runtime, on_step)


def _train(
    model: nn.Module,
    loader: Loader,
    config: TrainConfig,
    epochs: int,
    step: Callable[[Batch, int], float],
    runtime: Runtime,
    on_step: Callable[[float], None],
) -> list[float]:
    optimizer = torch.optim.SGD(
        parameter_groups(model, config.weight_decay),
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
    )
    model.train()
    means: list[float] = []
    steps = len(loader) * epochs
    for number, (epoch, batch) in enumerate(_batches(loader, epochs)):
        rate = learning_rate(config, number, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss = step((batch[0].to(runtime.device), batch[1].to(runtime.device)), number)
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss} at step {number} of {steps}, learning rate {rate:.4g}. Expected a finite number. "
                f"Try a lower learning rate (--lr {config.lr / 4:g}) or a longer warm-up (--warmup 0.2)."
            )
        optimizer.step()
        if len(means) == epoch:
            means.append(0.0)
        means[epoch] += loss / len(loader)
        on_step(loss)
    return means


def _batches(loader: Loader, epochs: int) -> Iterator[tuple[int, Batch]]:
    for epoch in range(epochs):
        for batch in loader.epoch(epoch):
            yield epoch, batch
