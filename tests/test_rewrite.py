"""Rewritten networks: the same function in both modes, at any batch; and groups are free that code had blocked."""

import copy
import re

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from autoslim import Supernet, extract_network, make_cost, rewrite_network, trace_channels
from autoslim.errors import ModelError
from autoslim.rewrite import trace_best
from autoslim.testing.networks import any_widths, check_subnetwork, outputs, randomise_
from autoslim.testing.random_cnn import BLOCKS, RandomCNN


def images(batch: int = 2, size: int = 6, seed: int = 0) -> tuple[torch.Tensor]:
    return (torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)),)


class Net(nn.Module):
    """A network of three convolutions whose code holds integers, in the way that `how` names."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.second = nn.Conv2d(32 if how == "pad" else 8 if how == "split" else 16, 12, 3, padding=1)
        self.wide = nn.Conv2d(16, 32, 1)
        self.part = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(12)
        self.drop = nn.Dropout(0.0)
        self.kernel = nn.Parameter(torch.randn(16, 1, 3, 3))
        self.head = nn.Linear(12 * 3 * 3 if how == "flatten" else 12, 5)
        self.unused = nn.Linear(2, 2)  # its parameters are in the state dict all the same

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, h, w = x.shape
        y = self.first(x)
        if self.how == "view":
            y = y.view(b, 2, 8, h, w).transpose(1, 2).reshape(b, 16, h, w)
        elif self.how == "split":
            left, right = y.split(8, 1)
            y = left * torch.sigmoid(right)
        elif self.how == "pad":
            y = F.pad(y, (0, 0, 0, 0, 8, 8)) + self.wide(y)
        elif self.how == "tokens":
            y = torch.tanh(y.reshape(b, 16, h * w).transpose(1, 2)).transpose(1, 2).reshape(b, 16, h, w)
        elif self.how == "parts":
            left, right = y.split((4, 12), 1)
            y = torch.cat([self.part(left), right], 1)
        elif self.how == "groups":
            y = F.conv2d(y, self.kernel, padding=1, groups=16)
        y = self.drop(self.norm(self.second(y)))
        y = F.dropout(y, 0.0, self.training)
        if self.how == "flatten":
            return self.head(F.adaptive_avg_pool2d(y, 3).view(-1, 12 * 3 * 3))
        return self.head(y.mean((2, 3)))


HOWS = ["view", "split", "pad", "tokens", "groups", "flatten"]


def networks(how: str) -> tuple[nn.Module, nn.Module]:
    model = randomise_(Net(how)).eval()
    return model, rewrite_network(model, images())


@pytest.mark.parametrize("how", [*HOWS, "parts"])
def test_rewritten_network_is_the_network(how):
    model, rewritten = networks(how)
    assert list(rewritten.state_dict()) == list(model.state_dict())
    for batch in (2, 1, 5):
        x = images(batch, seed=batch)
        assert torch.equal(rewritten(*x), model(*x))
    larger = images(3, size=9)
    assert torch.equal(rewritten(*larger), model(*larger))


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    blocks=st.lists(st.tuples(st.sampled_from(BLOCKS), st.integers(3, 9)), min_size=1, max_size=4),
    flatten=st.booleans(),
    seed=st.integers(0, 100),
)
@example(blocks=[(name, 7) for name in BLOCKS], flatten=True, seed=1)
def test_random_networks_keep_their_function_and_their_groups(blocks, flatten, seed):
    model = randomise_(RandomCNN(blocks, flatten=flatten, seed=seed)).eval()
    rewritten = rewrite_network(model, images())
    assert torch.equal(rewritten(*images(3)), model(*images(3)))
    graph, other = trace_channels(model, images()), trace_channels(rewritten, images())
    assert [(g.name, g.size, g.atom) for g in graph.groups] == [(g.name, g.size, g.atom) for g in other.groups]
    widths = any_widths(other, seed)
    check_subnetwork(rewritten, other, widths, images(), masked=not any(g.note for g in other.groups))
    small, same = extract_network(model, graph, widths), extract_network(rewritten, other, widths)
    torch.testing.assert_close(small(*images()), same(*images()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", [*HOWS, "parts"])
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
    before = trace_channels(model, images())
    assert [g.name for g in before.groups if g.frozen] != ["head"]
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


class Counts(nn.Module):
    """Computes with the number of its first convolution's channels; a literal blocks its second's."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.second, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 12, 1), nn.Linear(12 * 9, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        n, c, h, w = y.shape
        if self.how == "mean":
            y = y - y.sum(1, keepdim=True) / y.shape[1]
        elif self.how == "scale":
            y = y * y.size(1) ** -0.5
        elif self.how == "all sizes":
            y = y * (1 + y.sum((1, 2, 3), keepdim=True) / (2 * c * h * w + n - y.size(0)))
        elif self.how == "parts":
            left, right = y.chunk(2, 1)
            y = torch.cat([left / right.shape[1], right.mul(1 / left.size(dim=1))], 1)
        elif self.how == "signs":
            y = y * (-y.shape[1]) + y / -(y.shape[1] * 0.5) + y / y[0].numel()
        return self.head(F.adaptive_avg_pool2d(self.second(y), 3).view(-1, 12 * 9))


@pytest.mark.parametrize("how", ["mean", "scale", "all sizes", "parts", "signs"])
def test_numbers_that_the_code_computes_from_shapes_follow_the_widths(how):
    model = randomise_(Counts(how)).eval()
    rewritten = rewrite_network(model, images())
    for x in (images(), images(5), images(1, size=9)):
        assert torch.equal(rewritten(*x), model(*x))
    graph, other = trace_channels(model, images()), trace_channels(rewritten, images())
    assert graph.group("second").frozen is not None
    assert other.group("second").frozen is None
    for width in (8, 12):
        small = extract_network(model, graph, graph.max_widths().replace({"first": width}))
        same = extract_network(rewritten, other, other.max_widths().replace({"first": width}))
        for x in (images(), images(3, size=9)):
            torch.testing.assert_close(same(*x), small(*x), rtol=1e-12, atol=1e-12)


# Which of the two a result uses --------------------------------------------------------------------------------------


def test_the_network_that_frees_more_is_taken():
    model = randomise_(Net("flatten")).eval()
    best = trace_best(model, images())
    assert best.rewritten
    assert best.model is not model
    assert best.graph.group("second").frozen is None
    assert re.fullmatch(r"\d+ groups are free in the model's own code, \d+ in the rewritten network", best.why)
    check_subnetwork(best.model, best.graph, best.graph.min_widths(), images())


def test_a_network_that_nothing_blocks_stays_itself():
    model = randomise_(RandomCNN([("residual", 6)])).eval()
    best = trace_best(model, images())
    assert best.model is model
    assert not best.rewritten
    assert best.graph == trace_channels(model, images())
    assert best.why == "the model's own code follows every group that its operators leave free"


def test_a_network_that_cannot_be_rewritten_stays_itself_and_tells():
    model = randomise_(Odd("item")).eval()
    best = trace_best(model, images())
    assert best.model is model
    assert "groups stay frozen, the network can't be rewritten: Odd takes a tensor's values into Python" in best.why


# What can't be rewritten, and what could go wrong --------------------------------------------------------------------


class Odd(nn.Module):
    """One network for each thing that stands in the way, with a literal in its code that blocks a group."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv, self.extra, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8 * 36, 5)
        self.register_buffer("mean", torch.zeros(1, dtype=torch.float64))
        self.plain = torch.rand(8, 1, 1, dtype=torch.float64)  # neither parameter nor buffer
        self.extra.weight = nn.Parameter(self.extra.weight.detach().clone())
        self.kernels = nn.Parameter(torch.randn(8, 1, 1, 1, dtype=torch.float64))
        if how == "hook":
            self.extra.register_forward_pre_hook(lambda _, args: (args[0] * 2 + 1,))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.how == "item" and x.sum().item() > 1e9:
            y = -y
        if self.how == "modes" and self.training:
            y = self.extra(y)
        if self.how == "buffer":
            self.mean = 0.9 * self.mean + 0.1 * y.detach().mean()
            y = y - self.mean
        if self.how == "batch":
            y = y * torch.arange(2 + len(x) ** 2, device=x.device).sum()
        if self.how == "plain":
            y = y * self.plain + torch.tensor([1.0, 2.0], dtype=y.dtype).sum()
        if self.how == "gradients":
            with torch.no_grad():
                y = y + self.extra(y)
        if self.how == "constants":
            with torch.no_grad():
                ramp = torch.linspace(0, 1, y.shape[-1], dtype=y.dtype, device=y.device) * 2
            with torch.enable_grad(), torch.set_grad_enabled(self.training):
                y = y + ramp
        if self.how == "checkpoint":
            y = checkpoint(self.extra, y, use_reentrant=True)
        if self.how == "names":
            y = y.narrow(dim=1, start=0, length=8) + F.conv2d(y, weight=self.kernels, groups=8)
        if self.how == "slot":
            y[:, :2] = y[:, 2:4].clone()
        if self.how == "hook":
            y = self.extra(y)
        if self.how == "same":
            y = y + F.dropout(y, 0.5, self.training) + self.extra(y)
        return self.head(y.view(-1, 8 * 36))


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("item", r"^Odd takes a tensor's values into Python \(item\); expected code that depends on shapes only\. "),
        ("modes", r"^Odd takes other steps in train mode than in eval mode \(.*\); expected one sequence of steps\. "),
        ("buffer", r"^Odd puts another tensor in the place of its buffer `mean`; expected values that change in it "),
        ("gradients", r"^Odd turns gradients off for a part of its steps; expected all of them to train alike: "),
        ("batch", r"^the network: the integer 6 of arange depends on the batch in a way that can't be seen; expected "),
    ],
)
def test_what_cannot_be_rewritten_is_told(how, error):
    with pytest.raises(ModelError, match=error) as told:
        rewrite_network(Odd(how).double(), images())
    assert str(told.value).endswith("The network can't be rewritten; trace it as it is.")


def test_a_network_that_fails_is_told_with_its_shapes():
    with pytest.raises(
        ModelError, match=r"^Conv2d can't be recorded on inputs of shape \(2, 3, 6, 6\) and 3 times the"
    ):
        rewrite_network(nn.Conv2d(4, 8, 3).double(), images())


@pytest.mark.parametrize("how", ["plain", "slot", "same", "hook", "names", "constants", "checkpoint"])
def test_odd_networks_are_rewritten_exactly(how):
    """Tensors that are no parameters, writes through a slice, dropout of a tensor that is used beside it, hooks of a
    layer's own, arguments that are given by name, and gradients that are off where there are none, or for a while."""
    model = randomise_(Odd(how)).eval()
    rewritten = rewrite_network(model, images())
    assert torch.equal(rewritten(*images(3)), model(*images(3)))
    torch.manual_seed(0)
    wanted = model.train()(*images(3))
    torch.manual_seed(0)
    assert torch.equal(rewritten.train()(*images(3)), wanted)


def test_shared_weights_stay_shared_and_the_model_untouched():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(288, 4))
    model[2].weight = model[1].weight
    model = randomise_(model).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rewritten = rewrite_network(model, images())
    assert rewritten.get_submodule("1").weight is rewritten.get_submodule("2").weight
    assert rewritten.get_submodule("1").weight is not model[1].weight
    assert model.training
    assert rewritten.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in rewritten.modules())


def test_a_copy_runs_on_its_own_parameters():
    _, rewritten = networks("pad")
    twin = copy.deepcopy(rewritten)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert twin(*images()).abs().max() == 0
    assert rewritten(*images()).abs().max() > 0


def test_rewriting_is_deterministic_and_again_the_same():
    model, rewritten = networks("view")
    assert rewrite_network(model, images(seed=7)).code == rewritten.code
    again = rewrite_network(rewritten, images())
    assert torch.equal(again(*images(5)), model(*images(5)))


def test_the_code_holds_no_channel_number_and_no_batch():
    for how in HOWS:
        _, rewritten = networks(how)
        assert not re.search(r"\b(16|12|8|32|108)\b(?! *//)", re.sub(r"# .*|// \d+", "", rewritten.code)), (
            rewritten.code
        )


# Networks of the libraries -------------------------------------------------------------------------------------------


def min_share(graph) -> float:
    cost = make_cost("macs", graph)
    return cost(graph.min_widths()) / cost(graph.max_widths())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:skresnet18", "timm:res2net50_26w_4s", "timm:shvit_s1", "tv:swin_t"])
def test_libraries_networks_are_rewritten(name):
    build = timm.create_model if name.startswith("timm:") else torchvision.models.get_model
    model = randomise_(build(name.split(":")[1], num_classes=10)).eval()
    for module in model.modules():
        if isinstance(module, torchvision.ops.StochasticDepth):
            module.p = 0.0
    x = images(1, size=64)
    rewritten = rewrite_network(model, x)
    assert list(rewritten.state_dict()) == list(model.state_dict())
    assert torch.equal(rewritten(*images(3, size=64)), model(*images(3, size=64)))
    graph = trace_channels(rewritten, x)
    check_subnetwork(rewritten, graph, graph.random_widths(0), x, masked="net" in name)
    for net in (model, rewritten):
        net.train()(*images(2, size=64)).sum().backward()
    for one, other in zip(model.state_dict().values(), rewritten.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    if "net" in name:
        assert min_share(graph) < 0.3


class Modes(nn.Module):
    """Does something else in each mode, the second time the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(self.first(x), scale_factor=2.0, mode="bilinear", align_corners=self.training)
        return F.interpolate(self.last(x), scale_factor=2.0, mode="bilinear", align_corners=not self.training)


@pytest.mark.parametrize("training", [True, False])
def test_what_follows_the_mode_either_way_is_kept(training: bool):
    model, x = Modes(), torch.randn(2, 3, 4, 4)
    rewritten = rewrite_network(model, x).train(training)
    torch.testing.assert_close(rewritten(x), model.train(training)(x))
