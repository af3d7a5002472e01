"""AMC (He et al. 2018): an agent goes through the network and says, layer by layer, what share of it stays."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from autoslim.baselines._base import BASELINES, Chosen, Lab, fill_atoms, rank_channels_
from autoslim.budget import Budget
from autoslim.errors import ConfigError
from autoslim.extract import copy_model, extract_network, replace_tensors_
from autoslim.score import SupernetScorer
from autoslim.sort import filter_norms
from autoslim.supernet import Supernet
from autoslim.widths import Widths

_FEATURES = 6
_Step = tuple[NDArray[np.float32], float, NDArray[np.float32], bool]  # state, action, next state, the last?


@dataclass(frozen=True, kw_only=True)
class Amc:
    """A DDPG agent sets each group's ratio; the reward is the accuracy of the pruned network, not trained any further.

    "AMC: AutoML for model compression and acceleration on mobile devices", section 3: one episode goes through the
    network; actions are limited so that the budget holds by construction (algorithm 1); the reward is that of the last
    step for all of them, less a moving average, without discount; noise falls after a warm-up of random actions. The
    paper's state has 11 features of a layer, ours 6 of a group: its place, its size, the cost that goes with it, what
    is saved so far, what may still be saved, the last action. Filters stay by their L1 norm, as sorted once. The
    networks have 64 units a layer instead of 300. One agent for each budget.
    """

    pretrained: ClassVar[bool] = True
    keeps: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {}

    episodes: int = 120
    """Networks that are judged for each budget (the paper: 400)."""

    warmup: int = 30
    """Episodes of random actions (the paper: 100)."""

    noise: float = 0.5
    """Deviation of the actions' noise at first."""

    decay: float = 0.96
    """Of the noise, with each episode after the warm-up."""

    units: int = 64
    """Of a layer of the agent's networks (the paper: 300)."""

    batch: int = 64
    """Remembered steps that the agent learns from at once (the paper: 64)."""

    actor_rate: float = 1e-3
    """Learning rate of the network that acts (Adam)."""

    critic_rate: float = 1e-2
    """Learning rate of the network that judges actions (Adam)."""

    follow: float = 0.01
    """Share by which the slow copies of both follow them."""

    average: float = 0.95
    """What the moving average of rewards keeps of itself at each episode."""

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.warmup < 0 or self.noise <= 0 or not 0 < self.decay <= 1:
            raise ConfigError(
                f"Amc: episodes={self.episodes}, warmup={self.warmup}, noise={self.noise}, decay={self.decay}; "
                "expected 1 or more, 0 or more, above 0, and a factor up to 1. Leave them out for the defaults."
            )
        rates = self.actor_rate > 0 and self.critic_rate > 0 and 0 < self.follow <= 1 and 0 <= self.average < 1
        if not rates or self.units < 1 or self.batch < 1:
            raise ConfigError(
                f"Amc: units={self.units}, batch={self.batch}, actor_rate={self.actor_rate}, "
                f"critic_rate={self.critic_rate}, follow={self.follow}, average={self.average}; expected 1 or more of "
                "both, rates above 0, a share and a share below 1. Leave them out for the defaults."
            )

    def choose(self, lab: Lab, budgets: Sequence[Budget]) -> list[Chosen]:
        ordered = copy_model(lab.trained)
        rank_channels_(ordered, lab.graph, filter_norms(lab.trained, lab.graph))
        net = Supernet(ordered, lab.graph)
        scorer = SupernetScorer(net, lab.task, calibration=lab.calibration, search=lab.search)
        chosen: list[Chosen] = []
        for budget in budgets:
            widths = self._search(lab, scorer, budget)
            network = extract_network(ordered, lab.graph, widths)
            replace_tensors_(network, scorer.buffers(widths))
            chosen.append(Chosen(budget, widths, network))
        return chosen

    def _search(self, lab: Lab, scorer: SupernetScorer, budget: Budget) -> Widths:
        rng = np.random.default_rng(lab.seed)
        with torch.random.fork_rng():
            torch.manual_seed(lab.seed)
            agent = _Agent(self, rng)
        best: tuple[float, Widths] | None = None
        average: float | None = None
        for episode in range(self.episodes):
            noise = None if episode < self.warmup else self.noise * self.decay ** (episode - self.warmup)
            widths, steps = self._walk(lab, budget, agent, noise, rng)
            reward = scorer.score(widths).accuracy
            average = reward if average is None else self.average * average + (1 - self.average) * reward
            agent.remember(steps, reward)
            if episode >= self.warmup:
                for _ in steps:
                    agent.learn(average)
            if best is None or reward > best[0]:
                best = reward, widths
        assert best is not None  # one episode or more
        return fill_atoms(lab.space, best[1], lab.excess(budget))

    def _walk(
        self, lab: Lab, budget: Budget, agent: "_Agent", noise: float | None, rng: np.random.Generator
    ) -> tuple[Widths, list[_Step]]:
        """One episode: the widths, and the steps that led there."""
        space, excess = lab.space, lab.excess(budget)
        widths, last = space.widest, 1.0
        states: list[NDArray[np.float32]] = []
        actions: list[float] = []
        for number, group in enumerate(space.free):
            after = space.free[number + 1 :]
            states.append(_state(lab, excess(widths), widths, number, last, excess))
            action = float(rng.uniform()) if noise is None else agent.act(states[-1], noise)
            atom, least = space.atoms[group], space.candidates[group][0] // space.atoms[group]
            kept = max(round(action * space.widest[group] / atom), least)
            narrow = widths.replace({other: space.candidates[other][0] for other in after})
            while kept > least and excess(narrow.replace({group: kept * atom})) > 0:
                kept -= 1
            widths = widths.replace({group: kept * atom})
            last = kept * atom / space.widest[group]
            actions.append(last)
        nexts = [*states[1:], states[-1]]
        ends = [*([False] * (len(states) - 1)), True]
        return widths, list(zip(states, actions, nexts, ends, strict=True))


def _state(
    lab: Lab, now: float, widths: Widths, number: int, last: float, excess: Callable[[Widths], float]
) -> NDArray[np.float32]:
    """The features of a group, each about 0 to 1."""
    space, free = lab.space, lab.space.free
    group = free[number]
    whole = 1 + excess(space.widest)
    without = excess(widths.replace({group: space.candidates[group][0]}))
    floor = excess(widths.replace({other: space.candidates[other][0] for other in free[number:]}))
    size = math.log(space.widest[group]) / math.log(max(2, *(space.widest[other] for other in free)))
    place = number / max(len(free) - 1, 1)
    features = [place, size, (now - without) / whole, 1 - (1 + now) / whole, (now - floor) / whole, last]
    return np.array(features, dtype=np.float32)


def _mlp(inputs: int, units: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, 1))


@dataclass
class _Agent:
    """Deep deterministic policy gradient (Lillicrap et al. 2016), as small as it goes."""

    settings: Amc
    rng: np.random.Generator
    memory: list[tuple[NDArray[np.float32], float, NDArray[np.float32], bool, float]] = field(
        default_factory=list[tuple[NDArray[np.float32], float, NDArray[np.float32], bool, float]]
    )

    def __post_init__(self) -> None:
        self.actor, self.critic = (_mlp(count, self.settings.units) for count in (_FEATURES, _FEATURES + 1))
        self.slow_actor, self.slow_critic = copy_model(self.actor), copy_model(self.critic)
        self.optimizers = (
            torch.optim.Adam(self.actor.parameters(), self.settings.actor_rate),
            torch.optim.Adam(self.critic.parameters(), self.settings.critic_rate),
        )

    def act(self, state: NDArray[np.float32], noise: float) -> float:
        """The share that stays, with noise that is drawn again until it is a share."""
        with torch.no_grad():
            mean = float(torch.sigmoid(self.actor(torch.from_numpy(state))))
        while not 0 < (action := mean + noise * float(self.rng.normal())) <= 1:
            pass
        return action

    def remember(self, steps: Sequence[_Step], reward: float) -> None:
        self.memory += [(*step, reward) for step in steps]

    def learn(self, average: float) -> None:
        """One step of the critic, and one of the actor, on steps drawn from memory."""
        drawn = [self.memory[at] for at in self.rng.integers(len(self.memory), size=self.settings.batch)]
        state, after = (torch.from_numpy(np.stack([step[at] for step in drawn])) for at in (0, 2))
        action, reward = (torch.tensor([[step[at]] for step in drawn], dtype=torch.float32) for at in (1, 4))
        goes_on = torch.tensor([[not step[3]] for step in drawn], dtype=torch.float32)
        with torch.no_grad():
            ahead = self.slow_critic(torch.cat([after, torch.sigmoid(self.slow_actor(after))], 1))
            wanted = reward - average + goes_on * ahead
        for optimizer, loss in (
            (self.optimizers[1], lambda: functional.mse_loss(self.critic(torch.cat([state, action], 1)), wanted)),
            (self.optimizers[0], lambda: -self.critic(torch.cat([state, torch.sigmoid(self.actor(state))], 1)).mean()),
        ):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        with torch.no_grad():
            for slow, fast in ((self.slow_actor, self.actor), (self.slow_critic, self.critic)):
                for own, other in zip(slow.parameters(), fast.parameters(), strict=True):
                    own.lerp_(other, self.settings.follow)


BASELINES.register("amc", Amc)
