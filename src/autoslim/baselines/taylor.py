"""First-order Taylor importance (Molchanov et al. 2019, "Importance estimation for neural network pruning")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from autoslim.baselines._base import BASELINES, Chosen, Lab, affine_norms, prune
from autoslim.budget import Budget
from autoslim.errors import ConfigError
from autoslim.extract import copy_model
from autoslim.graph import Axis
from autoslim.sort import making_axes, sum_atoms
from autoslim.train import CPUConvolutions


@dataclass(frozen=True, kw_only=True)
class Taylor:
    """Ranks channels by how much the loss would change without them, to first order.

    The importance of a channel is the squared sum of parameter times gradient, averaged over batches (equation 8 of the
    paper): over the scales and shifts of its BatchNorm, which is a gate behind it, the paper's best variant; in a group
    without BatchNorm over the filters that make it. The paper prunes a few channels at a time and trains in between;
    here all go at once, and the training comes after. Values are compared over the whole network as they are, as in the
    paper.
    """

    pretrained: ClassVar[bool] = True
    keeps: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {}

    batches: int = 16
    """Training batches that gradients are averaged over."""

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise ConfigError(f"Taylor: batches={self.batches}; expected 1 or more. Leave it out for the default.")

    def choose(self, lab: Lab, budgets: Sequence[Budget]) -> list[Chosen]:
        return prune(lab, lab.trained, self.measure(lab), budgets)

    def measure(self, lab: Lab) -> dict[str, torch.Tensor]:
        """Per group the importance of each atom, float64 [atoms]."""
        model = copy_model(lab.trained).to(lab.runtime.device).eval()
        parameters = dict(model.named_parameters())
        gates = {f"{name}.{each}" for name in affine_norms(model) for each in ("weight", "bias")}
        behind = [axis for axis in lab.graph.axes if axis.tensor in gates]
        total: dict[str, torch.Tensor] = {}
        for images, labels in lab.batches(self.batches):
            model.zero_grad(set_to_none=True)
            with CPUConvolutions():
                loss = lab.task.loss(model(images), labels)
            lab.runtime.backward(loss)
            made, gated = (_sum_changes(lab, parameters, axes) for axes in (making_axes(model, lab.graph), behind))
            for group, values in {**made, **gated}.items():
                total[group] = total.get(group, torch.zeros_like(values)) + values.square() / self.batches
        return total


def _sum_changes(lab: Lab, parameters: Mapping[str, nn.Parameter], axes: Sequence[Axis]) -> dict[str, torch.Tensor]:
    """Per group and atom the sum of parameter times gradient, float64 [atoms], over the axes."""
    sums: dict[str, torch.Tensor] = {}
    for axis in axes:
        parameter = parameters[axis.tensor]
        if parameter.grad is None:  # frozen, or of a head that runs in training alone
            continue
        change = (parameter.detach() * parameter.grad).transpose(0, axis.dim).unsqueeze(-1).flatten(1).sum(1)
        for group, values in sum_atoms(lab.graph, axis, change).items():
            sums[group] = sums.get(group, torch.zeros_like(values)) + values
    return sums


BASELINES.register("taylor", Taylor)
