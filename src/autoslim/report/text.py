"""How the report says numbers: one way each for costs, accuracies, differences and durations."""

from autoslim.report.read import BudgetResult, Network, Summary
from autoslim.tasks import Metric

NOT_RUN = "not run"
METRIC_WORDS = {  # in the order of the columns
    "macs": "MACs",
    "params": "parameters",
    "memory": "memory",
    "peak_memory": "peak memory",
    "latency": "latency",
}
_AFTER = {"macs": " MACs", "params": " parameters", "memory": " elements of memory", "peak_memory": "B at the peak"}


def say_count(value: float) -> str:
    """Three digits and a unit.

    >>> [say_count(value) for value in (512, 4_900_000, 999_960_000)]
    ['512', '4.9M', '1G']
    """
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * scale:
            scaled = value / scale
            return f"{scaled:.0f}{unit}" if scaled >= 999.5 else f"{scaled:.3g}{unit}"
    return f"{value:.0f}"


def say_cost(metric: str, value: float) -> str:
    """A cost as a table tells it: milliseconds, bytes, or a count.

    >>> say_cost("latency", 4.1234), say_cost("peak_memory", 2e6), say_cost("macs", 3.5e8)
    ('4.12 ms', '2MB', '350M')
    """
    if metric == "latency":
        return f"{value:.3g} ms"
    return say_count(value) + ("B" if metric == "peak_memory" else "")


def say_share(share: float) -> str:
    """A share of the base network: "50%", "49.8%"."""
    return f"{100 * share:.0f}%" if share >= 9.995 else f"{100 * share:.3g}%"


def say_score(value: float | None, scale: Metric) -> str:
    """The task's metric as people are told it: a share in percent with one decimal; or "not run".

    >>> say_score(0.9876, Metric("accuracy")), say_score(0.25, Metric("error", share=False))
    ('98.8%', '0.25')
    """
    return NOT_RUN if value is None else f"{100 * value:.1f}%" if scale.share else f"{value:.4g}"


def say_difference(value: float | None, unit: str) -> str:
    """A signed number with one decimal and a true minus, or "not run".

    >>> say_difference(1.34, " points"), say_difference(0.01, "%"), say_difference(None, "%")
    ('+1.3 points', '0.0%', 'not run')
    """
    if value is None:
        return NOT_RUN
    rounded = f"{abs(value):.1f}"
    sign = "" if float(rounded) == 0 else "+" if value > 0 else "\N{MINUS SIGN}"
    return f"{sign}{rounded}{unit}"


def say_seconds(seconds: float | None) -> str:
    """A duration to two units: "0.4 s", "3 min 20 s", "2 h 05 min"."""
    if seconds is None:
        return NOT_RUN
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def say_gap(left: float | None, right: float | None, scale: Metric) -> str:
    """left - right, of shares in percentage points; "not run" if either was not run."""
    gap = points(left, right, scale)
    if scale.share or gap is None:
        return say_difference(gap, "")
    return "0" if gap == 0 else f"{gap:+.3g}".replace("-", "\N{MINUS SIGN}", 1)


def points(left: float | None, right: float | None, scale: Metric) -> float | None:
    """left - right, of shares in percentage points; None if either was not run."""
    return None if left is None or right is None else (100 if scale.share else 1) * (left - right)


def outcome(summary: Summary, result: BudgetResult) -> str:
    """The result for one budget in one sentence, without the budget's name."""
    slim, base, uniform, scale = result.slim, summary.base, result.uniform, summary.scale
    cost, whole = slim.costs[result.metric], base.costs[result.metric]
    ends = (
        f"at {_say_whole(result.metric, cost)}, {say_share(cost / whole)} of your network's; "
        f"your own network {say_score(base.test, scale)}; uniform {say_score(uniform and uniform.test, scale)}."
    )
    if slim.test is not None:
        return f"{_name(scale)}{say_score(slim.test, scale)} {ends}"
    return f"{_untrained(slim, scale)} {ends}"


def _say_whole(metric: str, value: float) -> str:
    return say_cost(metric, value) if metric == "latency" else f"{say_count(value)}{_AFTER[metric]}"


def _untrained(slim: Network, scale: Metric) -> str:
    if slim.search is None:
        return f"Retraining {NOT_RUN};"
    told = f"{_name(scale)}{say_score(slim.search, scale)}"
    return f"Retraining {NOT_RUN}; {told} in the supernet on search images,"


def _name(scale: Metric) -> str:
    """What comes before the number: an accuracy needs no name."""
    return "" if scale.key == "accuracy" else f"{scale.name} "
