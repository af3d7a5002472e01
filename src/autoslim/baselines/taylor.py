"""First-order Taylor importance (Molchanov et al. 2019, "Importance estimation for neural network pruning")."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from autoslim.baselines._base import BASELINES, Chosen, Lab, cut_least
from autoslim.budget import Budget
from autoslim.errors import ConfigError
from autoslim.extract import copy_model
from autoslim.sort import making_axes, sum_atoms
from autoslim.train import CPUConvolutions


@dataclass(frozen=True, kw_only=True)
class Taylor:
    """Ranks channels by how much the loss would change without them, to first order.

    The importance of a channel is the squared sum of weight times gradient over the filters that make it, averaged over
    batches (equation 8 of the paper). The paper prunes a few channels at a time and trains in between; here all go at
    once, and the training comes after. Values are compared over the whole network as they are, as in the paper.
    """

    pretrained: ClassVar[bool] = True
    keeps: ClassVar[bool] = True

    batches: int = 16
    """Training batches that gradients are averaged over."""

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise ConfigError(f"Taylor: batches={self.batches}; expected 1 or more. Leave it out for the default.")

    def choose(self, lab: Lab, budgets: Sequence[Budget]) -> list[Chosen]:
        importance = self.measure(lab)
        chosen = [cut_least(lab, importance, budget) for budget in budgets]
        return [
            Chosen(budget, widths, lab.keep(lab.trained, importance, widths))
            for budget, widths in zip(budgets, chosen, strict=True)
        ]

    def measure(self, lab: Lab) -> dict[str, torch.Tensor]:
        """Per group the importance of each atom, float64 [atoms]."""
        model = copy_model(lab.trained).to(lab.runtime.device).eval()
        parameters, axes = dict(model.named_parameters()), making_axes(model, lab.graph)
        total: dict[str, torch.Tensor] = {}
        for images, labels in lab.batches(self.batches):
            model.zero_grad(set_to_none=True)
            with CPUConvolutions():
                loss = lab.task.loss(model(images), labels)
            lab.runtime.backward(loss)
            sums: dict[str, torch.Tensor] = {}
            for axis in axes:
                weight = parameters[axis.tensor]
                if weight.grad is None:  # frozen, or of a head that runs in training alone
                    continue
                change = (weight.detach() * weight.grad).transpose(0, axis.dim).flatten(1).sum(1)
                for group, values in sum_atoms(lab.graph, axis, change).items():
                    sums[group] = sums.get(group, torch.zeros_like(values)) + values
            for group, values in sums.items():
                total[group] = total.get(group, torch.zeros_like(values)) + values.square() / self.batches
        return total


BASELINES.register("taylor", Taylor)
