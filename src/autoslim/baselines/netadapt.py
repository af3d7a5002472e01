"""NetAdapt (Yang et al. 2018): every layer proposes a cheaper network; who loses least for what is saved survives."""

from collections.abc import Callable, Mapping, Sequence
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

_TINY = 1e-6  # a loss of accuracy that is none: with it more saving wins where nothing is lost


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
    group is narrowed alone until the network saves what the iteration asks for, or all that the group can, keeping the
    filters of the largest norm (section 3.3). Each proposal is trained for a short while. The one goes on that loses
    least accuracy on the search images for what it saves: the rule of the authors' code, where the paper takes the most
    accurate one. What is asked for decays by a factor from one iteration to the next. Ours counts any metric of the
    budgets by its closed form, where the paper looks latency up in tables; filters stay by their L1 norm, not L2;
    groups are narrowed by whole atoms, and layers that share their channels together. All budgets lie on one path.
    Where its last step goes far below a budget, single channels come back, so that all methods' networks cost the same.
    """

    pretrained: ClassVar[bool] = True
    keeps: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {}

    saving: float = 0.08
    """What the first iteration saves, as a share of the cost of the network it starts from."""

    decay: float = 0.96
    """The next iteration's saving as a share of this one's (the paper: 0.96 and 0.98)."""

    steps: int = 30
    """Training steps of each proposal."""

    lr: float = 0.01
    """Peak learning rate of that training."""

    least: float = 0.01
    """The least that an iteration saves, as `saving` is; and how far below a budget, as a share of it, is close."""

    def __post_init__(self) -> None:
        shares = 0 < self.saving < 1 and 0 < self.least < 1
        if not (shares and 0.5 <= self.decay <= 1 and self.steps >= 1 and self.lr > 0):
            raise ConfigError(
                f"NetAdapt: saving={self.saving}, decay={self.decay}, steps={self.steps}, lr={self.lr}, "
                f"least={self.least}; expected a share, a factor from 0.5 to 1, 1 step or more, a rate above 0 and a "
                "share. Leave them out for the defaults."
            )

    def choose(self, lab: Lab, budgets: Sequence[Budget]) -> list[Chosen]:
        widths, network, accuracy = lab.space.widest, lab.trained, lab.judge(lab.trained).accuracy
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
            trials = _trials(lab, widths, excess, saving, self.least)
            before = excess(widths)
            best = find_best(
                accuracy,
                [(each, before - excess(each.widths)) for each in self._propose(lab, network, widths, trials, number)],
            )
            widths, network, accuracy = best.widths, best.network, best.score.accuracy
            path.append((widths, network))
            saving, number = max(saving * self.decay, self.least), number + 1  # no iteration without a saving

    def shares_left(self, share: float) -> list[float]:
        """Of the whole network's cost, what is left after each iteration until a share of it is, about.

        >>> [round(left, 4) for left in NetAdapt(saving=0.1, decay=0.5).shares_left(0.8)]
        [0.9, 0.85, 0.825, 0.8125, 0.8025, 0.7925]
        """
        left, saving = [1.0], self.saving
        while left[-1] > share:
            left.append(left[-1] - saving)
            saving = max(saving * self.decay, self.least)
        return left[1:]

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


def find_best(accuracy: float, proposals: Sequence[tuple[Proposal, float]]) -> Proposal:
    """Of proposals and what each saves, the one that loses least accuracy for it; of equals, what saves more.

    A gain in accuracy counts as no loss. Where neither loss nor saving tells proposals apart, the task's loss does.
    """

    def rank(each: tuple[Proposal, float]) -> tuple[float, float, float]:
        proposal, saved = each
        lost = max(accuracy - proposal.score.accuracy, 0.0) + _TINY
        return lost / max(saved, _TINY), -saved, proposal.score.loss

    return min(proposals, key=rank)[0]


def _trials(lab: Lab, widths: Widths, excess: Callable[[Widths], float], saving: float, least: float) -> list[Widths]:
    """What each group proposes; of those that hold the budget the ones close to it, or the closest.

    Args:
        lab: For the space.
        widths: Of the network so far.
        excess: How far a network is above the budget.
        saving: What is asked for, as a share of the widest network's cost.
        least: How far below the budget is close, as a share of it.

    Raises:
        BudgetError: No group can be narrowed any further.
    """
    # the excess is a share of the limit; the whole network's is `1 + excess` times the limit
    aim = max(excess(widths) - saving * (1 + excess(lab.space.widest)), 0.0)
    free = lab.space.free
    trials = [trial for group in free if (trial := _narrowed(lab, widths, group, excess, aim)) is not None]
    if not trials:  # several groups must give way together: each offers a share of itself
        trials = [trial for group in free if (trial := _lessened(lab, widths, group, saving)) is not None]
    if not trials:
        raise BudgetError(
            f"NetAdapt: no group can be narrowed any further at an excess of {excess(widths):.1%}; expected a "
            "budget that the narrowest network holds. Loosen the budget."
        )
    holding = [trial for trial in trials if excess(trial) <= 0]
    close = [trial for trial in holding if excess(trial) >= -least] or [max(holding, key=excess)] if holding else []
    return [trial for trial in trials if trial not in holding or trial in close]


def _narrowed(lab: Lab, widths: Widths, group: str, excess: Callable[[Widths], float], aim: float) -> Widths | None:
    """The widest network with only this group narrower that reaches `aim`, or the least excess that it can.

    None if it can't reduce the excess.
    """
    atom, low, high = lab.space.atoms[group], lab.space.candidates[group][0], widths[group]
    aim = max(aim, excess(widths.replace({group: low})))
    if aim >= excess(widths):
        return None
    low, high = low // atom, high // atom - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if excess(widths.replace({group: middle * atom})) <= aim else (low, middle - 1)
    return widths.replace({group: low * atom})


def _lessened(lab: Lab, widths: Widths, group: str, share: float) -> Widths | None:
    """The network with this group narrower by a share, an atom or more; None if it is at its narrowest."""
    atom, least = lab.space.atoms[group], lab.space.candidates[group][0]
    kept = max(min(round(widths[group] * (1 - share) / atom) * atom, widths[group] - atom), least)
    return widths.replace({group: kept}) if kept < widths[group] else None


BASELINES.register("netadapt", NetAdapt)
