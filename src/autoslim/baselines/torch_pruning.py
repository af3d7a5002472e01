"""The group-norm pruner of Torch-Pruning, through its own package: an outside judge."""

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import nn

from autoslim._extras import install_extra
from autoslim.baselines._base import BASELINES, Chosen, Lab
from autoslim.budget import Budget
from autoslim.errors import BudgetError, ModelError
from autoslim.extract import copy_model, extract_network
from autoslim.widths import Widths

_HALVINGS = 12  # of the pruning ratio: finer than a channel of most networks
_CLOSE = 0.005  # how far below its budget a network may end


@dataclass(frozen=True, kw_only=True)
class TorchPruning:
    """Fang et al. 2023, "DepGraph: towards any structural pruning", with the package's own groups and importance.

    Channels are ranked by the L2 norm over all that a group of layers would lose, over the whole network; the pruning
    ratio is bisected for each budget. The package finds groups, ranks and cuts. Cost is counted by us, from the widths
    that it leaves; and as a ratio ends where the next channel does not fit, channels that are less important come back
    where they do fit, the most important first. The paper trains with group sparsity before; here the trained network
    is cut as it is.
    """

    pretrained: ClassVar[bool] = True
    keeps: ClassVar[bool] = True

    def choose(self, lab: Lab, budgets: Sequence[Budget]) -> list[Chosen]:
        return [self._choose(lab, budget) for budget in budgets]

    def _choose(self, lab: Lab, budget: Budget) -> Chosen:
        excess = lab.excess(budget)
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if excess(_cut(lab, middle).widths) <= 0 else (middle, high)
        cut = _cut(lab, high)
        if excess(cut.widths) > 0:
            raise BudgetError(
                f"Budget {budget.text!r}: the least that Torch-Pruning leaves costs {excess(cut.widths):+.1%}; "
                "expected a network that holds it. Loosen the budget, or leave this method out."
            )
        chosen = self._filled(lab, budget, cut, high)
        _check(lab, chosen)
        return chosen

    def _filled(self, lab: Lab, budget: Budget, cut: "_Cut", ratio: float) -> Chosen:
        """Of the channels that went, the most important that fit come back, until the cost is close to the budget."""
        excess, full, back = lab.excess(budget), set[str](), Counter[str]()
        while excess(cut.widths) < -_CLOSE:
            layer = next((layer for _, layer in cut.gone if layer not in full), None)
            if layer is None:
                break
            trial = _cut(lab, ratio, back + Counter({layer: 1}))
            if excess(trial.widths) <= 0:
                cut, back = trial, back + Counter({layer: 1})
            else:
                full.add(layer)  # what does not fit now does not fit later
        return Chosen(budget, cut.widths, cut.network)


@dataclass(frozen=True)
class _Cut:
    """What the package left, and which channels it took: their importance and layer, the most important first."""

    network: nn.Module
    widths: Widths
    gone: list[tuple[float, str]]


def _cut(lab: Lab, ratio: float, back: Mapping[str, int] = MappingProxyType({})) -> _Cut:
    """The trained network less what the package takes at a ratio, but for the best `back[layer]` channels of a layer.

    Where a grouped convolution must lose as many channels in each of its groups, such a set counts as one channel.
    """
    package = _package()
    model = copy_model(lab.trained).cpu()
    modules = dict(model.named_modules())
    kept = [modules[group.name] for group in lab.graph.groups if group.frozen is not None and group.name in modules]
    least = min(lab.space.candidates[group][0] / lab.space.widest[group] for group in lab.space.free)
    pruner = package.pruner.BasePruner(
        model,
        torch.zeros(lab.graph.inputs[0]),
        importance=package.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=1 - least,
        ignored_layers=kept,
    )
    names = {module: name for name, module in modules.items()}
    ranks: dict[str, list[float]] = {}  # of the whole groups: a group's importance is relative to its own mean
    for group in pruner.DG.get_all_groups(ignored_layers=kept, root_module_types=pruner.root_module_types):
        sets = pruner._get_channel_groups(group)
        ranks[names[group[0].dep.target.module]] = pruner.estimate_importance(group).view(sets, -1).mean(0).tolist()
    gone: list[tuple[float, str]] = []
    for group in pruner.step(interactive=True):
        (dep, taken), layer = group[0], names[group[0].dep.target.module]
        rank = ranks[layer]
        order = [at for _, at in sorted((rank[at], at) for at in {int(index) % len(rank) for index in taken})]
        order = order[: len(order) - back.get(layer, 0)]
        gone += [(rank[index], layer) for index in order]
        going = [index for index in taken if index % len(rank) in order]
        if going:
            pruner.DG.get_pruning_group(dep.target.module, dep.handler, going).prune()
    return _Cut(model, _widths(lab, model), sorted(gone, reverse=True))


def _widths(lab: Lab, network: nn.Module) -> Widths:
    """Channels per group, read from the layers that make them."""
    modules = dict(network.named_modules())
    found: dict[str, int] = {}
    for group in lab.graph.groups:
        layer: Any = modules.get(group.name)
        found[group.name] = (
            group.size
            if group.frozen is not None
            else int(getattr(layer, "out_channels", None) or getattr(layer, "out_features", 0))
        )
        if found[group.name] == 0:
            raise ModelError(
                f"torch_pruning: `{group.name}` is no convolution or linear layer; expected one to read the width "
                "from. Leave this method out for this network."
            )
    widths = Widths(found)
    lab.graph.check(widths)
    return widths


def _check(lab: Lab, chosen: Chosen) -> None:
    """Raises ModelError if the package's network is another than ours of these widths: its cost would be wrong."""
    assert chosen.network is not None
    ours = extract_network(lab.trained, lab.graph, chosen.widths).state_dict()
    for name, tensor in chosen.network.state_dict().items():
        if tensor.shape != ours[name].shape:
            raise ModelError(
                f"torch_pruning: `{name}` was cut to {tuple(tensor.shape)}; expected {tuple(ours[name].shape)}, as the "
                "other methods cut it at these widths. Leave this method out for this network."
            )


def _package() -> Any:
    try:
        return importlib.import_module("torch_pruning")
    except ImportError as error:
        raise ModelError(
            "torch_pruning: the package is not installed; expected torch-pruning. Install it with "
            f"{install_extra('bench')}, or leave this method out."
        ) from error


BASELINES.register("torch-pruning", TorchPruning)
