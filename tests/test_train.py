"""One sandwich step equals the same step written by hand in plain PyTorch; the recipe's parts do what they say."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from autoslim import Supernet, extract_network, trace_channels
from autoslim.errors import TrainingError
from autoslim.tasks import TASKS
from autoslim.testing.random_cnn import RandomCNN
from autoslim.train import (
    TrainConfig,
    learning_rate,
    parameter_groups,
    sandwich_step,
    train_network,
    train_supernet,
)

TASK = TASKS["classification"]


class Runtime:
    """What a step needs of Lightning Fabric, without it."""

    device = torch.device("cpu")

    def autocast(self):
        return torch.autocast("cpu", enabled=False)

    def backward(self, tensor):
        tensor.backward()


class Batches:
    """The same few batches in every epoch."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def epoch(self, number, start=0):
        return iter(self.batches[start:])


@pytest.fixture
def net():
    model = RandomCNN([("inverted", 8), ("concat", 9), ("grouped", 6)], seed=1).double()
    return Supernet(model, trace_channels(model, torch.zeros(1, 3, 6, 6, dtype=torch.float64))).train()


def batch(seed=0, n=8):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, 6, 6, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 5, (n,), generator=generator)


def test_a_sandwich_step_equals_one_by_hand(net):
    x, y = batch()
    graph, by_hand = net.graph, copy.deepcopy(net.model)
    expected_statistics = copy.deepcopy(net.model).train()
    loss = sandwich_step(net, (x, y), task=TASK, seed=5, subnets=2, smoothing=0.1)

    wide = by_hand(x)
    taught = functional.softmax(wide.detach().float(), 1)
    total = functional.cross_entropy(wide.float(), y, label_smoothing=0.1)
    total.backward()
    gradients = {name: p.grad.clone() for name, p in by_hand.named_parameters()}
    for widths in (graph.min_widths(), graph.random_widths(5 * 64), graph.random_widths(5 * 64 + 1)):
        small = extract_network(net.model, graph, widths).train()
        part = -(taught * functional.log_softmax(small(x).float(), 1)).sum(1).mean()
        part.backward()
        total = total.detach() + part.detach()
        for name, p in small.named_parameters():
            kept = graph.selection(widths).get(name, {})
            mesh = torch.meshgrid(
                *[kept.get(d, torch.arange(s)) for d, s in enumerate(gradients[name].shape)], indexing="ij"
            )
            gradients[name][mesh] += p.grad
    assert loss == pytest.approx(float(total), rel=1e-6)
    for name, p in net.model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-6, atol=1e-8)
    expected_statistics(x)
    for (name, ours), theirs in zip(net.model.named_buffers(), expected_statistics.buffers(), strict=True):
        assert torch.equal(ours, theirs), name  # only the widest pass has written running statistics


def test_the_widest_is_not_taught(net):
    x, y = batch()
    sandwich_step(net, (x, y), task=TASK, seed=0, subnets=0)
    alone = extract_network(net.model, net.graph, net.graph.min_widths())
    free = next(g for g in net.graph.groups if g.frozen is None)
    wide = copy.deepcopy(net.model)
    functional.cross_entropy(wide(x).float(), y).backward()
    name = f"{free.name}.weight"
    outside = slice(alone.get_parameter(name).shape[0], None)
    torch.testing.assert_close(net.model.get_parameter(name).grad[outside], wide.get_parameter(name).grad[outside])


def test_weight_decay_spares_norms_biases_and_depthwise_kernels():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 2))
    decayed, spared = parameter_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0.0
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[3].weight)}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_learning_rate_rises_then_falls_to_nothing(schedule):
    config = TrainConfig(lr=0.4, warmup=0.1, schedule=schedule)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[9] == rates[10] == pytest.approx(0.4)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    half = 0.4 * (1 + math.cos(math.pi * 45 / 90)) / 2 if schedule == "cosine" else 0.4 / 2
    assert rates[55] == pytest.approx(half)
    assert rates[99] < 0.01


def test_training_learns_and_is_repeatable(net):
    config = TrainConfig(epochs_supernet=6, epochs_retrain=6, lr=0.05)
    loader = Batches([batch(seed) for seed in range(4)])
    models = [copy.deepcopy(net) for _ in range(2)]
    seen = []
    losses = [
        train_supernet(m, loader, config, task=TASK, seed=3, runtime=Runtime(), on_step=seen.append) for m in models
    ]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    assert len(losses[0]) == 6
    assert len(seen) == 2 * 24
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)
    plain = train_network(copy.deepcopy(net.model), loader, config, task=TASK, runtime=Runtime(), on_step=seen.append)
    assert plain[-1] < plain[0]


def test_a_loss_that_is_not_finite_stops_with_what_to_try(net):
    x, y = batch()
    loader = Batches([(x, y), (x * float("nan"), y)])
    with pytest.raises(TrainingError) as error:
        train_network(net.model, loader, TrainConfig(lr=0.2, warmup=0.0), task=TASK, runtime=Runtime(), on_step=print)
    assert str(error.value).startswith(
        "The loss is nan at step 1 of 40, learning rate 0.1997. Expected a finite number."
    )
    assert "--lr 0.05" in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs_supernet", 0), ("batch_size", 1), ("lr", 0.0), ("warmup", 1.0), ("label_smoothing", -1)],
)
def test_configurations_are_validated(field, value):
    with pytest.raises(ValueError, match=field):
        TrainConfig(**{field: value})


def test_auxiliary_heads_count_three_tenths():
    logits, aux = torch.randn(4, 5), torch.randn(4, 5)
    labels = torch.tensor([0, 1, 2, 3])
    alone = [TASK.loss(head, labels) for head in (logits, aux)]
    torch.testing.assert_close(TASK.loss((logits, aux), labels), alone[0] + 0.3 * alone[1])
    torch.testing.assert_close(TASK.loss({"out": logits, "aux": aux}, labels), alone[0] + 0.3 * alone[1])
    taught = TASK.teach((logits, aux))
    assert float(TASK.distill((logits, aux), taught)) <= float(TASK.distill((aux, logits), taught))
    loss, hit = TASK.judge((logits, aux), labels)
    torch.testing.assert_close(loss.mean(), alone[0].double(), rtol=1e-6, atol=1e-6)
    assert hit.tolist() == (logits.argmax(1) == labels).double().tolist()
