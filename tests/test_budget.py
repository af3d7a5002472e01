"""Budgets: what is read from a text, what is refused, and when a budget holds."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoslim.budget import Budget, Limit
from autoslim.errors import BudgetError

metrics = st.sampled_from(["macs", "params", "peak_memory"])
numbers = st.integers(min_value=1, max_value=999_999)
units = st.sampled_from(["", "k", "M", "G", "%"])
SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "%": 0.01}


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("macs<=300M", Limit("macs", 300e6, relative=False)),
        ("macs<=1.5G", Limit("macs", 1.5e9, relative=False)),
        ("params<=60%", Limit("params", 0.6, relative=True)),
        ("params<=12k", Limit("params", 12e3, relative=False)),
        ("latency<=5", Limit("latency", 5.0, relative=False)),
        ("latency<=.5", Limit("latency", 0.5, relative=False)),
        ("latency<=5ms", Limit("latency", 5.0, relative=False)),
        ("latency<=1.5 MS", Limit("latency", 1.5, relative=False)),
        ("latency<=900us", Limit("latency", 0.9, relative=False)),
        ("latency<=0.2s", Limit("latency", 200.0, relative=False)),
        ("latency<=60%", Limit("latency", 0.6, relative=True)),
        ("macs<=3e8", Limit("macs", 3e8, relative=False)),
        ("macs<=1.5E-1g", Limit("macs", 0.15e9, relative=False)),
        ("  MACs <= 2 m  ", Limit("macs", 2e6, relative=False)),
        ("flops<=50%", Limit("macs", 0.5, relative=True)),
        ("FLOPs<=150%", Limit("macs", 1.5, relative=True)),
    ],
)
def test_one_limit(text: str, limit: Limit):
    assert Budget.parse(text) == Budget(text.strip(), (limit,))


def test_joint_limits_keep_their_order():
    assert Budget.parse("params<=2M, macs<=50%").limits == (
        Limit("params", 2e6, relative=False),
        Limit("macs", 0.5, relative=True),
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", ""),
        ("macs", "macs"),
        ("macs<300M", "macs<300M"),
        ("macs=300M", "macs=300M"),
        ("macs>=300M", "macs>=300M"),
        ("macs<=", "macs<="),
        ("macs<=-5", "macs<=-5"),
        ("macs<=5T", "macs<=5T"),
        ("macs<=5ms", "macs<=5ms"),
        ("params<=2s", "params<=2s"),
        ("latency<=5min", "latency<=5min"),
        ("latency<=5m", "latency<=5m"),
        ("latency<=1k", "latency<=1k"),
        ("latency<=0.001G", "latency<=0.001G"),
        ("macs<=50%%", "macs<=50%%"),
        ("macs<=1,5G", "5G"),
        ("macs<=50%,", ""),
        ("macs<=50%;params<=2M", "macs<=50%;params<=2M"),
        ("<=50%", "<=50%"),
        ("macs<=nan", "macs<=nan"),
    ],
)
def test_what_can_not_be_read_is_refused(text: str, part: str):
    with pytest.raises(BudgetError) as error:
        Budget.parse(text)
    assert str(error.value) == (
        f"Budget {text!r}: can't read {part!r}; expected metric<=number with an optional k, M, G or % "
        '(latency: us, ms, s or %). Write for instance --budget "macs<=300M", "latency<=5ms" or "macs<=50%,params<=2M".'
    )


@pytest.mark.parametrize("text", ["macs<=0", "macs<=0%", "macs<=0.0M", "macs<=1e-999"])
def test_nothing_is_no_budget(text: str):
    with pytest.raises(BudgetError) as error:
        Budget.parse(text)
    assert str(error.value) == (
        f'Budget {text!r}: {text!r} limits to 0; expected a finite number above 0. Write for instance "macs<=50%".'
    )


@pytest.mark.parametrize("text", ["macs<=1M,macs<=50%", "flops<=1M,macs<=2M"])
def test_a_metric_is_limited_once(text: str):
    with pytest.raises(BudgetError) as error:
        Budget.parse(text)
    assert str(error.value) == f"Budget {text!r}: macs is limited twice; keep the tighter one."


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("macs<=50%", "macs-50"),
        ("macs<=12.5%", "macs-12.5"),
        ("macs<=300M", "macs-300M"),
        ("macs<=300000000", "macs-300M"),
        ("macs<=1.5G", "macs-1.5G"),
        ("params<=12k", "params-12k"),
        ("latency<=0.5", "latency-0.5ms"),
        ("latency<=5ms", "latency-5ms"),
        ("latency<=5000us", "latency-5ms"),
        ("latency<=2s", "latency-2000ms"),
        ("flops<=50%,params<=2M", "macs-50+params-2M"),
    ],
)
def test_slug(text: str, slug: str):
    assert Budget.parse(text).slug == slug


def test_holds_at_the_limit_and_not_above():
    budget = Budget.parse("macs<=50%,params<=2M")
    base = {"macs": 600.0, "params": 3e6}
    assert budget.holds({"macs": 300.0, "params": 2e6}, base)
    assert not budget.holds({"macs": math.nextafter(300.0, 301.0), "params": 1.0}, base)
    assert not budget.holds({"macs": 1.0, "params": math.nextafter(2e6, 3e6)}, base)


def test_a_whole_network_holds_a_hundred_percent():
    assert Budget.parse("macs<=100%").holds({"macs": 1234567.0}, {"macs": 1234567.0})


def test_a_share_is_exact():
    for share in range(1, 101):
        assert Budget.parse(f"params<={share}%").holds({"params": float(share)}, {"params": 100.0})
    assert Budget.parse("params<=0.465%").holds({"params": 186.0}, {"params": 40000.0})


def test_an_absolute_limit_needs_no_base():
    assert Budget.parse("macs<=5").holds({"macs": 5.0}, {})


@given(metrics, numbers, units)
def test_parse_reads_the_number_exactly(metric: str, number: int, unit: str):
    (limit,) = Budget.parse(f"{metric}<={number}{unit}").limits
    assert limit.metric == metric
    assert limit.relative == (unit == "%")
    assert limit.value == (number / 100 if unit == "%" else number * SCALES[unit])


@settings(deadline=None)  # a busy machine is no failure
@given(st.dictionaries(metrics, st.tuples(st.integers(1, 99_999), units), min_size=1))
def test_slug_says_the_limits(limits: dict[str, tuple[int, str]]):
    """A slug read back: what has a scale is absolute, and up to six digits nothing is lost."""
    budget = Budget.parse(",".join(f"{metric}<={number}{unit}" for metric, (number, unit) in limits.items()))
    assert re.fullmatch(r"[a-z_]+-[0-9.]+[kMG]?(\+[a-z_]+-[0-9.]+[kMG]?)*", budget.slug)
    for part, limit in zip(budget.slug.split("+"), budget.limits, strict=True):
        metric, said = part.rsplit("-", 1)
        assert metric == limit.metric
        (read,) = Budget.parse(f"{metric}<={said}{'%' if limit.relative else ''}").limits
        assert (read.metric, read.relative) == (limit.metric, limit.relative)
        assert math.isclose(read.value, limit.value, rel_tol=1e-12)


@given(metrics, numbers, units, st.sampled_from(["", " "]))
def test_case_and_spaces_do_not_matter(metric: str, number: int, unit: str, space: str):
    plain = Budget.parse(f"{metric}<={number}{unit}")
    odd = Budget.parse(f"{space}{metric.upper()}{space}<={space}{number}{space}{unit.swapcase()}{space}")
    assert (odd.limits, odd.slug) == (plain.limits, plain.slug)


@given(numbers, units, st.floats(1.0, 1e12), st.floats(0.0, 2.0))
def test_holds_is_a_comparison_with_the_absolute_limit(number: int, unit: str, base: float, share: float):
    budget = Budget.parse(f"macs<={number}{unit}")
    most = budget.limits[0].absolute({"macs": base})
    assert most == pytest.approx(budget.limits[0].value * (base if unit == "%" else 1.0), rel=1e-15)
    cost = share * most
    assert budget.holds({"macs": cost}, {"macs": base}) == (cost <= most)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str):
    try:
        budget = Budget.parse(text)
    except BudgetError:
        return
    assert all(limit.value > 0 for limit in budget.limits)


def test_decimals_are_exact_and_endless_numbers_refused():
    assert Budget.parse("macs<=1.001k").holds({"macs": 1001.0}, {})
    assert Budget.parse("macs<=1234567").slug != Budget.parse("macs<=1234568").slug
    assert Budget.parse("macs<=1e15").slug == "macs-1000000G"
    assert Budget.parse("macs<=50%") == Budget.parse(" macs <= 50 %")
    with pytest.raises(BudgetError, match="limits to inf; expected a finite number above 0"):
        Budget.parse("macs<=1e999")
    for endless in ("1e9999999", "1e-99999999999999999999"):  # beyond what decimals hold
        with pytest.raises(BudgetError, match="limits to nan; expected a finite number above 0"):
            Budget.parse(f"macs<={endless}")
