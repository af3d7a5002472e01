"""Passes that share their beginning: the numbers are those of whole passes, for any model's code."""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from autoslim import Supernet, trace_channels
from autoslim.baselines import MacCounter
from autoslim.replay import Shared, Tape
from autoslim.score import SupernetScorer
from autoslim.tasks import TASKS
from autoslim.testing.random_cnn import RandomCNN

BATCHES = [
    (torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(i)), torch.arange(6) % 5) for i in range(3)
]


@pytest.mark.parametrize("seed", range(6))
def test_reused_samples_equal_whole_ones(seed: int):
    kinds = ["inverted", "dense", "concat", "split", "shuffle", "residual", "squeeze"]
    model = RandomCNN([(kinds[(seed + at) % 7], 8) for at in range(3)], seed=seed).eval()
    net = Supernet(model, trace_channels(model, BATCHES[0][0]))
    scorer = SupernetScorer(net, TASKS["classification"], calibration=[x for x, _ in BATCHES], search=BATCHES)
    base = net.graph.random_widths(seed)
    free = [g for g in net.graph.groups if base[g.name] > g.candidates[0]]
    trials = [base.replace({g.name: g.candidates[0]}) for g in free]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a pass that diverges from the tape would be computed whole, and say so
        reused = scorer.samples(trials, base=base)
        with MacCounter() as less:
            scorer.samples(trials, base=base)
    with MacCounter() as all_:
        found = scorer.samples(trials)
    assert less.macs < all_.macs
    for trial, one, whole in zip(trials, reused, found, strict=True):
        assert (one.loss == whole.loss).all(), trial


class Standardised(nn.Module):
    """The deviation of one channel is 0, and what is divided by it no number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.std(1, keepdim=True, correction=0)


def test_who_leads_with_statistics_that_are_no_numbers_spoils_nobody_elses():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), Standardised(), nn.Conv2d(8, 8, 3)]
    model = nn.Sequential(*layers, nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    net = Supernet(model, trace_channels(model, BATCHES[0][0]))
    scorer = SupernetScorer(net, TASKS["classification"], calibration=[x for x, _ in BATCHES], search=BATCHES)
    base = net.graph.max_widths()
    trials = [base.replace({"0": 4}), base.replace({"2": 1})]
    follower, leader = scorer.samples(trials, base=base)
    assert np.isnan(leader.loss).all()
    assert (follower.loss == scorer.samples(trials[:1])[0].loss).all()


class CalledTwice(nn.Module):
    """One BatchNorm on both sides of a layer, whose statistics are the mean of both calls'."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.between, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x)).relu()
        x = self.norm(self.last(self.between(x).relu()))
        return self.head(x.mean((2, 3)))


def test_a_norm_that_is_called_on_both_sides_of_the_difference_has_the_statistics_of_both_calls():
    torch.manual_seed(0)
    model = CalledTwice()
    net = Supernet(model, trace_channels(model, BATCHES[0][0]))
    scorer = SupernetScorer(net, TASKS["classification"], calibration=[x for x, _ in BATCHES], search=BATCHES)
    base = net.graph.max_widths()
    trials = [base.replace({"between": width}) for width in (1, 4, 8)]
    for trial, one in zip(trials, scorer.samples(trials, base=base), strict=True):
        assert (one.loss == scorer.samples([trial])[0].loss).all(), trial


@dataclass
class Told:
    early: torch.Tensor
    late: torch.Tensor


def test_outputs_in_objects_that_are_made_before_the_difference_are_kept():
    torch.manual_seed(0)
    first, last, other, x = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 2), torch.randn(2, 4)

    def run(layer: nn.Linear, x: torch.Tensor) -> Told:
        y = first(x)
        return Told(y.exp(), layer(y.relu()))

    tape = Tape(lambda: run(last, x))
    shared = Shared(tape, [tape.first_difference(lambda: run(other, x))] * 2)
    with torch.no_grad():
        leader, follower = (
            shared.run(at, lambda y, layer=layer: run(layer, y), x) for at, layer in ((0, last), (1, other))
        )
        assert torch.equal(leader.early, follower.early)
        assert torch.equal(follower.late, run(other, x).late)
    assert shared.computed < shared.total


class ReadsMemory(nn.Module):
    """Numbers that Python reads from memory itself, before the layers that differ, scale what comes after them."""

    def __init__(self, read: str) -> None:
        super().__init__()
        self.read, self.first, self.wide, self.head = read, nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        means = x.detach().mean((1, 2, 3))
        told = {"tolist": torch.Tensor.tolist, "numpy": torch.Tensor.numpy, "asarray": np.asarray}[self.read](means)
        return self.head(self.wide(x).mean((2, 3))) * float(1 + abs(told[0]))


@pytest.mark.parametrize("read", ["tolist", "numpy", "asarray"])
def test_what_python_reads_from_memory_is_computed(read: str):
    torch.manual_seed(0)
    model = ReadsMemory(read).eval()
    tape = Tape(lambda: model(BATCHES[0][0]))
    reader = next(at for at, call in enumerate(tape.calls) if call.func is torch.ops.aten.mean.dim)
    assert [tape.start(cut).cut for cut in (0, reader, len(tape.calls) - 1)] == [0, reader, reader]
    shared = Shared(tape, [len(tape.calls) - 1, len(tape.calls) - 2])
    with torch.no_grad():
        found = [shared.run(at, model, BATCHES[1][0]) for at in shared.order]
        assert all(torch.equal(one, model(BATCHES[1][0])) for one in found)


def test_operators_before_the_difference_are_not_computed():
    torch.manual_seed(0)
    layers = [nn.Linear(4, 4) for _ in range(6)]
    relu = nn.ReLU(inplace=True)

    def run(last: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            x = relu(layer(x)) + x
        return last(x)

    x = torch.randn(2, 4)
    a, b = nn.Linear(4, 3), nn.Linear(4, 2)
    tape = Tape(lambda: run(a, x))
    cut = tape.first_difference(lambda: run(b, x))
    shared = Shared(tape, [cut, cut])
    with torch.no_grad():
        results = [shared.run(at, lambda y, last=last: run(last, y), x) for at, last in ((0, a), (1, b))]
        assert [torch.equal(r, run(last, x)) for r, last in zip(results, (a, b), strict=True)] == [True, True]
    assert shared.total == 2 * len(tape.calls)
    assert shared.computed == 2 * len(tape.calls) - cut
    assert cut >= len(tape.calls) - 3


def test_what_is_written_to_later_is_kept_apart():
    """The second layer's input is changed in place after the cut, by whoever comes first."""
    first, add = nn.Linear(4, 4), torch.ones(4)

    def run(last: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        y = first(x)
        z = last(y)
        return z + y.mul_(2).sum(1, keepdim=True) + add[0]

    x = torch.randn(3, 4)
    lasts = [nn.Linear(4, 3), nn.Linear(4, 2), nn.Linear(4, 1)]
    tape = Tape(lambda: run(lasts[0], x))
    cuts = [tape.first_difference(lambda last=last: run(last, x)) for last in lasts[1:]]
    shared = Shared(tape, [*cuts, cuts[0]])
    order = [lasts[1], lasts[2], lasts[0]]
    with torch.no_grad():
        for at in shared.order:
            got = shared.run(at, lambda y, at=at: run(order[at], y), x)
            assert torch.equal(got, run(order[at], x))


def test_who_looks_on_does_not_change_the_pass():
    a, b, x = nn.Linear(4, 3), nn.Linear(4, 2), torch.randn(2, 4)

    def run(last: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return last(torch.relu(x)) + torch.arange(0, 2).unsqueeze(1)  # arange detaches what others hold

    tape = Tape(lambda: run(a, x))
    shared = Shared(tape, [tape.first_difference(lambda: run(b, x))] * 2)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for at, last in enumerate((a, b)):
            assert torch.equal(shared.run(at, lambda y, last=last: run(last, y), x), run(last, x))


@pytest.mark.parametrize("leader", [True, False])
def test_pass_that_goes_another_way_is_computed_whole_and_says_so(leader: bool):
    flag = [False]
    a, b = nn.Linear(4, 3), nn.Linear(4, 2)

    def run(last: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x)
        x = torch.sigmoid(x) if flag[0] else torch.tanh(x)
        return last(x)

    x = torch.randn(2, 4)
    tape = Tape(lambda: run(a, x))
    shared = Shared(tape, [tape.first_difference(lambda: run(b, x))] * 2)

    def both() -> list[torch.Tensor]:
        flag[0] = leader
        first = shared.run(0, lambda y: run(a, y), x)
        flag[0] = True
        return [first, shared.run(1, lambda y: run(b, y), x)]

    with torch.no_grad():
        with pytest.warns(UserWarning, match="took another way.*operator 1"):
            found = both()
        assert torch.equal(found[1], run(b, x))
        flag[0] = leader
        assert torch.equal(found[0], run(a, x))
