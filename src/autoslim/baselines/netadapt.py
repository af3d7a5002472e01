"""NetAdapt (Yang et al. 2018): every layer proposes a network that is a little cheaper, the best of them survives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from autoslim.baselines._base import BASELINES, Chosen, Lab, fill_atoms, rank_channels_
from autoslim.budget import Budget
from autoslim.errors import BudgetError, ConfigError
from autoslim.extract import copy_model, extract_network, narrow_graph
from autoslim.search import Score
from autoslim.sort import filter_norms
from autoslim.widths import Widths

_CLOSE = 0.01  # how far below its budget a network may end


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A cheaper network: one group narrower, trained briefly."""

    widths: Widths
    network: nn.Module
    score: Score


@dataclass(frozen=True, kw_only=True)
class NetAdapt:
    """Adapts the trained network step by step until each budget holds.

    "NetAdapt: platform-aware neural network adaptation for mobile applications", section 3: in each iteration every
    group is narrowed alone until the network saves what the iteration asks for, keeping the filters of the largest norm
    (section 3.3); each proposal is trained for a short while, and the most accurate one on the search images goes on.
    What is asked for decays by a factor from one iteration to the next. Ours counts any metric of the budgets by its
    closed form, where the paper looks latency up in tables; filters stay by their L1 norm, not L2; groups are narrowed
    by whole atoms, and layers that share their channels together. All budgets lie on one path. Where its last step goes
    far below a budget, single channels come back, so that all methods' networks cost the same.
    """

    pretrained: ClassVar[bool] = True
    keeps: ClassVar[bool] = True

    saving: float = 0.08
    """What the first iteration saves, as a share of the cost of the network it starts from."""

    decay: float = 0.96
    """The next iteration's saving as a share of this one's (the paper: 0.96 and 0.98)."""

    steps: int = 30
    """Training steps of each proposal."""

    lr: float = 0.01
    """Peak learning rate of that training."""

    def __post_init__(self) -> None:
        if not (0 < self.saving < 1 and 0.5 <= self.decay <= 1 and self.steps >= 1 and self.lr > 0):
            raise ConfigError(
                f"NetAdapt: saving={self.saving}, decay={self.decay}, steps={self.steps}, lr={self.lr}; expected a "
                "share, a factor from 0.5 to 1, 1 step or more and a rate above 0. Leave them out for the defaults."
            )

    def choose(self, lab: Lab, budgets: Sequence[Budget]) -> list[Chosen]:
        widths, network = lab.space.widest, lab.trained
        path, found = [(widths, network)], dict[int, Chosen]()
        saving, number = self.saving, 0
        while True:
            for at, budget in enumerate(budgets):
                if at not in found and lab.excess(budget)(widths) <= 0:
                    found[at] = self._filled(lab, budget, path)
            unmet = [budget for at, budget in enumerate(budgets) if at not in found]
            if not unmet:
                return [found[at] for at in range(len(budgets))]
            excess = lab.excess(min(unmet, key=lambda budget: lab.excess(budget)(widths)))
            # the excess is a share of the limit; the whole network's is `1 + excess` times the limit
            aim = max(excess(widths) - saving * (1 + excess(lab.space.widest)), 0.0)
            best = self._best(lab, network, widths, excess, aim, number)
            widths, network = best.widths, best.network
            path.append((widths, network))
            saving, number = max(saving * self.decay, _CLOSE), number + 1  # no iteration without a saving

    def _best(
        self, lab: Lab, network: nn.Module, widths: Widths, excess: Callable[[Widths], float], aim: float, number: int
    ) -> Proposal:
        """The most accurate of the proposals whose excess is at most `aim`; of those, if it ends, the close ones."""
        trials = [
            trial for group in lab.space.free if (trial := _narrowed(lab, widths, group, excess, aim)) is not None
        ]
        if not trials:  # no group alone saves so much: what saves the most
            lowest = [widths.replace({group: lab.space.candidates[group][0]}) for group in lab.space.free]
            trials = [min(lowest, key=excess)]
            if trials[0] == widths:
                raise BudgetError(
                    f"NetAdapt: no group can be narrowed any further at an excess of {excess(widths):.1%}; expected a "
                    "budget that the narrowest network holds. Loosen the budget."
                )
        if aim <= 0:
            close = [trial for trial in trials if excess(trial) >= -_CLOSE]
            trials = close or [max(trials, key=excess)]
        proposals = self._propose(lab, network, widths, trials, number)
        return max(proposals, key=lambda each: (each.score.accuracy, -each.score.loss))

    def _filled(self, lab: Lab, budget: Budget, path: Sequence[tuple[Widths, nn.Module]]) -> Chosen:
        """The end of a path, with single channels more where a step went far below the budget.

        They are those of the last network on the path that had them; what is cut from it is trained as any proposal.
        """
        widths, network = path[-1]
        wanted = fill_atoms(lab.space, widths, lab.excess(budget))
        if wanted != widths:
            before, larger = next(each for each in reversed(path) if all(each[0][g] >= wanted[g] for g in wanted))
            network = self._propose(lab, larger, before, [wanted], len(path))[0].network
        return Chosen(budget, wanted, network)

    def _propose(
        self, lab: Lab, network: nn.Module, widths: Widths, trials: Sequence[Widths], number: int
    ) -> list[Proposal]:
        """Each of the narrower networks, the filters of the largest norm kept, trained briefly and judged."""
        graph = narrow_graph(lab.graph, widths)
        norms = filter_norms(network, graph)
        proposals: list[Proposal] = []
        for trial in trials:
            changed = [group for group in trial if trial[group] != widths[group]]
            small = copy_model(network)
            rank_channels_(small, graph, {group: norms[group] for group in changed if group in norms})
            small = extract_network(small, graph, trial).to(lab.runtime.device)
            lab.train(small, self.steps, lr=self.lr, epoch=number)
            proposals.append(Proposal(widths=trial, network=small, score=lab.judge(small)))
        return proposals


def _narrowed(lab: Lab, widths: Widths, group: str, excess: Callable[[Widths], float], aim: float) -> Widths | None:
    """The widest network with only this group narrower that reaches `aim`; None if the group alone can't."""
    atom, least = lab.space.atoms[group], lab.space.candidates[group][0]
    low, high = least // atom, widths[group] // atom - 1
    if high < low or excess(widths.replace({group: low * atom})) > aim:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if excess(widths.replace({group: middle * atom})) <= aim else (low, middle - 1)
    return widths.replace({group: low * atom})


BASELINES.register("netadapt", NetAdapt)
