"""The evidence that is told: the committed comparison is whole, and the page tells its figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from autoslim.compare._bench import starts_of
from autoslim.compare._page import say_difference, say_times
from autoslim.compare._result import KEPT

ROOT = Path(__file__).resolve().parents[1]
WANTED = {"autoslim", "autoslim-plain", "evolution", "knapsack", "uniform", "flat", "ramp-up", "ramp-down", "hourglass",
          "bottleneck", "wide-inside", "equal", "l1", "bn-scale", "lasso", "taylor", "torch-pruning", "netadapt", "amc",
          "rl"}  # fmt: skip
ENDINGS = {"scratch": "", "kept": KEPT}
LOOPS = ("autoslim", "amc", "netadapt", "rl")
PAGE = (ROOT / "docs" / "5-evidence.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def digits() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "compare_digits.json").read_text())


def tell_costs(method: str, one: dict[str, Any], five: dict[str, Any]) -> str:
    """What a method's search costs for one budget and for five, as the page has it."""
    rows = [next(row for row in result["rows"] if row["method"] == method) for result in (one, five)]
    cells = [f"{row['search_image_macs'] / 1e9:.0f} | {row['times_autoslim']:.2f}x" for row in rows]
    return f"| {method} | {' | '.join(cells)} |"


def tell(row: dict[str, Any]) -> str:
    """A row as the page has it."""
    own = " ".join(f"{100 * accuracy:.2f}" for accuracy in row["accuracies"])
    told = [say_difference(row[name]) for name in ("to_uniform", "to_autoslim")]
    differences = [f"{mean} ({interval})" if interval else mean for mean, interval in told]
    cost = f"{row['search_image_macs'] / 1e9:.0f}", say_times(row["times_autoslim"]), f"{row['search_seconds']:.0f}"
    cells = [row["method"], own, f"{100 * row['accuracy_mean']:.2f}", *differences, *cost]
    return f"| {' | '.join(cells)} |"


def test_the_comparison_on_digits_has_every_method_and_seed(digits: dict[str, Any]):
    methods, rows = digits["methods"], {row["method"]: row for row in digits["rows"]}
    assert set(methods) >= WANTED
    expected = {name + ending for name in methods for start, ending in ENDINGS.items() if start in starts_of(name)}
    assert set(rows) == expected
    assert all(row["seeds"] == [0, 1] and len(row["accuracies"]) == 2 for row in rows.values())
    assert all(methods.values()), "the settings of every method are told"
    assert digits["uneven"] == []
    costs = [row["macs"] for row in rows.values()]
    assert max(costs) / min(costs) < 1.01


def test_the_page_tells_each_row(digits: dict[str, Any]):
    for row in digits["rows"]:
        assert tell(row) in PAGE


def test_the_comparison_on_cifar10_has_its_seeds_and_the_page_tells_each_row():
    told = json.loads((ROOT / "benchmarks" / "results" / "compare-cifar10.json").read_text())
    few = {f"{name}{ending}" for name in ("l1", "torch-pruning", "netadapt") for ending in ENDINGS.values()}
    many = {"autoslim", f"autoslim{KEPT}", "uniform", f"slimmable{KEPT}"}
    assert {row["method"] for row in told["rows"]} == few | many
    assert told["uneven"] == []
    for budget in ("macs<=50%", "macs<=25%"):
        rows = [row for row in told["rows"] if row["budget"] == budget]
        assert {row["method"] for row in rows} == few | many
        assert max(row["macs"] for row in rows) / min(row["macs"] for row in rows) < 1.01
        for row in rows:
            assert row["seeds"] == ([1, 2, 3] if row["method"] in few else [1, 2, 3, 4, 5])
            assert tell(row) in PAGE


def test_the_page_tells_what_searches_cost(digits: dict[str, Any]):
    five = json.loads((ROOT / "benchmarks" / "results" / "compare_digits_five.json").read_text())
    assert {row["budget"] for row in five["rows"]} == {f"macs<={share}%" for share in (60, 50, 40, 30, 20)}
    assert five["uneven"] == []
    for method in LOOPS:
        assert tell_costs(method, digits, five) in PAGE
