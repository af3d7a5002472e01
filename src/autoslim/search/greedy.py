"""Greedy slimming: from the widest network, narrow one group at a time where it hurts least, until the budgets hold.

The paper's search (AutoSlim, Yu & Huang 2019, section 3.3), at a fraction of its forward passes: most groups are where
they were a step ago, and most candidates are told apart by fewer images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autoslim.errors import ConfigError
from autoslim.search._base import METHODS, Sample, Scorer, Step
from autoslim.search._path import Choice, Option, PathSearch, Point, is_weighed, make_rank, rise_of, values_of
from autoslim.search._race import Race


@dataclass(frozen=True, kw_only=True)
class Greedy(PathSearch):
    """Narrows, step by step, the one group whose next lower candidate costs least.

    Only steps that bring the current budget closer are considered: of the budgets not yet met, it is the one with the
    smallest overshoot (excess over the limit, as a share of the limit, summed over its limits). A step's saving is
    what it takes off each violated limit, as a share of the excess there. Should no single step save anything (a
    latency that falls in stairs), all are considered and the best sub-network is taken, as in the paper; so the path
    always goes on to the narrowest.

    Of steps that cost the same, the one that saves more is taken, then the earlier group. As a loss that does not rise
    counts as no cost, noise below zero is never divided by a small saving: the larger saving wins there. A score
    that is not a finite number is the worst.

    With `race`, `memory` and `reuse` off its steps are those of `Exhaustive`.
    """

    race: bool = True
    """Candidates that have surely lost drop out before they have seen all search images."""

    memory: bool = True
    """Candidates that were far behind when last seen are looked at again only when they could have caught up."""

    reuse: bool = True
    """What the candidates' forward passes share is computed once."""

    risk: float = 0.05
    """Chance, per race, that the best candidate drops out."""

    margin: float = 0.1
    """Harms this close to the best one, as a share of it, are as good. What is expected to be worse, and could be
    better by no more than this, is not looked at; of what is looked at together and surely so close more saving wins.
    """

    fading: float = 0.98
    """What a remembered harm may have become, as a share of it per step since then: 0.98 makes it 82% after ten."""

    narrowed: float = 0.5
    """What a group's next step is taken to harm, as a share of what its last one did."""

    breadth: int = 1
    """Candidates that are looked at together, the most promising first; those of which nothing is known all at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_shares("risk", "margin", "fading", "narrowed")
        if self.breadth < 1:
            raise ConfigError(f"Greedy: breadth={self.breadth}; expected 1 or more. Leave it out for the default.")

    def chooser(self, scorer: Scorer) -> "_Chooser":
        return _Chooser(self, scorer)


METHODS.register("greedy", Greedy)


@dataclass(frozen=True)
class _Memory:
    """What is known of a group: the rise that narrowing it to `after` brought, when last seen at step `since`."""

    after: int
    rise: float
    since: int


@dataclass
class _Chooser:
    """One search at work."""

    config: Greedy
    scorer: Scorer
    known: dict[str, _Memory] = field(default_factory=dict[str, _Memory])

    def remember(self, step: Step) -> None:
        for group, (after, rise, _) in step.tried.items():
            self.known[group] = _Memory(after, rise, step.step)

    def choose(self, here: Point, options: Sequence[Option], number: int) -> Choice:
        """Looks at the most promising first, and stops when no other could still win."""
        rank, weighed = make_rank(options, self.config.normalize), is_weighed(options, self.config.normalize)

        def hope(option: Option) -> tuple[float, float, int]:
            return rank(option, self._expected(option, number, least=True))

        def guess(option: Option) -> tuple[float, float, int]:
            return rank(option, self._expected(option, number))

        waiting = sorted(options, key=guess)
        seen: dict[str, tuple[Option, Sample, float]] = {}
        best: tuple[Option, Sample, float] | None = None
        while waiting:
            unknown = sum(option.group not in self.known for option in waiting)
            batch = waiting[: max(self.config.breadth, unknown)] if self.config.memory else waiting
            for option, sample in zip(batch, self._look(here, batch, best, weighed), strict=True):
                seen[option.group] = option, sample, rise_of(here, sample, self.config.metric)
            whole = [one for one in seen.values() if len(one[1]) == len(_known(here))]
            best = min(whole, key=lambda one: rank(one[0], one[2]))
            bar = rank(best[0], best[2])
            low = self._less(bar)
            waiting = [each for each in waiting[len(batch) :] if guess(each) < bar or hope(each) < low]
        assert best is not None  # there is at least one option, and one of the first that are looked at sees all images
        tried = {group: (option.after, rise, len(sample)) for group, (option, sample, rise) in seen.items()}
        return Choice(best[0], best[1], tried)

    def _less(self, rank: tuple[float, float, int]) -> tuple[float, float, int]:
        """The rank of less harm, by the margin."""
        harm, saving, place = rank
        return (harm - self.config.margin * abs(harm) if math.isfinite(harm) else harm), saving, place

    def _look(
        self, here: Point, batch: Sequence[Option], best: tuple[Option, Sample, float] | None, weighed: bool
    ) -> list[Sample]:
        """The samples of some options; with a race, of those that may still win all images, of the others fewer."""
        config = self.config
        race = None
        if config.race and len(batch) + (best is not None) > 1:
            race = Race(
                base=values_of(_known(here), config.metric),
                savings=np.array([option.saving for option in batch]),
                metric=config.metric,
                risk=config.risk,
                margin=config.margin,
                weighed=weighed,
                leader=None if best is None else (values_of(best[1], config.metric), best[0].saving),
            )
        base = here.widths if config.reuse else None
        return self.scorer.samples([option.widths for option in batch], base=base, referee=race)

    def _expected(self, option: Option, number: int, *, least: bool = False) -> float:
        """The rise an option is taken to bring, by what is remembered of its group; or may bring at the least."""
        config, memory = self.config, self.known.get(option.group)
        if memory is None or option.after > memory.after:
            return -math.inf
        share = config.narrowed if option.after < memory.after else 1.0
        if least:
            share *= config.fading ** (number - memory.since)
        return memory.rise * share if memory.rise > 0 else memory.rise / max(share, 1e-9)


def _known(here: Point) -> Sample:
    assert here.sample is not None  # `walk` sees to it
    return here.sample
