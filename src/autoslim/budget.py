"""Budget: what the slim network may cost. "macs<=300M", "params<=60%", several joined by commas."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, DecimalException

from autoslim.errors import BudgetError

_ANY = {"%": Decimal("0.01"), "": Decimal(1)}
_COUNTS = {**_ANY, "k": Decimal(10**3), "m": Decimal(10**6), "g": Decimal(10**9)}
_TIMES = {**_ANY, "us": Decimal("0.001"), "ms": Decimal(1), "s": Decimal(1000)}  # of latency, counted in milliseconds
_ALIASES = {"flops": "macs"}
MEASURED = ("latency",)
"""Metrics in no closed form: measured first, and no smooth function of the channels."""
_PATTERN = re.compile(r"\s*([a-z_]+)\s*<=\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(%|us|ms|s|[kmg]?)\s*")


@dataclass(frozen=True)
class Limit:
    """One constraint: `metric` at most `value`, absolute, or a share of the base network's cost if `relative`."""

    metric: str
    value: float
    relative: bool

    def absolute(self, base: Mapping[str, float]) -> float:
        """The limit in the metric's own unit; `base` gives the base network's cost per metric."""
        if not self.relative:
            return self.value
        return float(Decimal(str(self.value)) * Decimal(float(base[self.metric])))  # 29% of 100 is 29, not below it


@dataclass(frozen=True)
class Budget:
    """One or several limits that must hold together.

    >>> budget = Budget.parse("flops<=50%, params<=2M")
    >>> budget.slug, [limit.absolute({"macs": 600e6, "params": 3e6}) for limit in budget.limits]
    ('macs-50+params-2M', [300000000.0, 2000000.0])
    """

    text: str = field(compare=False)
    limits: tuple[Limit, ...]

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Reads "metric<=number[k|M|G|%]", of latency [us|ms|s|%], joined by commas; else raises BudgetError."""
        limits: dict[str, Limit] = {}
        for part in text.split(","):
            name, number, unit = match.groups() if (match := _PATTERN.fullmatch(part.lower())) else ("", "", "?")
            metric = _ALIASES.get(name, name)
            scales = _TIMES if metric in MEASURED else _COUNTS
            if unit not in scales:
                raise BudgetError(
                    f"Budget {text!r}: can't read {part.strip()!r}; expected metric<=number with an optional k, M, G "
                    'or % (latency: us, ms, s or %). Write for instance --budget "macs<=300M", "latency<=5ms" or '
                    '"macs<=50%,params<=2M".'
                )
            try:
                value = float(Decimal(number) * scales[unit])  # decimal: 1.001k is 1001, not below it
            except DecimalException:  # an exponent of so many digits that there is no such number
                value = math.nan
            if value <= 0 or not math.isfinite(value):
                raise BudgetError(
                    f"Budget {text!r}: {part.strip()!r} limits to {value:g}; expected a finite number above 0. "
                    'Write for instance "macs<=50%".'
                )
            if metric in limits:
                raise BudgetError(f"Budget {text!r}: {metric} is limited twice; keep the tighter one.")
            limits[metric] = Limit(metric, value, relative=unit == "%")
        return cls(text.strip(), tuple(limits.values()))

    @property
    def slug(self) -> str:
        """A name for files and folders: "macs-50", "macs-300M", "macs-50+params-2M"."""
        return "+".join(f"{limit.metric}-{_short(limit)}" for limit in self.limits)

    @property
    def measured(self) -> bool:
        """Whether a limit is of a metric that is measured: a latency."""
        return any(limit.metric in MEASURED for limit in self.limits)

    def holds(self, costs: Mapping[str, float], base: Mapping[str, float]) -> bool:
        """Whether every limit holds for a network of these costs."""
        return all(costs[limit.metric] <= limit.absolute(base) for limit in self.limits)


def _short(limit: Limit) -> str:
    if limit.relative:
        return f"{limit.value * 100:.12g}"
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if limit.value >= scale and limit.metric not in MEASURED:
            return f"{limit.value / scale:.12g}{unit}"
    return f"{limit.value:.12g}" + "ms" * (limit.metric in MEASURED)
