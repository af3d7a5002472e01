"""The paper's way to look: every group's next step, in full, at every step. The reference for whatever is faster."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoslim.search._base import METHODS, Scorer, Step
from autoslim.search._path import Choice, Option, PathSearch, Point, make_rank, rise_of


@dataclass(frozen=True, kw_only=True)
class Exhaustive(PathSearch):
    """Greedy slimming without shortcuts: no race, no memory, nothing reused (AutoSlim, section 3.3)."""

    def chooser(self, scorer: Scorer) -> "_Chooser":
        return _Chooser(self, scorer)


METHODS.register("exhaustive", Exhaustive)


@dataclass(frozen=True)
class _Chooser:
    """Looks at everything."""

    config: Exhaustive
    scorer: Scorer

    def remember(self, step: Step) -> None:
        """Nothing: the next step looks at everything again."""

    def choose(self, here: Point, options: Sequence[Option], number: int) -> Choice:
        """The option of the least rank."""
        rank = make_rank(options, self.config.normalize)
        samples = self.scorer.samples([option.widths for option in options])
        rises = [rise_of(here, sample, self.config.metric) for sample in samples]
        best = min(range(len(options)), key=lambda at: rank(options[at], rises[at]))
        tried = {
            option.group: (option.after, rise, len(sample))
            for option, rise, sample in zip(options, rises, samples, strict=True)
        }
        return Choice(options[best], samples[best], tried)
