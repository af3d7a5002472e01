"""Network Slimming (Liu et al. 2017): BatchNorm scales that training drives down, and one threshold for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from autoslim.baselines._base import BASELINES, Chosen, Lab, affine_norms, prune
from autoslim.budget import Budget
from autoslim.errors import BudgetError, ConfigError
from autoslim.sort import sum_atoms


@dataclass(frozen=True, kw_only=True)
class BnScale:
    """Trains a network with an L1 penalty on its BatchNorm scales, and cuts the channels with the smallest ones.

    "Learning efficient convolutional networks through network slimming", sections 3 and 4.2. As there, the network is
    trained from the beginning with the penalty, for as long as any other (this is its search cost), and one threshold
    holds for all layers. The paper repeats training and cutting; here it is one round, for all budgets at once. Where
    layers share channels the mean of their scales counts; channels without BatchNorm stay. The paper's penalty is for
    160 epochs: in a short training it moves scales little, and they are told apart by what the loss makes of them.
    """

    pretrained: ClassVar[bool] = False
    keeps: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {}

    penalty: float = 1e-4
    """Weight of the sum of all scales' absolute values in the loss (the paper: 1e-4 or 1e-5)."""

    def __post_init__(self) -> None:
        if not 0 < self.penalty < 1:
            raise ConfigError(f"BnScale: penalty={self.penalty}; expected above 0, below 1. Pass for instance 1e-4.")

    def choose(self, lab: Lab, budgets: Sequence[Budget]) -> list[Chosen]:
        model = lab.build().to(lab.runtime.device)
        scales = list(_scales(model).values())
        if not scales:
            raise BudgetError(
                f"bn_scale: {type(model).__name__} has no BatchNorm with scales; expected at least one. Leave this "
                "method out."
            )
        steps = lab.epoch_steps * lab.config.epochs_retrain

        def penalty() -> torch.Tensor:
            return self.penalty * torch.stack([scale.abs().sum() for scale in scales]).sum()

        lab.train(model, steps, penalty=penalty, averaged=True)
        return prune(lab, model, self.measure(lab, model), budgets)

    def measure(self, lab: Lab, model: nn.Module) -> dict[str, torch.Tensor]:
        """Per group the mean absolute scale of each atom, float64 [atoms]."""
        scales, found = _scales(model), dict[str, list[torch.Tensor]]()
        for axis in (axis for axis in lab.graph.axes if axis.tensor in scales):
            slots = sum_atoms(lab.graph, axis, torch.ones(len(axis.owner)))
            for group, values in sum_atoms(lab.graph, axis, scales[axis.tensor].detach().abs()).items():
                found.setdefault(group, []).append(values / slots[group])
        return {group: torch.stack(values).mean(0) for group, values in found.items()}


def _scales(model: nn.Module) -> dict[str, nn.Parameter]:
    return {f"{name}.weight": module.weight for name, module in affine_norms(model).items()}


BASELINES.register("bn-scale", BnScale)
