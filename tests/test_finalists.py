"""Finalists: who wins among networks trained alone, what that leaves on the disk, and that a kill changes nothing."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from autoslim.budget import Budget
from autoslim.errors import ConfigError, RunFolderError
from autoslim.pipeline import Alone, RunConfig, _finalists, obtain_supernet, reopen_job, resume, run, train_alone
from autoslim.pipeline._finalists import choose_finalists, compare_paired, halve, rungs_of
from autoslim.pipeline._retrain import find_uniform
from autoslim.pipeline._rivals import rivals_of
from autoslim.pipeline._search import search_budgets
from autoslim.progress import Shown
from autoslim.run_folder import RunFolder
from autoslim.search import Found, Greedy, Knapsack, Score, Uniform
from autoslim.search._shaped import ShapedSearch
from autoslim.train import TrainConfig

QUIET = Shown(quiet=True)
CONFIG = RunConfig(
    model="zoo:resnet_digits?width=8",
    data="digits",
    budget=("macs<=50%", "params<=40%,macs<=60%"),
    search_images=60,
    baselines="none",
    finalists=3,
    finalist_epochs=2,
    train=TrainConfig(epochs_supernet=1, epochs_retrain=1, batch_size=64, augment="none"),
)


# Who wins -----------------------------------------------------------------------------------------------------------


def trainer(accuracy, *, images=1000):
    """Networks of known accuracy (by epochs, or always), right on the first images; notes what it is asked for."""
    asked = []

    def train(name, epochs):
        asked.append((name, epochs))
        share = accuracy[name] if isinstance(accuracy[name], float) else accuracy[name][epochs]
        right = round(share * images)
        return Alone(epochs, 1 - share, (1.0,) * right + (0.0,) * (images - right), 10.0 * epochs)

    train.asked = asked
    return train


@pytest.mark.parametrize("num", range(2, 12))
def test_rungs_halve_and_end_with_two_at_the_longest(num):
    rungs = rungs_of(num, 16)
    assert rungs[0][0] == num
    assert rungs[-1] == (2, 16)
    for (before, epochs), (after, longer) in pairwise(rungs):
        assert (after, longer) == ((before + 1) // 2, 2 * epochs)


def test_the_best_judged_wins_and_half_is_dropped_in_each_rung():
    train = trainer({"uniform": 0.5, "a": 0.6, "b": 0.9, "c": 0.7})
    choice = halve(["uniform", "a", "b", "c"], 8, train)
    assert (choice.winner, choice.best, choice.lead) == ("b", "b", pytest.approx(0.4))
    assert sorted(train.asked) == [("a", 4), ("b", 4), ("b", 8), ("c", 4), ("uniform", 4), ("uniform", 8)]


def test_uniform_reaches_the_last_rung_however_poor_its_start():
    accuracy = {"uniform": {1: 0.1, 2: 0.1, 4: 0.8}, **{name: 0.5 + i / 100 for i, name in enumerate("abcdef")}}
    choice = halve(list(accuracy), 4, trainer(accuracy))
    assert (choice.winner, choice.best) == ("uniform", "f")
    assert choice.lead == pytest.approx(0.55 - 0.8)


def test_a_lead_within_the_standard_error_goes_to_uniform():
    for lead, winner in ((0.001, "uniform"), (0.01, "a")):  # right on 1 or 10 images more: errors 0.001 and 0.0031
        assert halve(["a", "uniform"], 4, trainer({"uniform": 0.5, "a": 0.5 + lead})).winner == winner
    assert halve(["a", "uniform"], 4, trainer({"uniform": 0.5, "a": 0.5})).winner == "uniform"


def test_uniform_alone_needs_no_training():
    train = trainer({"uniform": 0.5})
    assert halve(["uniform"], 4, train).winner == "uniform"
    assert train.asked == []


def test_a_single_epoch_is_not_trained_twice():
    train = trainer({"uniform": 0.5, "a": 0.6, "b": 0.9})
    assert halve(["uniform", "a", "b"], 1, train).winner == "b"
    assert len(train.asked) == 3


def test_the_winner_is_hardly_ever_below_uniform_but_by_noise():
    """Networks as good as uniform displace it in about one of six cases, worse ones in ever fewer."""
    rng = np.random.default_rng(0)

    def wins(gap):
        draws = [(rng.random(400) < 0.7, rng.random(400) < 0.7 - gap) for _ in range(400)]
        compared = [compare_paired(theirs, ours) for ours, theirs in draws]
        return np.mean([lead > error for lead, error in compared])

    assert 0.1 < wins(0.0) < 0.22
    assert wins(0.06) < 0.02


# Who competes -------------------------------------------------------------------------------------------------------


def test_rivals_are_other_settings_and_other_methods():
    rivals = rivals_of(Greedy(normalize="none"))
    assert rivals["greedy, normalize=cost"] == Greedy(normalize="cost")
    assert rivals["greedy, metric=accuracy"] == Greedy(normalize="none", metric="accuracy")
    assert not any(isinstance(rival, Uniform) for rival in rivals.values())
    assert rivals_of(Uniform())["greedy"] == Greedy()


def test_the_likeliest_rivals_come_first_and_shapes_last():
    likely = ["greedy, normalize=none", "greedy, metric=accuracy", "knapsack", "random"]
    assert list(rivals_of(Greedy()))[:4] == likely
    assert list(rivals_of(Greedy(), by_image=False))[:2] == ["greedy, normalize=none", "knapsack"]
    assert all(isinstance(rival, ShapedSearch) for rival in list(rivals_of(Greedy()).values())[4:])
    assert list(rivals_of(Knapsack()))[:4] == ["greedy", *likely[:2], "random"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"finalists": 1}, r"finalists is 1; expected 0 \(off\), or from 2"),
        ({"finalists": 99}, r"finalists is 99; .*with greedy, normalize=none"),
        ({"retrain": "none"}, r'retrain="none"; expected networks that are trained'),
        ({"finalist_epochs": -1}, r"finalist_epochs is -1; expected 1 or more"),
    ],
)
def test_settings_that_can_not_be_met_are_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        replace(CONFIG, **changes)


# A run --------------------------------------------------------------------------------------------------------------


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return run(replace(CONFIG, out=str(tmp_path_factory.mktemp("runs") / "done")), shown=QUIET)


@pytest.fixture(scope="module")
def summary(done):
    return json.loads((done / "summary.json").read_text())


def test_all_candidates_hold_the_budget_and_the_winner_is_retrained(done, summary):
    enrolled = json.loads((done / "finalists.json").read_text())["budgets"]
    choices = {line["budget"]: line for line in read_lines(done / "finalists.jsonl") if line["_type"] == "Choice"}
    for row, each in zip(summary["budgets"], enrolled, strict=True):
        candidates = each["candidates"]
        uniform, found, *others = candidates
        assert (uniform, found) == ("uniform", "found")
        assert len(others) <= 1
        assert set(others) <= set(rivals_of(CONFIG.search))
        assert all(Budget.parse(row["budget"]).holds(one["costs"], summary["base"]) for one in candidates.values())
        assert row["widths"] == candidates[choices[row["budget"]]["winner"]]["widths"]
    assert [note for note in summary["notes"] if note.startswith("Finalists for macs<=50%: of ")]


def test_lines_tell_the_cost_and_no_clock(done, summary):
    lines = read_lines(done / "finalists.jsonl")
    assert not any("second" in key or "time" in key for line in lines for key in line)
    assert [line for line in read_lines(done / "times.jsonl") if line.get("stage") == "finalists"]
    for row in summary["budgets"]:
        trained = [one for one in lines if one["budget"] == row["budget"] and one["_type"] == "Finalist"]
        (choice,) = [one for one in lines if one["budget"] == row["budget"] and one["_type"] == "Choice"]
        assert choice["epochs"] == sum(one["epochs"] for one in trained)
        assert choice["image_macs"] == sum(one["image_macs"] for one in trained)
        assert len(trained[0]["metrics"]) == 144  # all images held out of train, also those the search did not use
        last = {one["name"]: one for one in trained if one["epochs"] == 2}
        best, uniform = last[choice["best"]], last["uniform"]
        assert choice["lead"] == pytest.approx(best["accuracy"] - uniform["accuracy"])


@pytest.mark.parametrize(
    "kept", [pytest.param(0, marks=pytest.mark.slow), pytest.param(0.3, marks=pytest.mark.slow), 0.7]
)
def test_a_stage_that_was_stopped_ends_in_the_same_file(done, summary, tmp_path, monkeypatch, kept):
    again = tmp_path / "again"
    shutil.copytree(done, again)
    text = (done / "finalists.jsonl").read_text()
    cut = text[: int(len(text) * kept)]
    (again / "finalists.jsonl").write_text(cut)
    (again / "summary.json").unlink()
    if not kept:
        (again / "finalists.json").unlink()
    trained = []
    original = _finalists.train_alone
    monkeypatch.setattr(_finalists, "train_alone", lambda *args, **more: trained.append(1) or original(*args, **more))
    resume(again, shown=QUIET)
    assert (again / "finalists.jsonl").read_text() == text
    assert len(trained) == text[len(cut[: cut.rfind("\n") + 1]) :].count('"_type": "Finalist"')
    assert {**json.loads((again / "summary.json").read_text()), "seconds": 0} == {**summary, "seconds": 0}


@pytest.fixture
def job(done, tmp_path):
    """The run before its finalists, under one budget."""
    again = tmp_path / "again"
    shutil.copytree(done, again)
    for name in ("finalists.json", "finalists.jsonl"):
        (again / name).unlink()
    job = reopen_job(again, shown=QUIET)
    job.config = replace(job.config, budget=("macs<=50%",), finalists=2, finalist_epochs=3)
    obtain_supernet(job)
    return job


def narrowest(job):
    widths = job.space.narrowest
    return Found(job.config.budgets[0], widths, job.price(widths), Score(0.0, 1.0))


def test_a_training_alone_is_forgotten_only_once_its_result_is_kept(job):
    class Killed(Exception):
        pass

    def kill(alone):
        raise Killed

    widths, kept = job.space.narrowest, []
    left = job.folder.path / "checkpoints" / f"alone-1-{widths.digest}"
    with pytest.raises(Killed):
        train_alone(job, widths, 1, name="x", keep=kill)
    assert list(left.iterdir())
    told = train_alone(job, widths, 1, name="x", keep=kept.append)
    assert kept == [told]
    assert not left.exists()


def test_uniform_wins_against_a_crippled_find(job):
    (winner,) = choose_finalists(job, [narrowest(job)])
    (note,) = [each for each in job.notes if each.startswith("Finalists")]
    (uniform,) = Uniform().search(job.space, job.costs, job.config.budgets, job.scorer, base=job.base)
    assert winner.widths == uniform.widths
    assert "'uniform' wins. 'found' against 'uniform': -" in note
    assert note.count("more than noise") == 1


def test_a_find_wins_against_a_crippled_uniform(job, monkeypatch):
    found = search_budgets(job)[:1]
    monkeypatch.setattr(Uniform, "search", lambda *_, **__: [narrowest(job)])
    (winner,) = choose_finalists(job, found)
    (note,) = [each for each in job.notes if each.startswith("Finalists")]
    assert winner == found[0]
    assert "'found' wins. 'found' against 'uniform': +" in note


def test_a_uniform_network_that_may_be_retrained_obeys_the_users_limits(job):
    found = search_budgets(job)[:1]
    job.graph = job.graph.limit("stage3*", min=16, divisor=8)
    job.config = replace(job.config, limit=("stage3*:min=16,divisor=8",))
    (candidates,) = _finalists.enroll(job, found)
    uniform = candidates["uniform"].widths
    limited = [group for group in job.graph.groups if group.name.startswith("stage3") and group.frozen is None]
    assert limited
    assert all(uniform[group.name] in group.candidates for group in limited)
    assert job.config.budgets[0].holds(candidates["uniform"].costs, job.base)
    ratios = [uniform[g.name] / g.size for g in job.graph.groups if g.frozen is None and g not in limited]
    assert max(ratios) - min(ratios) < 0.13  # one ratio, rounded down to one of eight channels or more
    assert 0.25 < min(ratios) < 1
    beside = find_uniform(job, found[0], job.folder).widths
    assert all(beside[group.name] in group.candidates for group in limited)


def test_where_a_rival_finds_the_same_the_next_one_comes_in(job, monkeypatch):
    found = search_budgets(job)[:1]
    uniform = Uniform().search(job.space, job.costs, job.config.budgets, job.scorer, base=job.base)
    columns = {"uniform": uniform, "same": found, "other": [narrowest(job)], "late": None}
    monkeypatch.setattr(_finalists, "rivals_of", lambda *_, **__: dict.fromkeys(("same", "other", "late")))
    monkeypatch.setattr(_finalists, "_search", lambda job, name, method: columns[name])
    job.config = replace(job.config, finalists=3)
    (candidates,) = _finalists.enroll(job, found)
    assert list(candidates) == ["uniform", "found", "other"]


def test_the_first_process_says_whether_latencies_were_measured(tmp_path, monkeypatch):
    """Where another one looked for itself, it might see the file that the first has just written."""
    read = []
    monkeypatch.setattr(_finalists, "obtain_latency", lambda job, table, known: (read.append(table.exists()), None))
    for name in ("keep_latency", "search_budgets"):
        monkeypatch.setattr(_finalists, name, lambda *_: ["found"])
    ranks, scorer = SimpleNamespace(tell=lambda own: True), SimpleNamespace(image_macs=0)
    job = SimpleNamespace(folder=RunFolder(tmp_path), ranks=ranks, costs={}, scorer=scorer)
    assert _finalists._search(job, "uniform", Uniform()) == ["found"]
    assert read == [False]


def test_candidates_of_another_search_are_refused(job):
    found = search_budgets(job)[:1]
    _finalists.enroll(job, found)
    with pytest.raises(RunFolderError, match=r"does not hold what the search found for 'macs<=50%'.*choose anew"):
        _finalists.enroll(job, [narrowest(job)])
