"""The group-norm pruner of Torch-Pruning, through its own package: an outside judge."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from autoslim.baselines._base import BASELINES, Chosen, Lab
from autoslim.budget import Budget
from autoslim.errors import BudgetError, ModelError
from autoslim.extract import copy_model
from autoslim.widths import Widths

_HALVINGS = 12  # of the pruning ratio: finer than a channel of most networks


@dataclass(frozen=True, kw_only=True)
class TorchPruning:
    """Fang et al. 2023, "DepGraph: towards any structural pruning", with the package's own groups and importance.

    Channels are ranked by the L2 norm over all that a group of layers would lose, over the whole network; the pruning
    ratio is bisected for each budget. The package finds groups, ranks and cuts; only the cost is counted by us, from
    the widths that it leaves. The paper trains with group sparsity before; here the trained network is cut as it is.
    """

    pretrained: ClassVar[bool] = True

    def choose(self, lab: Lab, budgets: Sequence[Budget]) -> list[Chosen]:
        return [self._choose(lab, budget) for budget in budgets]

    def _choose(self, lab: Lab, budget: Budget) -> Chosen:
        excess = lab.excess(budget)
        low, high = 0.0, 1.0
        best: Chosen | None = None
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            network = self._prune(lab, middle)
            widths = _widths(lab, network)
            if excess(widths) <= 0:
                high = middle
                best = Chosen(budget, widths, network)
            else:
                low = middle
        if best is None:
            least = excess(_widths(lab, self._prune(lab, 1.0)))
            raise BudgetError(
                f"Budget {budget.text!r}: the least that Torch-Pruning leaves costs {least:+.1%}; "
                "expected a network that holds it. Loosen the budget, or leave this method out."
            )
        return best

    def _prune(self, lab: Lab, ratio: float) -> nn.Module:
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
        pruner.step()
        return model


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


def _package() -> Any:
    try:
        return importlib.import_module("torch_pruning")
    except ImportError as error:
        raise ModelError(
            "torch_pruning: the package is not installed; expected torch-pruning. Install it with pip install "
            "'autoslim[bench]', or leave this method out."
        ) from error


BASELINES.register("torch-pruning", TorchPruning)
