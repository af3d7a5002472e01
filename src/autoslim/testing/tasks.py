"""The contract of a task, on the example that it brings along.

>>> from autoslim.tasks import TASKS
>>> check_task(TASKS["classification"])
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from autoslim.score import evaluate
from autoslim.tasks import Fit, Targets, Task
from autoslim.trace import trace_channels

_NEAR = 1e-4  # float32, sums in another order


def check_task(task: Task) -> None:
    """Raises AssertionError unless `task` keeps the contract of `autoslim.tasks.Task`.

    Its network is traced in both modes and keeps its tensors' names; the loss and what the widest teaches lead to
    gradients, those of its own teaching being none; each image is judged alike alone and among others; the metric is
    a number in its range whatever the order of the images; the targets follow a mirrored image there and back.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images, raw, outputs = task.example()
        targets = _read(task, images, raw)
        network = _check_network(task, model, images, outputs)
        _check_training(task, network, images, targets)
        _check_judgement(task, network, images, targets)
        if task.targets is not None:
            _check_targets(task.targets, images, targets)


def _read(task: Task, images: torch.Tensor, raw: Sequence[Any]) -> torch.Tensor:
    """The targets of the example as batches have them."""
    assert len(images) == len(raw) >= 3, "one target for each image, three images or more"
    kind = task.targets
    if kind is None:
        return torch.tensor(raw)
    height, width = images.shape[2:]
    size = (height, width)
    read = [kind.read(each, size) for each in raw]
    assert all(kind.stratum(each) >= 0 for each in read), "a stratum is 0 or more"
    joined = kind.join([kind.fit(each, Fit(size, (0, 0), size)) for each in read])
    assert len(joined) == len(raw), "one row for each image"
    return joined


def _check_network(task: Task, model: nn.Module, images: torch.Tensor, outputs: int) -> nn.Module:
    before = {name: id(each) for name, each in (*model.named_parameters(), *model.named_buffers())}
    network = task.adapt(model)
    after = {name: id(each) for name, each in (*network.named_parameters(), *network.named_buffers())}
    assert after == before, "an adapted network has the same tensors under the same names"
    notes = trace_channels(network, images[:1]).notes
    assert not [note for note in notes if note.startswith("train mode")], f"it is traced in both modes: {notes}"
    with torch.no_grad():
        output = network.eval()(images[:2])
    assert isinstance(task.check(output, outputs), (str, type(None))), "what is told of an output that fits is a text"
    try:
        task.check(output, outputs + 1000)
    except ValueError:
        return network
    raise AssertionError("an output for fewer classes or numbers than the targets have is refused")


def _check_training(task: Task, network: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> None:
    output = network.train()(images)
    loss = task.loss(output, targets)
    assert loss.dim() == 0, "the loss is a scalar"
    assert loss.isfinite(), "the loss is a number"
    assert _slope(network, loss) > 0, "the loss has a gradient"
    output = network(images)
    taught = task.teach(output)
    leaves = [leaf for leaf in tree_leaves(taught) if isinstance(leaf, torch.Tensor)]
    assert leaves, "something is taught"
    assert not any(leaf.requires_grad for leaf in leaves), "what is taught is detached"
    own = task.distill(output, taught)
    assert own.dim() == 0, "the loss against what was taught is a scalar"
    assert own.isfinite(), "the loss against what was taught is a number"
    assert _slope(network, own) < 1e-2 * _slope(network, task.loss(network(images), targets)), "own teaching is obeyed"
    other = task.distill(network(images.flip(0)), taught)
    assert other > own, "whoever says something else has a larger loss"
    assert _slope(network, other) > 0, "the loss against what was taught has a gradient"


def _slope(network: nn.Module, loss: torch.Tensor) -> float:
    """The norm of the gradient of all parameters."""
    network.zero_grad()
    loss.backward()
    return sum(float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None) ** 0.5


def _check_judgement(task: Task, network: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> None:
    with torch.no_grad():
        loss, facts = task.judge(network.eval()(images), targets)
        alone = [task.judge(network(images[at : at + 1]), targets[at : at + 1]) for at in range(len(images))]
    assert loss.shape == (len(images),), "a loss for each image"
    assert loss.dtype == torch.float64, "losses are float64"
    assert loss.isfinite().all(), "losses are numbers"
    assert len(facts) == len(images), "facts for each image"
    assert task.metric.whole is not None or facts.dim() == 1, "one number for each image, or `Metric.whole`"
    for whole, parts in ((loss, [one for one, _ in alone]), (facts, [one for _, one in alone])):
        torch.testing.assert_close(torch.cat(parts).double(), whole.double(), rtol=_NEAR, atol=_NEAR)
    batches = [(images[:2], targets[:2]), (images[2:], targets[2:])]
    score = evaluate(network, batches, task).score
    again = evaluate(network, [(x.flip(0), y.flip(0)) for x, y in reversed(batches)], task).score
    assert np.isclose(score.accuracy, again.accuracy, atol=_NEAR), "the order of the images does not matter"
    assert np.isclose(score.loss, float(loss.mean()), atol=_NEAR), "the loss is the mean over the images"
    value = task.metric.turn(score.accuracy)
    assert np.isfinite(value), "the metric is a number"
    assert not task.metric.share or 0 <= value <= 1, "a share is from 0 to 1"
    assert task.metric.say(score.accuracy), "the metric can be told"


def _check_targets(kind: Targets, images: torch.Tensor, targets: torch.Tensor) -> None:
    assert "none" in kind.augments, "images may stay as they are"
    assert kind.at_once > 0, "a batch has an image"
    num, (height, width) = len(images), images.shape[2:]
    rows, columns = (np.tile(np.arange(side), (num, 1)) for side in (height, width))
    assert torch.equal(kind.move(targets, rows, columns), targets), "where nothing moved the targets stay"
    if "flip" in kind.augments:
        mirrored = kind.move(targets, rows, columns[:, ::-1])
        assert mirrored.shape == targets.shape, "moved targets have the same shape"
        back = kind.move(mirrored, rows, columns[:, ::-1])
        torch.testing.assert_close(back, targets, rtol=_NEAR, atol=_NEAR)
    try:
        kind.read("no target at all", (height, width))
    except ValueError:
        return
    raise AssertionError("a target of another kind is refused with a ValueError")
