"""What the optimizer is told: which parameters decay, and the learning rate of each step."""

import math
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from autoslim.train._config import TrainConfig


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
