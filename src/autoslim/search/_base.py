"""What every search method takes and gives: a space, costs and a scorer in; steps on the way; a find per budget out."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autoslim._registry import Registry, unknown_name
from autoslim.budget import Budget, Limit
from autoslim.errors import BudgetError, RunFolderError, WidthsError
from autoslim.widths import Widths

_TYPE, _VERSION = "Step", 2
_LATENCY = "latency"  # in milliseconds
STUCK = "No group can be narrowed; `autoslim trace MODEL` says why."
_UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))


class Cost(Protocol):
    """One metric of a sub-network (MACs, parameters, seconds): finite, never below 0, the same at every call."""

    def __call__(self, widths: Mapping[str, int]) -> float:
        """The cost of one sub-network, in the metric's own unit."""
        ...

    def many(self, widths: Sequence[Mapping[str, int]]) -> NDArray[np.float64]:
        """The costs of N sub-networks at once, shape [N]."""
        ...


@dataclass(frozen=True)
class Score:
    """What a sub-network is worth on the search images: `loss`, lower is better; `accuracy`, the task's metric.

    Of the metric more is always better here: an error stands with its sign turned (`autoslim.tasks.Metric`).
    """

    loss: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class Sample:
    """A sub-network's loss and accuracy on each image, float64 [images], in the images' order.

    Attributes:
        loss: Of each image.
        accuracy: Likewise; not a number where the metric is no mean over images.
        facts: What the metric is made of then, [images, ...].
        whole: Makes it of them.
    """

    loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    facts: NDArray[Any] | None = None
    whole: Callable[[NDArray[Any]], float] | None = None

    @classmethod
    def join(cls, parts: Sequence["Sample"]) -> "Sample":
        """Those of several batches, one after the other."""
        loss, accuracy = (np.concatenate([getattr(part, name) for part in parts]) for name in ("loss", "accuracy"))
        facts = [part.facts for part in parts if part.facts is not None]
        return cls(loss, accuracy, np.concatenate(facts) if facts else None, parts[0].whole)

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def score(self) -> Score:
        """The mean over the images, or the metric of all facts."""
        if self.facts is not None and self.whole is not None:
            return Score(float(self.loss.mean()), self.whole(self.facts))
        return Score(float(self.loss.mean()), float(self.accuracy.mean()))


# Given the places of the trials that are still in, and their samples so far: the places of those that go on; none, if
# all have lost against something else. It is asked again and again while the images come in.
Referee = Callable[[Sequence[int], Sequence[Sample]], Sequence[int]]


class Scorer(Protocol):
    """Scores sub-networks, all of them on the same images, so that two scores may be compared."""

    def score(self, widths: Widths) -> Score:
        """The score of one sub-network."""
        ...

    def score_many(self, widths: Sequence[Widths]) -> list[Score]:
        """The scores of N sub-networks, in their order."""
        ...

    def samples(
        self, trials: Sequence[Widths], *, base: Widths | None = None, referee: Referee | None = None
    ) -> list[Sample]:
        """What N sub-networks are worth on every image, in their order.

        Args:
            trials: The sub-networks.
            base: What they all come from by a small change: what they share with it is computed once.
            referee: Says from time to time which of them go on; the others' samples end there. Whoever goes on to the
                end has seen all images. Without one, all do.
        """
        ...


class _Group(Protocol):
    """What a search knows of a channel group."""

    @property
    def name(self) -> str: ...

    @property
    def candidates(self) -> tuple[int, ...]: ...

    @property
    def atom(self) -> int: ...

    @property
    def allowed(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Space:
    """What may be chosen.

    Attributes:
        candidates: Per group the widths it may take, ascending, the whole group last; a frozen group has that one only.
        atoms: Per group the channels in the smallest unit it can lose; every candidate is a multiple of it.
        allowed: Per group all widths that the user lets it have, ascending, the candidates among them: for methods that
            candidates do not bind. Default all whole atoms.

    Raises:
        WidthsError: The two name different groups, or a group's widths are no ascending multiples of its atom.
    """

    candidates: Mapping[str, tuple[int, ...]]
    atoms: Mapping[str, int]
    allowed: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])

    @classmethod
    def of(cls, groups: Iterable[_Group]) -> "Space":
        """What the groups of a channel graph may have: `Space.of(graph.groups)`."""
        groups = list(groups)
        candidates, atoms = {g.name: g.candidates for g in groups}, {g.name: g.atom for g in groups}
        return cls(candidates, atoms, {g.name: g.allowed for g in groups})

    def __post_init__(self) -> None:
        if set(self.candidates) != set(self.atoms):
            odd = sorted(set(self.candidates) ^ set(self.atoms))
            raise WidthsError(
                f"Space: {odd[0]!r} has candidates or atoms, expected both. Name the same groups in each."
            )
        filled: dict[str, Sequence[int]] = {}
        for group, widths in self.candidates.items():
            atom = self.atoms[group]
            ascending = all(low < high for low, high in zip((0, *widths), widths, strict=False))
            if not widths or not ascending or any(width % atom for width in widths):
                raise WidthsError(
                    f"`{group}`: candidates {widths}; expected ascending multiples of {atom}. "
                    "Give them in order, the whole group last."
                )
            whole = range(atom, widths[-1] + 1, atom)
            filled[group] = self.allowed.get(group, whole)
            if group in self.allowed and list(filled[group]) != sorted({*widths, *filled[group]} & {*whole}):
                raise WidthsError(
                    f"`{group}`: allowed {list(filled[group])}; expected ascending multiples of {atom}, the candidates "
                    f"{widths} among them. Leave it out for all whole atoms."
                )
        object.__setattr__(self, "allowed", filled)

    @cached_property
    def free(self) -> tuple[str, ...]:
        """The groups that have a choice, in order."""
        return tuple(group for group, widths in self.candidates.items() if len(widths) > 1)

    @cached_property
    def widest(self) -> Widths:
        """Every group whole."""
        return Widths({group: widths[-1] for group, widths in self.candidates.items()})

    @cached_property
    def narrowest(self) -> Widths:
        """Every group at its lowest candidate."""
        return Widths({group: widths[0] for group, widths in self.candidates.items()})


@dataclass(frozen=True)
class Step:
    """One accepted step of a search, a line of `search.jsonl`. It holds no clock: two equal searches write equal files.

    Attributes:
        step: 1 for the first.
        group: The group that was narrowed, from `before` to `after` channels.
        loss: Of the sub-network after the step, as `accuracy` is.
        costs: Of the sub-network after the step, per metric.
        widths: The sub-network after the step.
        tried: What was evaluated for this step: per group the width it would have had, the rise in loss (the fall in
            accuracy, where that decides), and the images that it was judged on.
    """

    step: int
    group: str
    before: int
    after: int
    loss: float
    accuracy: float
    costs: Mapping[str, float]
    widths: Widths
    tried: Mapping[str, tuple[int, float, int]]

    def to_json(self) -> dict[str, Any]:
        tried = {group: list(one) for group, one in self.tried.items()}
        fields = {**vars(self), "costs": dict(self.costs), "widths": dict(self.widths), "tried": tried}
        return {"_type": _TYPE, "_version": _VERSION, **fields}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Step":
        """The inverse of `to_json`; anything else raises RunFolderError."""
        fields: dict[str, Any] = {name: value for name, value in data.items() if name not in ("_type", "_version")}
        known = data.get("_type") == _TYPE and data.get("_version") == _VERSION
        if not known or set(fields) != set(cls.__dataclass_fields__):
            raise RunFolderError(
                f"Not a step of a search: _type {data.get('_type')!r}, _version {data.get('_version')!r}, fields "
                f"{sorted(fields)}; expected {_TYPE!r}, version {_VERSION}. Delete `search.jsonl` to search anew."
            )
        fields["widths"] = Widths(fields["widths"])
        fields["tried"] = {group: tuple(one) for group, one in fields["tried"].items()}
        return cls(**fields)


@dataclass(frozen=True)
class Found:
    """The answer to one budget: widths that hold it, what they cost per metric, and what they are worth."""

    budget: Budget
    widths: Widths
    costs: Mapping[str, float]
    score: Score


class Method(Protocol):
    """A search method: a frozen dataclass of its own settings."""

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
        """Finds widths for each budget.

        Args:
            space: The widths to choose from.
            costs: Every metric of the budgets; others are recorded.
            budgets: What the sub-networks may cost.
            scorer: What they are worth.
            base: The base network's cost per metric, of which relative limits are a share.
            done: The steps of a search that was stopped; it goes on from there and ends in the same result.
            on_step: Called with each new step, before the next begins.

        Returns:
            One `Found` per budget, in the order of `budgets`.

        Raises:
            BudgetError: The narrowest sub-network does not hold a budget.
            RunFolderError: `done` is not the beginning of such a search.
            DataError: A path stands at a network whose loss is not finite on a search image.
        """
        ...


METHODS: Registry[type[Method]] = Registry("search method")


def make_method(name: str, *, seed: int = 0) -> Any:
    """A search method with its own defaults; whatever it draws follows the seed.

    >>> from autoslim.search import make_method
    >>> make_method("uniform")
    Uniform(tolerance=0.01)
    """
    method = METHODS[name]
    drawn = {field.name for field in fields(method)} & {"seed"}  # pyright: ignore[reportArgumentType]
    return method(**dict.fromkeys(drawn, seed))


def costs_of(costs: Mapping[str, Cost], widths: Sequence[Widths]) -> list[dict[str, float]]:
    """Every metric of each of N sub-networks; a cost that is not finite raises BudgetError."""
    columns = {metric: cost.many(widths) for metric, cost in costs.items()}
    for metric, column in columns.items():
        if not np.isfinite(column).all():
            at = int(np.flatnonzero(~np.isfinite(column))[0])
            raise BudgetError(
                f"Cost {metric!r} is {column[at]} for {widths[at]}; expected a finite number. "
                "Repair the cost, or take the metric out of the budget."
            )
    return [{metric: float(column[at]) for metric, column in columns.items()} for at in range(len(widths))]


def excess_of(
    costs: Mapping[str, Cost], budget: Budget, base: Mapping[str, float], widths: Sequence[Widths]
) -> NDArray[np.float64]:
    """How far each of N sub-networks is above the tightest limit of a budget, as a share of it; at most 0: it holds."""
    limits = {limit.metric: limit.absolute(base) for limit in budget.limits}
    return np.stack([(costs[metric].many(widths) - most) / most for metric, most in limits.items()]).max(axis=0)


def excess_in(costs: Mapping[str, Cost], budget: Budget, base: Mapping[str, float]) -> Callable[[Widths], float]:
    """`excess_of` in one budget, of one sub-network at a time."""
    return lambda widths: float(excess_of(costs, budget, base, [widths])[0])


def check_budgets(
    space: Space, costs: Mapping[str, Cost], budgets: Sequence[Budget], base: Mapping[str, float]
) -> None:
    """Refuses budgets that even the narrowest sub-network does not hold; to be called before anything is trained.

    Args:
        space: The widths to choose from; its narrowest is taken to be the cheapest, as it is for every cost that
            grows with the widths.
        costs: Every metric of the budgets.
        budgets: What the sub-networks may cost.
        base: The base network's cost per metric.

    Raises:
        BudgetError: With the least cost of each metric that is too high, its share of the base network's, and the
            closest budget that can be held.
        UnknownNameError: A budget's metric has no cost, or a relative one has no base.
    """
    for limit in (limit for budget in budgets for limit in budget.limits):
        for known in (costs, base) if limit.relative else (costs,):
            if limit.metric not in known:
                raise unknown_name("metric", limit.metric, list(known), hint="Name one of these in the budget.")
    least = costs_of(costs, [space.narrowest])[0]
    hint = "" if space.free else STUCK
    problems = [_too_tight(budget, least, base, hint) for budget in budgets if not budget.holds(least, base)]
    if problems:
        raise BudgetError("\n".join(problems))


def _too_tight(budget: Budget, least: Mapping[str, float], base: Mapping[str, float], hint: str) -> str:
    told: list[str] = []
    held: list[Limit] = []
    for limit in budget.limits:
        cost, most = least[limit.metric], limit.absolute(base)
        held.append(limit if cost <= most else _reachable(limit, cost, base))
        if cost > most:
            whole = base.get(limit.metric)
            share = f" ({cost / whole * 100:.3g}% of the base network's)" if whole else ""
            told.append(
                f"{_say(cost, limit.metric)} {limit.metric}{share}, expected at most {_say(most, limit.metric)}"
            )
    text = ",".join(
        f"{limit.metric}<=" + (f"{limit.value * 100:.10g}%" if limit.relative else _write(limit.value, limit.metric))
        for limit in held
    )
    hint = hint or f'Write "{text}" or more, or give the groups narrower candidates.'
    return f"Budget {budget.text!r}: no sub-network holds it. The narrowest costs {' and '.join(told)}. {hint}"


def _reachable(limit: Limit, least: float, base: Mapping[str, float]) -> Limit:
    """The tightest limit of three digits that holds `least`: what a person would write."""
    unit = 1.0 if limit.relative else next((scale for _, scale in _UNITS if least >= scale), 1.0)
    number = least / base[limit.metric] * 100 if limit.relative else least / unit
    grain = math.floor(math.log10(number)) - 2
    count = math.floor(number / 10.0**grain)
    while True:  # twice or three times: division and decimals round
        written = float(f"{count}e{grain}")
        tried = Limit(limit.metric, written / 100 if limit.relative else written * unit, limit.relative)
        if tried.absolute(base) >= least:
            return tried
        count += 1


def _say(value: float, metric: str) -> str:
    return f"{value:.3g} ms" if metric == _LATENCY else _short(value)


def _write(value: float, metric: str) -> str:
    """As a budget is written."""
    return f"{value:.10g}ms" if metric == _LATENCY else _short(value, digits=10)


def _short(value: float, *, digits: int = 6) -> str:
    unit, scale = next(((unit, scale) for unit, scale in _UNITS if value >= scale), _UNITS[-1])
    return f"{value / scale:.{digits}g}{unit}"
