"""The group-norm importance of Torch-Pruning, through its own package: an outside judge of channels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from autoslim.baselines._base import BASELINES, Chosen, Lab, import_needed, prune
from autoslim.budget import Budget
from autoslim.errors import ModelError
from autoslim.extract import copy_model
from autoslim.sort import making_axes, sum_atoms


@dataclass(frozen=True, kw_only=True)
class TorchPruning:
    """Fang et al. 2023, "DepGraph: towards any structural pruning", with the package's own groups and importance.

    Channels are ranked by the L2 norm over all that a group of layers would lose, over the whole network. The package
    finds groups and ranks. The least important go until the budget holds and are cut as those of all methods here,
    where the package goes by a ratio of channels, which no budget is. The paper trains with group sparsity before; here
    the trained network is cut as it is.
    """

    pretrained: ClassVar[bool] = True
    keeps: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {"torch_pruning": "torch-pruning"}

    def choose(self, lab: Lab, budgets: Sequence[Budget]) -> list[Chosen]:
        return prune(lab, lab.trained, self.measure(lab), budgets)

    def measure(self, lab: Lab) -> dict[str, torch.Tensor]:
        """Per group the package's importance of each atom, float64 [atoms], relative to the mean of its group.

        Raises:
            ModelError: The package couples channels in another way than the graph.
            ConfigError: It is not installed.
        """
        (package,) = import_needed("torch-pruning")
        model = copy_model(lab.trained).cpu()
        modules = dict(model.named_modules())
        kept = [modules[group.name] for group in lab.graph.groups if group.frozen is not None and group.name in modules]
        pruner = package.pruner.BasePruner(
            model,
            torch.zeros(lab.graph.inputs[0]),
            importance=package.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            ignored_layers=kept,
        )
        names = {module: name for name, module in modules.items()}
        axes = {axis.tensor: axis for axis in making_axes(model, lab.graph)}
        found: dict[str, torch.Tensor] = {}
        for group in pruner.DG.get_all_groups(ignored_layers=kept, root_module_types=pruner.root_module_types):
            layer = names[group[0].dep.target.module]
            if (axis := axes.get(f"{layer}.weight")) is None:
                continue
            sets = pruner._get_channel_groups(group)  # a grouped convolution loses as many channels in each set
            values = pruner.estimate_importance(group).view(sets, -1).mean(0).repeat(sets)
            atoms = torch.from_numpy(axis.atom).view(sets, -1)
            summed, slots = (sum_atoms(lab.graph, axis, each) for each in (values, torch.ones_like(values)))
            if (atoms != atoms[0]).any() or summed.keys() & found.keys():
                raise ModelError(
                    f"torch_pruning: the package couples the channels of `{layer}` in another way than the other "
                    "methods cut them; expected the same. Leave this method out for this network."
                )
            found |= {name: summed[name] / slots[name] for name in summed}
        return found


BASELINES.register("torch-pruning", TorchPruning)
