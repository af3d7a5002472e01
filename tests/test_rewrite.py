"""Rewritten networks: the same function, in both modes, at any batch; and groups free that the code's integers block."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from autoslim import Supernet, extract_network, make_cost, rewrite_network, trace_channels
from autoslim.errors import ModelError
from autoslim.rewrite import trace_best
from autoslim.testing.networks import check_subnetwork, outputs, randomise_
from autoslim.testing.random_cnn import BLOCKS, RandomCNN
from autoslim.widths import Widths


def images(batch: int = 2, size: int = 6, seed: int = 0) -> tuple[torch.Tensor]:
    return (torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)),)


def any_widths(graph, seed: int) -> Widths:
    generator = torch.Generator().manual_seed(seed)
    return Widths({
        g.name: g.size if g.frozen else g.atom * int(torch.randint(1, g.atoms + 1, (), generator=generator))
        for g in graph.groups
    })  # fmt: skip


class Net(nn.Module):
    """A network of three convolutions whose code holds integers, in the way that `how` names."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.c = how, 16
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.second = nn.Conv2d(32 if how == "pad" else 8 if how == "split" else 16, 12, 3, padding=1)
        self.wide = nn.Conv2d(16, 32, 1)
        self.norm = nn.BatchNorm2d(12)
        self.drop = nn.Dropout(0.0)
        self.kernel = nn.Parameter(torch.randn(16, 1, 3, 3))
        self.head = nn.Linear(12 * 3 * 3 if how == "flatten" else 12, 5)
        self.unused = nn.Linear(2, 2)  # its parameters are in the state dict all the same

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, h, w = x.shape
        y = self.first(x)
        if self.how == "view":
            y = y.view(b, 2, self.c // 2, h, w).transpose(1, 2).reshape(b, self.c, h, w)
        elif self.how == "split":
            left, right = y.split(self.c // 2, 1)
            y = left * torch.sigmoid(right)
        elif self.how == "pad":
            y = F.pad(y, (0, 0, 0, 0, 8, 8)) + self.wide(y)
        elif self.how == "tokens":
            y = torch.tanh(y.reshape(b, self.c, h * w).transpose(1, 2)).transpose(1, 2).reshape(b, self.c, h, w)
        elif self.how == "groups":
            y = F.conv2d(y, self.kernel, padding=1, groups=self.c)
        y = self.drop(self.norm(self.second(y)))
        y = F.dropout(y, 0.0, self.training)
        if self.how == "flatten":
            return self.head(F.adaptive_avg_pool2d(y, 3).view(-1, 12 * 3 * 3))
        return self.head(y.mean((2, 3)))


HOWS = ["view", "split", "pad", "tokens", "groups", "flatten"]


def networks(how: str) -> tuple[nn.Module, nn.Module]:
    model = randomise_(Net(how)).eval()
    return model, rewrite_network(model, images())


@pytest.mark.parametrize("how", HOWS)
def test_rewritten_network_is_the_network(how):
    model, rewritten = networks(how)
    assert list(rewritten.state_dict()) == list(model.state_dict())
    for batch in (2, 1, 5):
        x = images(batch, seed=batch)
        assert torch.equal(rewritten(*x), model(*x))
    larger = images(3, size=9)
    assert torch.equal(rewritten(*larger), model(*larger))


@pytest.mark.parametrize("how", HOWS)
def test_train_mode_is_the_networks(how):
    model, rewritten = networks(how)
    before = copy.deepcopy(model.state_dict())
    for step in range(2):
        x = images(4, seed=step)
        for net in (model, rewritten):
            net.train().zero_grad()
            net(*x).square().sum().backward()
    grads = dict(model.named_parameters())
    for name, parameter in rewritten.named_parameters():
        assert (parameter.grad is None) == (grads[name].grad is None)
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, grads[name].grad, rtol=1e-12, atol=1e-12)
    for name, value in model.state_dict().items():
        assert torch.equal(rewritten.state_dict()[name], value)
    assert not torch.equal(model.state_dict()["norm.running_mean"], before["norm.running_mean"])
    assert torch.equal(rewritten.eval()(*x), model.eval()(*x))


@pytest.mark.parametrize("how", HOWS)
def test_groups_that_the_code_blocks_are_free_after_rewriting(how):
    model, rewritten = networks(how)
    blocked = "second" if how == "flatten" else "first.0"
    assert trace_channels(model, images()).group(blocked).frozen is not None
    graph = trace_channels(rewritten, images())
    assert [g.name for g in graph.groups if g.frozen] == ["head"]
    for widths in (graph.min_widths(), any_widths(graph, 0), any_widths(graph, 1)):
        check_subnetwork(rewritten, graph, widths, images())
        small = extract_network(rewritten, graph, widths)
        net = Supernet(rewritten, graph)
        with net.at(widths):
            other = outputs(net, images(5))
        torch.testing.assert_close(other, outputs(small, images(5)), rtol=1e-10, atol=1e-10)
        small.train()(*images(4)).sum().backward()
    assert (small.eval()(*images()) - rewritten.eval()(*images())).abs().max() > 1e-6
