"""One training step of the supernet: the sandwich rule with in-place distillation."""

from typing import Any

import torch

from autoslim.supernet import Supernet
from autoslim.tasks import Task
from autoslim.train._loop import Batch, Runtime


def sandwich_step(
    net: Supernet,
    batch: Batch,
    *,
    task: Task,
    seed: int,
    subnets: int = 2,
    smoothing: float = 0.0,
    share: float = 1.0,
    runtime: Runtime | None = None,
) -> torch.Tensor:
    """Gradients of one training step of the supernet, left in `.grad` (AutoSlim, section 3.2).

    The widest learns from the labels, the narrowest and `subnets` random ones from its detached output; their losses
    are summed. All passes use batch statistics, only the widest's update running ones.

    Args:
        net: The supernet, in train mode.
        batch: Images [N, C, H, W] and targets: labels [N], or whatever the task reads, [N, ...].
        task: Gives loss and distillation target.
        seed: Of the random widths; a different one each step.
        subnets: Number of random sub-networks.
        smoothing: Label smoothing, for the widest alone.
        share: What the batch counts in its step, where that has several; loss and gradients are scaled by it.
        runtime: Lightning Fabric, or None for plain float32.

    Returns:
        The losses of the passes, detached: shape [2 + subnets], on the device. Their sum is what is learnt.
    """
    images, labels = batch
    graph = net.graph
    drawn = [graph.random_widths(seed * 64 + index) for index in range(subnets)]
    taught: Any = None
    losses: list[torch.Tensor] = []
    for widths in (graph.max_widths(), graph.min_widths(), *drawn):
        with net.leaves_at(widths):
            with runtime.autocast() if runtime is not None else torch.autocast("cpu", enabled=False):
                output = net(images)
                if taught is None:
                    loss, taught = task.loss(output, labels, smoothing=smoothing), task.teach(output)
                else:
                    loss = task.distill(output, taught)
            loss = loss * share
            runtime.backward(loss) if runtime is not None else loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses)
