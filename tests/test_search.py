"""The search shelf: the contract over every method, and what greedy and uniform each promise."""

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import autoslim.search
from autoslim.budget import Budget, Limit
from autoslim.errors import BudgetError, DataError, RunFolderError, UnknownNameError, WidthsError
from autoslim.search import (
    METHODS,
    Greedy,
    Method,
    Referee,
    Sample,
    Score,
    Space,
    Step,
    Uniform,
    check_budgets,
    hold_uniform,
    match_uniform,
)
from autoslim.testing import check_search_method
from autoslim.testing.search import ChainCost, ConvexScorer, LinearCost, Problem, check_greedy, make_problem
from autoslim.widths import Widths

GREEDY = [Greedy(normalize=n, metric=m) for n in ("cost", "none") for m in ("loss", "accuracy")]
fast = settings(max_examples=30, deadline=None)


@dataclass(frozen=True)
class Table:
    """A cost or a score looked up, for losses and latencies of any shape; `many` and `score_many` follow."""

    values: Mapping[Widths, float]

    def __call__(self, widths: Mapping[str, int]) -> float:
        return self.values[Widths(widths)]

    def many(self, widths: Sequence[Mapping[str, int]]) -> NDArray[np.float64]:
        return np.array([self(each) for each in widths])

    def score(self, widths: Widths) -> Score:
        return Score(self.values[widths], -self.values[widths])

    def score_many(self, widths: Sequence[Widths]) -> list[Score]:
        return [self.score(each) for each in widths]

    def samples(
        self, trials: Sequence[Widths], *, base: Widths | None = None, referee: Referee | None = None
    ) -> list[Sample]:
        scores = [self.score(each) for each in trials]
        return [Sample(np.array([score.loss]), np.array([score.accuracy])) for score in scores]


def make_space(**candidates: tuple[int, ...]) -> Space:
    return Space(candidates, dict.fromkeys(candidates, 1))


def table(rows: Mapping[tuple[int, int], float]) -> Table:
    return Table({Widths({"a": a, "b": b}): value for (a, b), value in rows.items()})


def search(
    method: Method, space: Space, cost: Table | LinearCost | ChainCost, scorer: Table, *texts: str
) -> list[Widths]:
    budgets = [Budget.parse(text.replace("cost", "macs")) for text in texts]
    base = {"macs": cost(space.widest)}
    return [find.widths for find in method.search(space, {"macs": cost}, budgets, scorer, base=base)]


# The contract ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_method_keeps_the_contract(name: str):
    check_search_method(METHODS[name]())


@pytest.mark.parametrize("method", [*GREEDY, Uniform(tolerance=0.0), Uniform(tolerance=0.5)], ids=repr)
def test_settings_keep_the_contract(method: Method):
    check_search_method(method, seeds=(2,))


def test_contract_can_fail():
    """A method that forgets which steps were done, and one that answers in another order."""

    class Forgetful(Greedy):
        def search(self, *args, done=(), **kwargs):
            return super().search(*args, **kwargs)

    class Shuffled(Greedy):
        def search(self, *args, **kwargs):
            return super().search(*args, **kwargs)[::-1]

    with pytest.raises(AssertionError, match="other steps after step 1"):
        check_search_method(Forgetful())
    with pytest.raises(AssertionError, match="in the order of the budgets"):
        check_search_method(Shuffled())


def test_shelf_names_nothing_but_widths_and_budgets():
    """No module, loader or device: the allowed imports are counted by name, and torch is nowhere, in no form."""
    allowed = {"errors", "_registry", "widths", "budget", "search"}
    for path in sorted(Path(autoslim.search.__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        imported += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not names & {"torch", "nn"}
        assert not [name for name in imported if name.split(".")[0] in ("torch", "torchvision", "timm")]
        assert {name.split(".")[1] for name in imported if name.startswith("autoslim")} <= allowed


# Spaces, steps and refusals -------------------------------------------------------------------------------------------


def test_space_knows_its_ends():
    space = Space({"a": (2, 4), "b": (6,)}, {"a": 2, "b": 1})
    assert (space.free, space.widest, space.narrowest) == (("a",), Widths({"a": 4, "b": 6}), Widths({"a": 2, "b": 6}))


@pytest.mark.parametrize("candidates", [(), (4, 2), (2, 2), (3, 4), (0, 2)])
def test_space_refuses_candidates_that_can_not_be(candidates: tuple[int, ...]):
    with pytest.raises(WidthsError) as error:
        Space({"a": candidates}, {"a": 2})
    assert str(error.value) == (
        f"`a`: candidates {candidates}; expected ascending multiples of 2. Give them in order, the whole group last."
    )


def test_space_knows_what_is_allowed():
    candidates, atoms = {"a": (4, 8)}, {"a": 2}
    assert list(Space(candidates, atoms).allowed["a"]) == [2, 4, 6, 8]
    assert Space(candidates, atoms, {"a": (4, 6, 8)}).allowed["a"] == (4, 6, 8)
    for allowed in ((6, 8), (8, 4), (3, 4, 8), (4, 8, 10)):
        with pytest.raises(WidthsError, match=r"`a`: allowed .*expected ascending multiples of 2, the candidates"):
            Space(candidates, atoms, {"a": allowed})


def test_space_refuses_groups_without_atoms():
    with pytest.raises(WidthsError) as error:
        Space({"a": (1,), "b": (1,)}, {"a": 1})
    assert str(error.value) == ("Space: 'b' has candidates or atoms, expected both. Name the same groups in each.")


STEP = Step(1, "a", 4, 2, 0.5, 0.75, {"macs": 10.0}, Widths({"a": 2, "b": 4}), {"a": (2, 0.125, 2000)})


def test_step_is_one_line_of_json_without_a_clock():
    assert json.dumps(STEP.to_json()) == (
        '{"_type": "Step", "_version": 2, "step": 1, "group": "a", "before": 4, "after": 2, "loss": 0.5, '
        '"accuracy": 0.75, "costs": {"macs": 10.0}, "widths": {"a": 2, "b": 4}, "tried": {"a": [2, 0.125, 2000]}}'
    )


@given(st.integers(1, 999), st.text(), st.floats(), st.floats(0, 1), st.floats(0, 1e15))
def test_step_round_trip(number: int, group: str, loss: float, accuracy: float, cost: float):
    step = Step(number, group, 9, 8, loss, accuracy, {"macs": cost}, Widths({group: 8}), {group: (8, loss, 9)})
    line = json.dumps(step.to_json())
    assert json.dumps(Step.from_json(json.loads(line)).to_json()) == line
    if not math.isnan(loss):
        assert Step.from_json(json.loads(line)) == step


@pytest.mark.parametrize("change", [{"_type": "Widths"}, {"_version": 1}, {"clock": 1.0}])
def test_step_refuses_anything_else(change: dict[str, object]):
    data = {**STEP.to_json(), **change}
    fields = sorted(name for name in data if not name.startswith("_"))
    with pytest.raises(RunFolderError) as error:
        Step.from_json(data)
    assert str(error.value) == (
        f"Not a step of a search: _type {data['_type']!r}, _version {data['_version']!r}, fields {fields}; "
        "expected 'Step', version 2. Delete `search.jsonl` to search anew."
    )


def test_budget_that_no_network_holds_is_refused_with_one_that_can_be():
    space = make_space(a=(300, 1000), b=(1000,))
    costs = {"macs": LinearCost({"a": 2e3, "b": 1e3}), "params": LinearCost({"a": 1.0, "b": 1.0})}
    with pytest.raises(BudgetError) as error:
        check_budgets(
            space, costs, [Budget.parse("flops<=40%,params<=70%"), Budget.parse("macs<=1M,params<=1k")],
            base={"macs": 3e6, "params": 2e3},
        )  # fmt: skip
    assert str(error.value) == (
        "Budget 'flops<=40%,params<=70%': no sub-network holds it. The narrowest costs 1.6M macs (53.3% of the base "
        'network\'s), expected at most 1.2M. Write "macs<=53.4%,params<=70%" or more, or give the groups narrower '
        "candidates.\n"
        "Budget 'macs<=1M,params<=1k': no sub-network holds it. The narrowest costs 1.6M macs (53.3% of the base "
        "network's), expected at most 1M and 1.3k params (65% of the base network's), expected at most 1k. "
        'Write "macs<=1.6M,params<=1.3k" or more, or give the groups narrower candidates.'
    )


@given(st.floats(1e-3, 1e12), st.floats(0.01, 0.999), st.floats(1.0, 100.0), st.booleans())
def test_suggested_budget_is_held_and_close(least: float, share: float, whole: float, relative: bool):
    space, costs = make_space(a=(1, 2)), {"macs": LinearCost({"a": least})}
    base = {"macs": whole * least}
    limit = Limit("macs", share / whole if relative else share * least, relative)
    with pytest.raises(BudgetError) as error:
        check_budgets(space, costs, [Budget("too tight", (limit,))], base)
    text = str(error.value).split('Write "')[1].split('" or more')[0]
    check_budgets(space, costs, [Budget.parse(text)], base)
    assert Budget.parse(text).limits[0].relative == relative
    assert Budget.parse(text).limits[0].absolute(base) <= 1.011 * least


def test_budget_of_an_unknown_metric_is_refused():
    space, costs = make_space(a=(1, 2)), {"macs": LinearCost({"a": 1.0})}
    for text, base in (("mac<=1", {"mac": 1.0}), ("macs<=50%", {})):
        with pytest.raises(UnknownNameError):
            check_budgets(space, costs, [Budget.parse(text)], base)
    with pytest.raises(UnknownNameError) as error:
        check_budgets(space, costs, [Budget.parse("mac<=1")], {})
    assert str(error.value) == "Unknown metric 'mac'. Closest: macs. Name one of these in the budget."


def test_cost_that_is_not_finite_is_refused():
    space = make_space(a=(1, 2))
    with pytest.raises(BudgetError) as error:
        check_budgets(space, {"latency": LinearCost({"a": math.nan})}, [Budget.parse("latency<=1")], {})
    assert str(error.value) == (
        "Cost 'latency' is nan for Widths({'a': 1}); expected a finite number. "
        "Repair the cost, or take the metric out of the budget."
    )


# Greedy ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", GREEDY, ids=repr)
def test_greedy_is_optimal_where_theory_says_so(method: Greedy):
    check_greedy(method)


@given(st.integers(0, 10**6), st.sampled_from(GREEDY))
@fast
def test_greedy_is_optimal_on_random_problems(seed: int, method: Greedy):
    check_greedy(method, seeds=(seed,))


@given(st.integers(0, 10**6), st.sampled_from(GREEDY))
@fast
def test_path_falls_in_cost_and_resumes_anywhere(seed: int, method: Greedy):
    problem = make_problem(seed)
    texts = ("macs<=70%", "params<=60%,macs<=80%", "macs<=45%")
    found, steps = problem.search(method, *texts)
    for metric, cost in problem.costs.items():
        path = [cost(problem.space.widest), *(step.costs[metric] for step in steps)]
        assert path == sorted(path, reverse=True)
    for find, text in zip(found, texts, strict=True):  # each is the first point of the path at which it holds
        budget = Budget.parse(text)
        first = next(step for step in steps if budget.holds(step.costs, problem.base))
        assert (find.widths, find.score.loss) == (first.widths, first.loss)
    for cut in range(len(steps)):
        assert problem.search(method, *texts, done=steps[:cut]) == (found, steps[cut:])


def test_step_weighs_loss_by_cost_and_the_papers_rule_does_not():
    space = make_space(a=(1, 2), b=(1, 2))
    cost = LinearCost({"a": 1.0, "b": 9.0})
    loss = table({(2, 2): 1.0, (1, 2): 1.1, (2, 1): 1.2, (1, 1): 1.3})
    assert search(Greedy(), space, cost, loss, "cost<=19") == [Widths({"a": 2, "b": 1})]
    assert search(Greedy(normalize="none"), space, cost, loss, "cost<=19") == [Widths({"a": 1, "b": 2})]


def test_metric_decides_between_loss_and_accuracy():
    class Torn(Table):
        def score(self, widths: Widths) -> Score:
            return Score(self.values[widths], self.values[widths])  # the higher loss has the higher accuracy

    space, cost = make_space(a=(1, 2), b=(1, 2)), LinearCost({"a": 1.0, "b": 1.0})
    scores = Torn(table({(2, 2): 0.9, (1, 2): 0.5, (2, 1): 0.7, (1, 1): 0.3}).values)
    for normalize in ("cost", "none"):
        by_accuracy = search(Greedy(normalize=normalize, metric="accuracy"), space, cost, scores, "cost<=3")
        assert by_accuracy == [Widths({"a": 2, "b": 1})]
    assert search(Greedy(normalize="none"), space, cost, scores, "cost<=3") == [Widths({"a": 1, "b": 2})]


@pytest.mark.parametrize("normalize", ["cost", "none"])
def test_ties_go_to_the_larger_saving_then_to_the_earlier_group(normalize):
    space = make_space(a=(1, 2), b=(1, 2))
    even = table({(a, b): 1.0 for a in (1, 2) for b in (1, 2)})
    larger = search(Greedy(normalize=normalize), space, LinearCost({"a": 1.0, "b": 2.0}), even, "cost<=5")
    earlier = search(Greedy(normalize=normalize), space, LinearCost({"a": 1.0, "b": 1.0}), even, "cost<=3")
    assert (larger, earlier) == ([Widths({"a": 2, "b": 1})], [Widths({"a": 1, "b": 2})])


def test_gains_count_as_no_harm_so_noise_is_not_divided_by_a_small_saving():
    space, cost = make_space(a=(1, 2), b=(1, 2)), LinearCost({"a": 0.001, "b": 9.0})
    loss = table({(2, 2): 1.0, (1, 2): 0.99, (2, 1): 0.999, (1, 1): 1.0})
    assert search(Greedy(), space, cost, loss, "cost<=18.0015") == [Widths({"a": 2, "b": 1})]


@pytest.mark.parametrize("method", GREEDY, ids=repr)
def test_score_that_is_not_finite_is_the_worst(method: Greedy):
    space, cost = make_space(a=(1, 2), b=(1, 2)), LinearCost({"a": 1.0, "b": 1.0})
    for bad in (math.nan, math.inf):
        loss = table({(2, 2): 1.0, (1, 2): bad, (2, 1): 5.0, (1, 1): bad})
        assert search(method, space, cost, loss, "cost<=3", "cost<=2") == [
            Widths({"a": 2, "b": 1}),
            Widths({"a": 1, "b": 1}),
        ]


def test_a_budget_where_nothing_can_be_narrowed_is_not_sent_to_a_wider_one():
    space = make_space(a=(4,), b=(2,))
    with pytest.raises(BudgetError) as error:
        check_budgets(space, {"macs": LinearCost({"a": 1.0})}, [Budget.parse("macs<=50%")], {"macs": 4.0})
    assert str(error.value).endswith("at most 2. No group can be narrowed; `autoslim trace MODEL` says why.")


@pytest.mark.parametrize("method", GREEDY, ids=repr)
def test_a_search_image_without_a_finite_loss_is_told(method: Greedy):
    """One would make all rises infinite, and the saving alone would decide."""

    class OneOdd(ConvexScorer):
        def samples(self, trials, *, base=None, referee=None):
            return [Sample(np.array([score.loss, math.nan]), np.ones(2)) for score in self.score_many(trials)]

    space, cost = make_space(a=(1, 2), b=(1, 2)), LinearCost({"a": 1.0, "b": 1.0})
    scorer = OneOdd({"a": 1.0, "b": 1.0}, space.widest)
    with pytest.raises(DataError, match=r"not finite on 1 of 2 search images \(counted from 0: 1\)"):
        method.search(space, {"cost": cost}, [Budget.parse("cost<=3")], scorer, base={})
    assert method.search(space, {"cost": cost}, [Budget.parse("cost<=4")], scorer, base={})[0].widths == space.widest


def test_joint_budget_sums_the_savings_on_what_is_violated():
    """`a` alone helps the metric that is violated, though `b` costs no loss and saves much of the other."""
    space = make_space(a=(1, 2), b=(1, 2))
    costs = {"macs": LinearCost({"a": 1.0, "b": 0.0}), "params": LinearCost({"a": 0.0, "b": 9.0})}
    loss = table({(2, 2): 1.0, (1, 2): 2.0, (2, 1): 1.0, (1, 1): 2.0})
    budget = Budget.parse("macs<=1,params<=18")
    (find,) = Greedy().search(space, costs, [budget], loss, base={})
    assert find.widths == Widths({"a": 1, "b": 2})
    both = Budget.parse("macs<=1,params<=9")
    (find,) = Greedy().search(space, costs, [both], loss, base={})
    assert find.widths == Widths({"a": 1, "b": 1})


def test_budgets_that_are_not_nested_are_all_met_the_loosest_first():
    space = make_space(a=(1, 2, 3, 4), b=(1, 2, 3, 4))
    costs = {"macs": LinearCost({"a": 1.0, "b": 0.0}), "params": LinearCost({"a": 0.0, "b": 1.0})}
    loss = table({(a, b): 9.0 - a - b for a in range(1, 5) for b in range(1, 5)})
    steps: list[Step] = []
    budgets = [Budget.parse("macs<=1"), Budget.parse("params<=3")]
    found = Greedy().search(space, costs, budgets, loss, base={}, on_step=steps.append)
    assert [step.group for step in steps] == ["b", "a", "a", "a"]
    assert [find.widths for find in found] == [Widths({"a": 1, "b": 3}), Widths({"a": 4, "b": 3})]


def test_of_steps_that_save_too_little_the_one_that_saves_most_is_taken():
    """The lowest candidate of `a` costs more again: the one between helps, and is the group's step."""
    space = make_space(a=(8, 16, 24), b=(1, 2))
    prices = {8: 100.1, 16: 99.85, 24: 100.0}
    cost = table({(a, b): prices[a] - 10.0 * (b == 1) for a in prices for b in (1, 2)})
    loss = table({(a, b): 1.0 * (b == 1) for a in prices for b in (1, 2)})
    assert search(Greedy(), space, cost, loss, "cost<=99.9") == [Widths({"a": 16, "b": 2})]


def test_latency_in_stairs_is_walked_down():
    """No single step saves anything until both groups are at 2: the best network is taken, as in the paper."""
    space = make_space(a=(1, 2, 3), b=(1, 2, 3))
    cost = table({(a, b): float(max(a, b) >= 3) * 5 + 1 for a in (1, 2, 3) for b in (1, 2, 3)})
    loss = table({(a, b): 10.0 - 2 * a - b for a in (1, 2, 3) for b in (1, 2, 3)})
    assert search(Greedy(), space, cost, loss, "cost<=1") == [Widths({"a": 2, "b": 2})]


@given(st.data(), st.sampled_from(GREEDY))
@fast
def test_any_cost_that_the_narrowest_holds_is_reached(data: st.DataObject, method: Greedy):
    """Any table, also one that rises as the network narrows: the path ends at the narrowest at the latest."""
    levels = [(a, b) for a in (1, 2, 3) for b in (1, 2, 3)]
    cost = table({at: data.draw(st.integers(0, 4)) + 1.0 for at in levels})
    loss = table({at: data.draw(st.floats(-1, 1)) for at in levels})
    least = cost.values[Widths({"a": 1, "b": 1})]
    texts = [f"cost<={least + more:.0f}" for more in (2, 0, 1)]
    found = search(method, make_space(a=(1, 2, 3), b=(1, 2, 3)), cost, loss, *texts)
    assert [cost(widths) <= least + more for widths, more in zip(found, (2, 0, 1), strict=True)] == [True] * 3


@given(st.integers(0, 10**6))
@fast
def test_some_step_always_helps_while_costs_rise_with_every_width(seed: int):
    """So with MACs and parameters greedy never runs out of steps that help before the budget holds."""
    problem = make_problem(seed)
    for metric, cost in problem.costs.items():
        narrow, whole = cost(problem.space.narrowest), problem.base
        for step in problem.search(Greedy(), f"{metric}<={narrow:.0f}")[1]:
            assert step.costs[metric] < whole[metric]
            whole = step.costs


def test_cost_that_changes_between_calls_is_told():
    class Drifting(LinearCost):
        def many(self, widths: Sequence[Mapping[str, int]]) -> NDArray[np.float64]:
            calls.append(1)
            return np.array([1.0 if len(calls) == 1 else 2.0] * len(widths))

    calls: list[int] = []
    scorer = ConvexScorer({"a": 1.0}, {"a": 2})
    with pytest.raises(BudgetError) as error:
        Greedy().search(make_space(a=(1, 2)), {"ms": Drifting({})}, [Budget.parse("ms<=1")], scorer, base={})
    assert str(error.value) == (
        "The narrowest sub-network held {'ms': 1.0} at first, and at the end costs {'ms': 2.0}; expected costs that "
        "are the same at every call. Measure once and keep the numbers."
    )


def test_steps_done_are_not_scored_again_and_each_step_is_told_before_the_next():
    problem = make_problem(3)
    budgets = [Budget.parse("macs<=40%")]
    _, steps = problem.search(Greedy(), "macs<=40%")
    scorer = problem.scorer()
    told: list[tuple[int, int]] = []

    def on_step(step: Step) -> None:
        told.append((step.step, len(scorer.asked)))

    done = steps[:3]
    Greedy().search(problem.space, problem.costs, budgets, scorer, base=problem.base, done=done, on_step=on_step)
    assert not {problem.space.widest, *(step.widths for step in done[:-1])} & set(scorer.asked)
    assert scorer.asked[0] == done[-1].widths  # where the path stands, to compare with
    assert [number for number, _ in told] == list(range(4, len(steps) + 1))
    assert told == sorted(told, key=lambda pair: pair[1])
    assert told[0][1] <= len(problem.space.free) + 1


def test_a_finished_search_is_taken_up_for_looser_budgets_too():
    problem = make_problem(4)
    found, steps = problem.search(Greedy(), "macs<=70%", "macs<=40%")
    assert problem.search(Greedy(), "macs<=70%", done=steps) == (found[:1], [])


HINT = (
    "It belongs to another search: another network, candidates or budgets. "
    "Delete `search.jsonl` to search anew, or go on in the run folder it came from."
)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"step": 2}, "is numbered 2, expected 1"),
        ({"group": "c"}, "narrows 'c', expected a group that can still lose channels"),
        ({"group": "d"}, "narrows 'd', expected a group that can still lose channels"),
        ({"before": 3}, "takes 'a' from 3 to 2, expected 4 to one of [1, 2]"),
        ({"after": 3}, "takes 'a' from 4 to 3, expected 4 to one of [1, 2]"),
        (
            {"widths": Widths({"a": 2, "b": 2, "c": 4})},
            "holds widths that differ in another group than the one it narrows",
        ),
        ({"costs": {"params": 10.0}}, "gives the costs ['params'], expected ['macs']"),
        ({"costs": {"macs": 11.0}}, "costs 11 macs, expected 10"),
    ],
)
def test_steps_of_another_search_are_refused(changes: dict[str, object], told: str):
    space = make_space(a=(1, 2, 4), b=(2, 4), c=(4,))
    costs = {"macs": LinearCost({"a": 1.0, "b": 1.0, "c": 1.0})}
    scorer = ConvexScorer({"a": 1.0, "b": 1.0}, space.widest)
    step = replace(STEP, widths=Widths({"a": 2, "b": 4, "c": 4}))
    budgets = [Budget.parse("macs<=10")]
    (find,) = Greedy().search(space, costs, budgets, scorer, base={}, done=[step])
    assert (find.widths, find.score) == (step.widths, Score(0.5, 0.75))
    with pytest.raises(RunFolderError) as error:
        Greedy().search(space, costs, budgets, scorer, base={}, done=[replace(step, **changes)])
    assert str(error.value) == f"Step 1 of the search so far {told}. {HINT}"


def test_a_group_at_its_lowest_is_not_narrowed_again():
    space = make_space(a=(2, 4), b=(2, 4))
    again = replace(STEP, step=2, before=2, after=1)
    scorer = ConvexScorer({"a": 1.0}, space.widest)
    costs = {"macs": LinearCost({"a": 3.0, "b": 1.0})}
    with pytest.raises(RunFolderError) as error:
        Greedy().search(space, costs, [Budget.parse("macs<=9")], scorer, base={}, done=[STEP, again])
    assert str(error.value) == (
        f"Step 2 of the search so far narrows 'a', expected a group that can still lose channels. {HINT}"
    )


def test_settings_that_can_not_be_are_refused():
    with pytest.raises(ValueError) as error:
        Greedy(normalize="loss")  # type: ignore[arg-type]
    assert str(error.value) == "Greedy: normalize='loss'; expected 'cost' or 'none'. Pass one of them."
    with pytest.raises(ValueError) as error:
        Uniform(tolerance=1.0)
    assert str(error.value) == "Uniform: tolerance=1.0; expected 0 or more, below 1. Pass for instance 0.01."


# Uniform --------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(128, 600), st.sampled_from([1, 2, 4])), min_size=2, max_size=8),
    st.floats(0.25, 1.0),
)
@fast
def test_uniform_is_within_a_percent_where_there_are_channels_enough(groups: list[tuple[int, int]], share: float):
    """64 atoms or more are left in every group: one atom is at most 2% of the cost, so one side is within 1%."""
    atoms = {f"conv{number}": atom for number, (_, atom) in enumerate(groups)}
    space = Space(
        {name: (atoms[name], count * atoms[name]) for name, (count, _) in zip(atoms, groups, strict=True)}, atoms
    )
    cost = ChainCost(tuple(atoms))
    target = share * cost(space.widest)
    ratio, widths = match_uniform(space, cost, target)
    assert abs(cost(widths) / target - 1) <= 0.01
    for name, width in widths.items():  # one ratio: rounded down, and at most one atom more
        kept = width / atoms[name] - math.floor(ratio * space.widest[name] / atoms[name] + 1e-6)
        assert kept in (0.0, 1.0)


@given(st.integers(0, 10**6), st.floats(0.3, 1.0), st.floats(0.7, 1.0), st.sampled_from([0.0, 0.01, 0.3]))
@fast
def test_uniform_budgets_always_hold(seed: int, macs: float, params: float, tolerance: float):
    problem = make_problem(seed)
    text = f"macs<={macs * 100:.3f}%,params<={params * 100:.3f}%"
    (find,) = problem.search(Uniform(tolerance=tolerance), text)[0]
    assert Budget.parse(text).holds(find.costs, problem.base)


def test_uniform_search_comes_closest_to_the_tightest_limit():
    """The last atom that fits is taken: one more in any group that was rounded down would break a limit."""
    space = make_space(a=(10, 100), b=(10, 70))
    costs = {"macs": ChainCost(("a", "b")), "params": LinearCost({"a": 1.0, "b": 1.0})}
    budget = Budget.parse("macs<=90%,params<=85")
    find = Uniform(tolerance=0.0).search(space, costs, [budget], ConvexScorer({}, {}), base={"macs": 8000.0})[0]
    assert find.widths == Widths({"a": 50, "b": 35})
    assert find.costs["params"] == 85.0


def test_uniform_takes_any_atom_and_leaves_frozen_groups_whole():
    space = Space({"a": (8, 16), "b": (16,), "c": (8, 32)}, {"a": 1, "b": 1, "c": 4})
    ratio, widths = match_uniform(space, LinearCost({"a": 1.0, "b": 1.0, "c": 1.0}), 35.0, tolerance=0.0)
    assert (ratio, widths) == (0.4375, Widths({"a": 7, "b": 16, "c": 12}))


def test_uniform_fills_the_largest_remainder_first_until_close_enough():
    space = make_space(a=(1, 10), b=(1, 10), c=(1, 15))
    cost = LinearCost({"a": 1.0, "b": 1.0, "c": 1.0})
    wanted = {15.0: (4, 4, 7), 16.0: (5, 4, 7), 17.0: (5, 5, 7), 18.0: (5, 5, 8)}
    for target, kept in wanted.items():
        assert match_uniform(space, cost, target, tolerance=0.0)[1] == Widths(zip("abc", kept, strict=True))
    assert match_uniform(space, cost, 16.0, tolerance=0.1)[1] == Widths({"a": 4, "b": 4, "c": 7})


def test_uniform_ends_above_the_target_where_that_is_closer_and_below_in_a_search():
    space, cost = make_space(a=(1, 4)), LinearCost({"a": 10.0})
    assert match_uniform(space, cost, 28.0) == (0.5, Widths({"a": 3}))
    assert match_uniform(space, cost, 24.0) == (0.5, Widths({"a": 2}))
    found = Uniform().search(space, {"macs": cost}, [Budget.parse("macs<=28")], ConvexScorer({}, {}), base={})
    assert found[0].widths == Widths({"a": 2})


def test_uniform_at_and_beyond_the_ends():
    space, cost = make_space(a=(2, 4), b=(5, 10)), LinearCost({"a": 1.0, "b": 1.0})
    assert match_uniform(space, cost, 14.0) == match_uniform(space, cost, 99.0) == (1.0, Widths({"a": 4, "b": 10}))
    assert match_uniform(space, cost, 0.5) == (0.1, Widths({"a": 1, "b": 1}))
    frozen = make_space(a=(4,))
    assert match_uniform(frozen, LinearCost({"a": 1.0}), 1.0) == (1.0, Widths({"a": 4}))


@dataclass(frozen=True)
class StairCost(LinearCost):
    """Milliseconds that rise by 75% where a width is no multiple of 8, as on ONNX Runtime."""

    def __call__(self, widths: Mapping[str, int]) -> float:
        return super().__call__(widths) * (1.75 if any(width % 8 for width in widths.values()) else 1.0)


STAIRS = make_space(a=(8, 16, 24, 32), b=(16, 32, 48, 64), c=(8,))
STAIR = StairCost({"a": 1.0, "b": 1.0})


def test_uniform_under_a_latency_takes_the_widest_candidates_that_hold():
    """Filled up channel by channel to 52% it would take 17 and 33, and 91% of the time."""
    space = STAIRS
    base = {"latency": STAIR(space.widest)}
    wanted = {50.0: (0.5, 16, 32), 74.9: (0.5, 24, 32), 75.0: (0.75, 24, 48), 100.0: (1.0, 32, 64)}
    for share, (ratio, a, b) in wanted.items():
        budget = Budget.parse(f"latency<={share}%")
        widths = Widths({"a": a, "b": b, "c": 8})
        assert hold_uniform(space, {"latency": STAIR}, budget, base=base) == (ratio, widths)
        (found,) = Uniform().search(space, {"latency": STAIR}, [budget], ConvexScorer({}, {}), base=base)
        assert found.widths == widths
    filled = match_uniform(space, LinearCost({"a": 1.0, "b": 1.0}), 0.52 * base["latency"], tolerance=0.0)[1]
    assert STAIR(filled) > 0.9 * base["latency"]


def test_uniform_under_several_limits_holds_all_of_them():
    space = make_space(a=(8, 16, 24, 32), b=(16, 32, 48, 64))
    costs = {"latency": STAIR, "macs": ChainCost(("a", "b"))}
    base = {metric: cost(space.widest) for metric, cost in costs.items()}
    wanted = {
        "latency<=80%,macs<=62%": (24, 48),
        "latency<=80%,macs<=50%": (24, 32),
        "latency<=30%,macs<=62%": (8, 16),
    }
    for text, (a, b) in wanted.items():
        budget = Budget.parse(text)
        _, widths = hold_uniform(space, costs, budget, base=base)
        assert widths == Widths({"a": a, "b": b})
        assert budget.holds({metric: cost(widths) for metric, cost in costs.items()}, base)


@given(st.integers(0, 10**6), st.floats(0.3, 1.0))
@fast
def test_uniform_under_a_latency_holds_it_with_candidates(seed: int, share: float):
    problem = make_problem(seed)
    costs = {"latency": problem.costs["macs"]}
    base = {"latency": problem.base["macs"]}
    budget = Budget.parse(f"latency<={100 * share:.3f}%")
    if not budget.holds({"latency": costs["latency"](problem.space.narrowest)}, base):
        return
    ratio, widths = hold_uniform(problem.space, costs, budget, base=base)
    assert budget.holds({"latency": costs["latency"](widths)}, base)
    for group, width in widths.items():  # one ratio: rounded down, or up by one candidate
        candidates = problem.space.candidates[group]
        below = max((each for each in candidates if each <= ratio * candidates[-1] + 1e-6), default=candidates[0])
        assert width in candidates[candidates.index(below) :][:2]


def test_uniform_that_cannot_hold_is_the_narrowest_that_is_allowed():
    space, budget = make_space(a=(8, 16, 24, 32), b=(48, 64)), Budget.parse("latency<=20")
    assert hold_uniform(space, {"latency": STAIR}, budget, base={}) == (0.25, Widths({"a": 8, "b": 48}))


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan])
def test_uniform_needs_a_target(target: float):
    with pytest.raises(BudgetError) as error:
        match_uniform(make_space(a=(1, 2)), LinearCost({"a": 1.0}), target)
    assert str(error.value) == (
        f"match_uniform: target {target}; expected a cost above 0. Pass that of the other network."
    )


def test_uniform_has_no_steps_to_go_on_from():
    problem = make_problem(0)
    with pytest.raises(RunFolderError) as error:
        problem.search(Uniform(), "macs<=50%", done=[STEP])
    assert str(error.value) == (
        "The search so far holds 1 steps, but Uniform takes none; expected none. They belong to another "
        "method: delete `search.jsonl`, or go on with that method."
    )


def test_uniform_tells_when_a_cost_does_not_grow_with_the_widths():
    space, cost = make_space(a=(2, 3)), Table({Widths({"a": at}): {1: 9.0, 2: 1.0, 3: 9.0}[at] for at in (1, 2, 3)})
    with pytest.raises(BudgetError) as error:
        Uniform().search(space, {"ms": cost}, [Budget.parse("ms<=5")], ConvexScorer({}, {}), base={})
    assert str(error.value) == (
        "Budget 'ms<=5': no network of this shape holds it, though the narrowest sub-network does; expected a cost "
        "that grows with every width. Search this budget with another method."
    )


def test_problem_is_the_same_for_the_same_seed():
    assert make_problem(7) == make_problem(7) != make_problem(8)
    assert isinstance(make_problem(7), Problem)
