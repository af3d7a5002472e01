"""In place: the same numbers and gradients as the extracted network, and nothing left behind."""

import copy

import pytest
import torch
from torch import nn

from autoslim import Supernet, Widths, extract_network, trace_channels
from autoslim.errors import WidthsError
from autoslim.testing.random_cnn import RandomCNN

BLOCKS = [("inverted", 8), ("concat", 9), ("shuffle", 5), ("grouped", 6), ("squeeze", 4)]
X = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net():
    model = RandomCNN(BLOCKS, seed=3).double()
    return Supernet(model, trace_channels(model, X))


@pytest.mark.parametrize("how", ["at", "leaves_at"])
@pytest.mark.parametrize("seed", range(3))
def test_outputs_and_gradients_equal_the_extracted_networks(net, how, seed):
    widths = net.graph.random_widths(seed)
    small = extract_network(net.model, net.graph, widths).train()
    net.train()
    with getattr(net, how)(widths):
        out = net(X)
        out.square().sum().backward()
    expected = small(X)
    expected.square().sum().backward()
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    selection = net.graph.selection(widths)
    for name, parameter in net.model.named_parameters():
        kept, gradient = selection.get(name, {}), parameter.grad
        outside = gradient.clone()
        for dim, indices in kept.items():
            gradient = gradient.index_select(dim, indices)
        torch.testing.assert_close(gradient, small.get_parameter(name).grad, rtol=1e-10, atol=1e-12)
        active = torch.zeros_like(outside)
        mesh = [kept.get(dim, torch.arange(size)) for dim, size in enumerate(outside.shape)]
        active[torch.meshgrid(*mesh, indexing="ij")] = 1
        assert (outside * (1 - active)).abs().max() == 0, name


def test_leaves_add_up_over_passes(net):
    net.train()
    all_widths = [net.graph.max_widths(), net.graph.min_widths(), net.graph.random_widths(1)]
    for widths in all_widths:
        with net.leaves_at(widths):
            net(X).square().sum().backward()
    summed = {name: p.grad.clone() for name, p in net.model.named_parameters()}
    net.model.zero_grad()
    for widths in all_widths:
        with net.at(widths):
            net(X).square().sum().backward()
    for name, p in net.model.named_parameters():
        torch.testing.assert_close(p.grad, summed[name], rtol=1e-10, atol=1e-10)


def test_full_width_is_the_model_bit_for_bit_and_updates_its_statistics(net):
    other = copy.deepcopy(net.model).train()
    net.train()
    with net.at(net.graph.max_widths()):
        assert torch.equal(net(X), other(X))
    for (name, ours), (_, theirs) in zip(net.model.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("how", ["at", "leaves_at"])
def test_a_subnetwork_leaves_nothing_behind(net, how):
    state = {name: value.clone() for name, value in net.model.state_dict().items()}
    groups = {name: m.groups for name, m in net.model.named_modules() if isinstance(m, nn.Conv2d)}
    net.train()

    def break_off():
        with getattr(net, how)(net.graph.min_widths()):
            net(X).sum().backward()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    for name, value in net.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert {name: m.groups for name, m in net.model.named_modules() if isinstance(m, nn.Conv2d)} == groups
    assert net(X).shape == (4, 5)


def test_contexts_nest(net):
    net.eval()
    narrow, whole = net.graph.min_widths(), net(X)
    with net.at(narrow):
        first = net(X)
        with net.at(net.graph.random_widths(2)):
            net(X)
        for inner in (net.at(net.graph.max_widths()), net.leaves_at(net.graph.max_widths())):
            with inner:
                assert torch.equal(net(X), whole)
        with net.at(net.graph.max_widths(), buffers=net.buffers_at(net.graph.max_widths())):
            assert torch.equal(net(X), whole)
        assert torch.equal(net(X), first)


def test_at_runs_on_given_buffers_and_writes_to_them(net):
    net.train()
    buffers = net.buffers_at(net.graph.max_widths())
    before = {name: value.clone() for name, value in buffers.items()}
    with net.at(net.graph.max_widths(), buffers=buffers):
        net(X)
    assert any(not torch.equal(before[name], buffers[name]) for name in buffers)
    assert all(torch.equal(value, before[name]) for name, value in net.model.named_buffers())


def test_channels_last_is_kept(net):
    net.to(memory_format=torch.channels_last)
    seen = []

    def look(module, args):
        seen.append(module.weight.is_contiguous(memory_format=torch.channels_last))

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(look)
    with net.leaves_at(net.graph.min_widths()):
        net(X)
    assert seen
    assert all(seen)


def test_widths_that_do_not_fit_are_refused(net):
    group = next(g for g in net.graph.groups if g.atom > 1)
    wrong = net.graph.max_widths().replace({group.name: group.atom + 1})
    with pytest.raises(WidthsError) as error, net.at(wrong):
        pass
    assert str(error.value) == (
        f"`{group.name}`: width {group.atom + 1} is not a multiple of {group.atom} between {group.atom} and "
        f"{group.size}. Candidates: {', '.join(map(str, group.candidates))}."
    )
    with pytest.raises(WidthsError, match="Widths lack the group"), net.at(Widths({})):
        pass


def test_widths_may_be_any_mapping(net):
    widths = net.graph.random_widths(3)
    plain = dict(widths)
    for at in (net.at, net.leaves_at, lambda each: net.at(each, buffers=net.buffers_at(each))):
        with torch.no_grad(), at(widths):
            expected = net(X)
        with torch.no_grad(), at(plain):
            assert torch.equal(net(X), expected)
    mine, theirs = (extract_network(net.model, net.graph, each).state_dict() for each in (plain, widths))
    assert all(torch.equal(mine[name], theirs[name]) for name in {**mine, **theirs})
    odd = {**plain, "nowhere": 3}
    with pytest.raises(WidthsError, match="nowhere"), net.at(odd):
        pass
    with pytest.raises(WidthsError, match="nowhere"):
        extract_network(net.model, net.graph, odd)


def test_shared_modules_are_restored():
    first = nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), first, nn.ReLU(), first, nn.Conv2d(8, 4, 1)).double()
    net = Supernet(model, trace_channels(model, X))
    weight = first.weight
    narrow = Widths({**net.graph.max_widths(), "0": 3})
    with net.at(narrow):
        small = net(X)
    assert first.weight is weight
    torch.testing.assert_close(small, extract_network(model, net.graph, narrow)(X))


def test_tied_parameters_follow_together():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2)).double()
    model[2].weight = model[0].weight
    net = Supernet(model, trace_channels(model, torch.zeros(1, 6, dtype=torch.float64)))
    x = torch.randn(3, 6, dtype=torch.float64)
    with net.at(net.graph.min_widths()):
        ours = net(x)
    torch.testing.assert_close(ours, extract_network(model, net.graph, net.graph.min_widths())(x))


def test_indices_follow_the_model_to_another_device(net):
    narrow = net.graph.min_widths()
    with net.at(narrow):
        net(X)
    assert net._plans
    net.to("meta")
    assert not net._plans
    with net.at(narrow):
        assert net(X.to("meta")).shape == (4, 5)
