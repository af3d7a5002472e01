"""What a baseline takes and gives: a lab in; widths per budget out, often with the weights that are kept."""

import importlib
import math
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from autoslim._extras import install_extra
from autoslim._registry import Registry
from autoslim.budget import Budget
from autoslim.errors import BudgetError, ConfigError
from autoslim.extract import copy_model, extract_network
from autoslim.graph import ChannelGraph
from autoslim.score import evaluate
from autoslim.search import Cost, Score, Space
from autoslim.search._base import excess_in
from autoslim.sort import sort_channels_
from autoslim.tasks import Task
from autoslim.train import Batch, Loader, Runtime, TrainConfig, train_network
from autoslim.widths import Widths

Importance = Mapping[str, torch.Tensor]  # per group, a number for each atom
_CLOSE = 0.005  # how far below its budget a network may stay, as a share of it


class MacCounter(TorchDispatchMode):
    """Counts the multiply-accumulates of everything that runs inside it: forward, backward, training, judging.

    It stands where operators are executed, so what is computed once and shared counts once. Counted are convolutions
    and matrix products, half of torch's own count of floating-point operations; but for the backward pass of
    convolutions, where torch's forgets their groups and tells hundreds of times too many of a depthwise one, and for
    attention on CPUs, which torch's leaves out. Fused attention blocks run operator by operator meanwhile.

    >>> with MacCounter() as counter:
    ...     y = nn.Linear(4, 2)(torch.ones(3, 4))
    >>> counter.macs
    24.0
    """

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # imports triton: only who counts pays for it

        super().__init__()
        self.macs, self._counts = 0.0, {**flop_registry, **_cpu_attention()}

    def __enter__(self) -> "MacCounter":
        self._fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.backends.mha.set_fastpath_enabled(self._fast)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = self._counts.get(func._overloadpacket)
        if count is not None and not args[0].is_meta:  # a trace runs without data: nothing is multiplied
            if func._overloadpacket is torch.ops.aten.convolution_backward:
                self.macs += _backward_macs(*args)
            else:
                self.macs += count(*args, **(kwargs or {}), out_val=out) / 2
        return out


def _cpu_attention() -> dict[Any, Callable[..., int]]:
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    def forward(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
        return sdpa_flop_count(query.shape, key.shape, value.shape)

    def backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
        return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)

    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }


def _backward_macs(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *args: Any) -> float:
    """Of a convolution's backward pass: a forward pass's for its input's gradient, and again for its weight's."""
    transposed, (of_input, of_weight, _) = args[4], args[7]
    forward = (x if transposed else grad).numel() * weight[0].numel()
    return float(forward * (of_input + of_weight))


@dataclass(frozen=True, kw_only=True)
class Lab:
    """What a baseline works with. It never sees the test images.

    Attributes:
        graph: Of the full-width network.
        space: The widths to choose from.
        costs: Every metric of the budgets.
        base: Of which relative limits are a share.
        trained: The full-width network, trained as every final network is; to be copied, not changed. Its weights are
            fresh for a baseline that does not start from it.
        build: A full-width network with fresh weights.
        loader: Augmented training batches, without the search images.
        search: Batches of search images, which judge.
        calibration: Batches of train images [N, C, H, W] as they are judged, for BatchNorm statistics.
        task: Loss and metric.
        config: The recipe: learning rate, weight decay, epochs.
        runtime: Where it runs.
        seed: Of whatever is drawn.
        scaler: What the runtime scales losses by, in 16-mixed precision.
    """

    graph: ChannelGraph
    space: Space
    costs: Mapping[str, Cost]
    base: Mapping[str, float]
    trained: nn.Module
    build: Callable[[], nn.Module]
    loader: Loader
    search: Iterable[Batch]
    calibration: Sequence[torch.Tensor]
    task: Task
    config: TrainConfig
    runtime: Runtime
    seed: int
    scaler: torch.amp.GradScaler | None = None

    def batches(self, count: int) -> Iterator[Batch]:
        """The first `count` training batches, on the device."""
        for images, labels in _Steps(self.loader, count).epoch(0):
            yield images.to(self.runtime.device), labels.to(self.runtime.device)

    def train(
        self,
        model: nn.Module,
        steps: int,
        *,
        lr: float | None = None,
        epoch: int = 0,
        penalty: Callable[[], torch.Tensor] | None = None,
        averaged: bool = False,
    ) -> None:
        """Trains for some steps, with the recipe's schedule shrunk to them.

        Args:
            model: Is changed.
            steps: Batches; one learning-rate schedule over all of them.
            lr: Its peak; default the recipe's.
            epoch: The epoch that the batches start from: others, for another training.
            penalty: Added to the loss at each step, a scalar.
            averaged: Whether it is long enough for the recipe's average of the weights.

        Raises:
            TrainingError: The loss is no longer finite.
        """
        ema = self.config.ema if averaged else 0.0
        # passes are counted where operators run, and a replay runs none
        config = replace(self.config, epochs_retrain=1, lr=lr or self.config.lr, ema=ema, cuda_graph=False)
        with torch.random.fork_rng():
            train_network(
                model,
                _Steps(self.loader, steps, epoch),
                config,
                task=self.task,
                seed=self.seed,
                runtime=self.runtime,
                on_step=lambda loss, done: None,
                scaler=self.scaler,
                penalty=penalty,
            )

    @property
    def epoch_steps(self) -> int:
        """Batches in an epoch."""
        return len(self.loader)

    def judge(self, model: nn.Module) -> Score:
        """Loss and accuracy on the search images."""
        return evaluate(model, self.search, self.task).score

    def keep(self, model: nn.Module, importance: Importance, widths: Widths) -> nn.Module:
        """The slim network of the full-width `model`'s most important channels, with their weights."""
        ordered = copy_model(model)
        rank_channels_(ordered, self.graph, importance)
        return extract_network(ordered, self.graph, widths)

    def excess(self, budget: Budget) -> Callable[[Widths], float]:
        """How far a network is above the tightest limit of a budget, as a share of it; at most 0 for one that holds."""
        return excess_in(self.costs, budget, self.base)


@dataclass(frozen=True)
class Chosen:
    """The answer to one budget: widths that hold it and, where channels were chosen, the slim network as it is kept."""

    budget: Budget
    widths: Widths
    network: nn.Module | None = None


class Baseline(Protocol):
    """A baseline: a frozen dataclass of its own settings.

    Attributes:
        pretrained: Whether it starts from `Lab.trained`; the training of that is then a part of its cost.
        keeps: Whether it chooses channels, and so keeps weights.
        needs: Packages beside torch: {module: name by which pip knows it}.
    """

    pretrained: ClassVar[bool]
    keeps: ClassVar[bool]
    needs: ClassVar[Mapping[str, str]]

    def choose(self, lab: Lab, budgets: Sequence[Budget]) -> list[Chosen]:
        """Chooses widths, and perhaps channels, for each budget; one `Chosen` per budget, in their order.

        Raises:
            BudgetError: No network of this kind holds a budget.
        """
        ...


BASELINES: Registry[type[Baseline]] = Registry("baseline")


def import_needed(name: str) -> list[Any]:
    """The modules that a baseline needs, imported.

    Raises:
        ConfigError: One of them is not installed.
    """
    modules: list[Any] = []
    for module, package in BASELINES[name].needs.items():
        try:
            modules.append(importlib.import_module(module))
        except ImportError as error:
            bench = install_extra("bench")
            raise ConfigError(
                f"{name}: the package {package} can't be imported ({error}); expected it to be installed. Install it "
                f"with {bench if package in bench else f'pip install {package}'}, or leave this method out."
            ) from error
    return modules


def cut_least(lab: Lab, importance: Importance, budget: Budget) -> Widths:
    """The widths that are left when the least important atoms go, wherever they are, until a budget just holds.

    Where the last one saves more than it has to, of those that went the most important that fit come back, until the
    network is within `_CLOSE` of its budget.

    Args:
        lab: For costs and the space; no group goes below its narrowest candidate.
        importance: Comparable between groups. A group that is not named keeps all its channels.
        budget: What must hold.

    Raises:
        BudgetError: The budget does not hold when all that may go is gone.
    """
    space, excess = lab.space, lab.excess(budget)
    may_go: list[tuple[float, str]] = []
    for group in (group for group in space.free if group in importance):
        least = space.candidates[group][0] // space.atoms[group]
        ascending = sorted(importance[group].tolist())
        may_go += [(value, group) for value in ascending[: len(ascending) - least]]
    may_go.sort(key=lambda each: each[0])

    def without(count: int) -> Widths:
        gone = dict.fromkeys(space.free, 0)
        for _, group in may_go[:count]:
            gone[group] += space.atoms[group]
        return space.widest.replace({group: space.widest[group] - gone[group] for group in space.free})

    if (over := excess(without(len(may_go)))) > 0:
        raise BudgetError(
            f"Budget {budget.text!r}: {len(may_go)} channels may go, and without them the network still costs "
            f"{over:+.1%}. Expected a looser budget, or a network more of whose groups can be ranked. "
            "Leave this method out, or loosen the budget."
        )
    fewest = bisect_left(range(len(may_go)), True, key=lambda count: excess(without(count)) <= 0)
    widths, full = without(fewest), set[str]()
    for _, group in reversed(may_go[:fewest]):
        if group in full or excess(widths) >= -_CLOSE:
            continue
        wider = widths.replace({group: widths[group] + space.atoms[group]})
        if excess(wider) <= 0:
            widths = wider
        else:
            full.add(group)  # what does not fit now does not fit later
    return widths


def prune(lab: Lab, model: nn.Module, importance: Importance, budgets: Sequence[Budget]) -> list[Chosen]:
    """For each budget what `cut_least` leaves of a trained network, with the weights of the channels that stay."""
    widths = [cut_least(lab, importance, budget) for budget in budgets]
    return [
        Chosen(budget, each, lab.keep(model, importance, each)) for budget, each in zip(budgets, widths, strict=True)
    ]


def fill_atoms(space: Space, widths: Widths, excess: Callable[[Widths], float]) -> Widths:
    """Single atoms back, round after round, where they fit, until a network is within `_CLOSE` of its budget."""
    waiting = list(space.free)
    while waiting and excess(widths) < -_CLOSE:
        fitting: list[str] = []
        for group in waiting:
            wider = widths.replace({group: min(widths[group] + space.atoms[group], space.widest[group])})
            if wider != widths and excess(wider) <= 0:
                widths = wider
                fitting.append(group)
            if excess(widths) >= -_CLOSE:
                break
        waiting = fitting
    return widths


def rank_channels_(model: nn.Module, graph: ChannelGraph, importance: Importance) -> None:
    """Sorts a network's channels in place, the most important first.

    Warns:
        UserWarning: Groups that can't be sorted (`sort_channels_` tells why). They lose their last channels, whatever
            those are worth.
    """
    left = sort_channels_(model, graph, importance).left
    ranked = [group for group in graph.groups if group.name in importance and group.frozen is None]
    if unsorted := [f"`{group.name}` ({left[group.name]})" for group in ranked if group.name in left]:
        warnings.warn(
            f"{', '.join(unsorted)} can't be sorted: a method that ranks channels keeps the first of them, not the "
            "best, and its row in a comparison says little of it. To compare without them, freeze them (`--keep`).",
            stacklevel=2,
        )


def affine_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers that have scales and shifts, {name: layer}."""
    return {name: each for name, each in model.named_modules() if isinstance(each, _BatchNorm) and each.affine}


def relative(importance: Importance) -> dict[str, torch.Tensor]:
    """Divided by each group's mean, so that groups of large and of small values can be compared."""
    return {group: values / max(float(values.mean()), 1e-30) for group, values in importance.items()}


@dataclass(frozen=True)
class _Steps:
    """A loader whose only epoch has exactly `count` batches: those of the inner one, from epoch `first` on."""

    inner: Loader
    count: int
    first: int = 0

    def __len__(self) -> int:
        return self.count

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        length = len(self.inner)
        for epoch in range(start // length, math.ceil(self.count / length)):
            for at, batch in enumerate(self.inner.epoch(self.first + epoch), start=epoch * length):
                if at >= self.count:
                    return
                if at >= start:
                    yield batch
