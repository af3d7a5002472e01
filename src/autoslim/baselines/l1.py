"""The L1 norm of filters: small filters go (Li et al. 2017, "Pruning filters for efficient ConvNets")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from autoslim.baselines._base import BASELINES, Chosen, Lab, prune, relative
from autoslim.budget import Budget
from autoslim.sort import filter_norms


@dataclass(frozen=True, kw_only=True)
class L1:
    """Ranks the channels of the trained network by the L1 norm of the filters that make them.

    The paper sets each layer's share by hand, from how sensitive it is. Here norms are divided by their group's mean
    and compared over the whole network, so that the budget alone decides. Layers that share channels sum their norms.
    """

    pretrained: ClassVar[bool] = True
    keeps: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {}

    def choose(self, lab: Lab, budgets: Sequence[Budget]) -> list[Chosen]:
        return prune(lab, lab.trained, relative(filter_norms(lab.trained, lab.graph)), budgets)


BASELINES.register("l1", L1)
