"""A policy-gradient controller over widths, as MnasNet searches (Tan et al. 2019): every sample is trained briefly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.distributions import Categorical

from autoslim.baselines._base import BASELINES, Chosen, Lab
from autoslim.budget import Budget
from autoslim.errors import ConfigError
from autoslim.extract import correct_scale_, extract_network
from autoslim.search._shaped import fit_shape
from autoslim.widths import Widths


@dataclass(frozen=True, kw_only=True)
class PolicySearch:
    """Learns a distribution over widths by the reward accuracy x (cost / target) ^ w.

    "MnasNet: platform-aware neural architecture search for mobile", sections 3 and 4.1; w = -0.07 below and above the
    target, the paper's soft constraint. There a recurrent network decides on whole blocks, updated by PPO; here each
    group has a categorical distribution over its candidates of its own, updated by REINFORCE with a moving average as
    the baseline (Williams 1992). Each sample is trained from scratch for a few steps. A soft constraint is met by
    nearly none exactly, so the best sample's proportions are scaled to the budget. One search for each budget.
    """

    pretrained: ClassVar[bool] = False
    keeps: ClassVar[bool] = False
    needs: ClassVar[Mapping[str, str]] = {}

    samples: int = 40
    """Networks that are trained for each budget."""

    steps: int = 60
    """Training steps of each."""

    rate: float = 0.15
    """Learning rate of the controller (Adam)."""

    exponent: float = -0.07
    """The w of the reward."""

    average: float = 0.9
    """What the moving average of rewards keeps of itself at each sample."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.steps < 1 or self.rate <= 0 or self.exponent > 0 or not 0 <= self.average < 1:
            raise ConfigError(
                f"PolicySearch: samples={self.samples}, steps={self.steps}, rate={self.rate}, "
                f"exponent={self.exponent}, average={self.average}; expected 1 or more of both, a rate above 0, an "
                "exponent of 0 or less, a share below 1. Leave them out for the defaults."
            )

    def choose(self, lab: Lab, budgets: Sequence[Budget]) -> list[Chosen]:
        return [Chosen(budget, self._search(lab, budget)) for budget in budgets]

    def _search(self, lab: Lab, budget: Budget) -> Widths:
        space, excess = lab.space, lab.excess(budget)
        generator = torch.Generator().manual_seed(lab.seed)
        logits = {group: torch.zeros(len(space.candidates[group]), requires_grad=True) for group in space.free}
        optimizer = torch.optim.Adam(logits.values(), lr=self.rate)
        average: float | None = None
        best: tuple[float, Widths] | None = None
        for _ in range(self.samples):
            policies = {group: Categorical(logits=values) for group, values in logits.items()}
            drawn = {g: torch.multinomial(p.probs.detach(), 1, generator=generator)[0] for g, p in policies.items()}
            widths = space.widest.replace({group: space.candidates[group][int(at)] for group, at in drawn.items()})
            reward = self._try(lab, widths) * (1 + excess(widths)) ** self.exponent
            average = reward if average is None else self.average * average + (1 - self.average) * reward
            chance = torch.stack([policies[group].log_prob(at) for group, at in drawn.items()]).sum()
            optimizer.zero_grad()
            (-(reward - average) * chance).backward()
            optimizer.step()
            if best is None or reward > best[0]:
                best = reward, widths
        assert best is not None  # one sample or more
        return fit_shape(space, best[1], excess, tolerance=0.005)

    def _try(self, lab: Lab, widths: Widths) -> float:
        """Accuracy on the search images after a short training."""
        fresh = lab.build()
        network = correct_scale_(extract_network(fresh, lab.graph, widths), fresh).to(lab.runtime.device)
        lab.train(network, self.steps)
        return lab.judge(network).accuracy


BASELINES.register("rl", PolicySearch)
