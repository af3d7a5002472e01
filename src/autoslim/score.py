"""What a sub-network is worth: its BatchNorm statistics from train images, its loss and metric on search images."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoslim.search import Score
from autoslim.supernet import Supernet
from autoslim.tasks import Task
from autoslim.widths import Widths

Batch = tuple[torch.Tensor, torch.Tensor]


def calibrate(net: Supernet, widths: Widths, images: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Buffers of a sub-network with running statistics of its own.

    The supernet's running statistics are those of its widest network. A sub-network's are the mean over batches of
    *train* images of the batch statistics it sees (AutoSlim, section 3.3). Only BatchNorm runs in train mode for it.

    Args:
        net: The supernet; neither its buffers nor its mode are changed.
        widths: The sub-network.
        images: Batches [N, C, H, W], always the same ones so that sub-networks can be compared.
    """
    norms = [(n, m) for n, m in net.model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    buffers = net.buffers_at(widths)
    for name, _ in norms:
        for buffer in ("running_mean", "running_var", "num_batches_tracked"):
            buffers[f"{name}.{buffer}"].zero_()
    modes = [(module, module.training) for module in net.modules()]
    momenta = [(module, module.momentum) for _, module in norms]
    try:
        net.eval()
        for _, module in norms:
            module.train()
            module.momentum = None  # a cumulative mean: every batch counts alike
        with torch.no_grad(), net.at(widths, buffers=buffers):
            for batch in images:
                net(batch)
    finally:
        for module, training in modes:
            module.training = training
        for module, momentum in momenta:
            module.momentum = momentum
    return buffers


def evaluate(model: nn.Module, batches: Iterable[Batch], task: Task) -> Score:
    """Mean loss and metric over batches of (images [N, C, H, W], labels [N]), in eval mode, summed in float64."""
    training = model.training
    losses: list[torch.Tensor] = []
    metrics: list[torch.Tensor] = []
    try:
        model.eval()
        with torch.no_grad():
            for images, labels in batches:
                loss, metric = task.judge(model(images), labels)
                losses.append(loss)
                metrics.append(metric)
    finally:
        model.train(training)
    return Score(loss=float(torch.cat(losses).mean()), accuracy=float(torch.cat(metrics).mean()))


class SupernetScorer:
    """Scores sub-networks of a trained supernet, all on the same images.

    Args:
        net: The trained supernet.
        task: Judges its outputs.
        calibration: Batches of train images for the BatchNorm statistics, at least 512 images where there are so many.
        search: Batches of search images and labels, which decide; gone through once a score.
    """

    def __init__(
        self, net: Supernet, task: Task, *, calibration: Sequence[torch.Tensor], search: Iterable[Batch]
    ) -> None:
        self._net, self._task = net, task
        self._calibration, self._search = calibration, search

    def score(self, widths: Widths) -> Score:
        return self.judge(widths, self._search)

    def score_many(self, widths: Sequence[Widths]) -> list[Score]:
        return [self.score(each) for each in widths]

    def judge(self, widths: Widths, batches: Iterable[Batch]) -> Score:
        """The sub-network's score on other images, with the same BatchNorm statistics."""
        buffers = calibrate(self._net, widths, self._calibration)
        with self._net.at(widths, buffers=buffers):
            return evaluate(self._net, batches, self._task)

    def buffers(self, widths: Widths) -> dict[str, torch.Tensor]:
        """The calibrated buffers, for a network that inherits the supernet's weights."""
        return calibrate(self._net, widths, self._calibration)
