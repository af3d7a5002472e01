"""The training loop: SGD over the batches of every epoch, whatever a step is."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from autoslim.errors import TrainingError
from autoslim.ranks import Ranks
from autoslim.train._config import TrainConfig

Batch = tuple[torch.Tensor, torch.Tensor]


class Loader(Protocol):
    """Batches of an epoch; the same number gives the same batches, and `start` leaves out those before it."""

    def __len__(self) -> int: ...

    def epoch(self, number: int, start: int = 0) -> Iterable[Batch]: ...


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


def train(
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
    ranks = Ranks.here()
    model.train()
    means: list[float] = []
    steps = len(loader) * epochs
    for number, (epoch, batch) in enumerate(_batches(loader, epochs)):
        rate = learning_rate(config, number, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss = step((batch[0].to(runtime.device), batch[1].to(runtime.device)), number)
        ranks.average_(p.grad for p in model.parameters() if p.grad is not None)
        loss = sum(ranks.gather(loss)) / ranks.size
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
    ranks.average_(b for b in model.buffers() if b.is_floating_point())
    return means


def _batches(loader: Loader, epochs: int) -> Iterator[tuple[int, Batch]]:
    for epoch in range(epochs):
        for batch in loader.epoch(epoch):
            yield epoch, batch
