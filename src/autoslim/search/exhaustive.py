"""The paper's way to look: every group's next step, in full, at every step. The reference for whatever is faster."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from autoslim.budget import Budget
from autoslim.search._base import METHODS, Cost, Found, Scorer, Space, Step
from autoslim.search._path import Choice, Option, Point, check_settings, make_rank, rise_of, walk


@dataclass(frozen=True, kw_only=True)
class Exhaustive:
    """Greedy slimming without shortcuts: no race, no memory, nothing reused (AutoSlim, section 3.3)."""

    normalize: Literal["cost", "none"] = "cost"
    """What a step's harm is weighed by: "cost", per unit of resource it saves; "none", the paper's own rule."""

    metric: Literal["loss", "accuracy"] = "loss"
    """What must suffer least on the search images: the loss, which is finer grained, or the accuracy."""

    min_saving: float = 0.002
    """The least that a step should save, as a share of the base cost: a group goes down to where it does."""

    def __post_init__(self) -> None:
        check_settings(self)

    def search(
        self,
        space: Space,
        costs: Mapping[str, Cost],
        budgets: Sequence[Budget],
        scorer: Scorer,
        *,
        base: Mapping[str, float],
        done: Sequence[Step] = (),
        on_step: Callable[[Step], None] | None = None,
    ) -> list[Found]:
        """See `Method.search`. The steps of `done` are checked and taken over; only where the path stands is scored."""
        chooser = _Chooser(self, scorer)
        return walk(
            chooser, space, costs, budgets, scorer, base=base, done=done, on_step=on_step, least=self.min_saving
        )


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
