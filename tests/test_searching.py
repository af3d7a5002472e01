"""A run searched once more, its scores remembered, its costs told before anything is spent."""

import json
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from autoslim.budget import Budget
from autoslim.cli import main
from autoslim.cli._method import hide_seed, show_seed
from autoslim.errors import BudgetError, ConfigError, RunFolderError, UnknownNameError
from autoslim.pipeline import (
    Job,
    RunConfig,
    _forecast,
    obtain_supernet,
    plan_run,
    plan_search,
    prepare,
    read_config,
    reopen_job,
    search_again,
)
from autoslim.pipeline._again import SEARCHES
from autoslim.pipeline._plan import count_evaluations
from autoslim.pipeline._retrain import find_uniform
from autoslim.progress import Shown
from autoslim.run_folder import RunFolder
from autoslim.score import SupernetScorer
from autoslim.search import METHODS, Exhaustive, Found, Greedy, Score, Uniform, make_method
from autoslim.train import TrainConfig
from autoslim.widths import Widths

QUIET = Shown(quiet=True)
CONFIG = RunConfig(
    model="zoo:resnet_digits?width=8",
    data="digits",
    budget=("macs<=60%", "macs<=30%"),
    baselines="none",
    retrain="none",
    search_images=64,
    train=TrainConfig(epochs_supernet=1, epochs_retrain=1, batch_size=64, augment="none"),
)


@pytest.fixture
def folder(finished, tmp_path):
    """A run as CONFIG asks for it, but for how it was trained."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def passes(monkeypatch):
    """What is really scored, whole or on each image."""
    seen = []
    for name in ("score", "samples"):
        original = getattr(SupernetScorer, name)

        def counted(self, widths, original=original, **options):
            seen.extend(widths if isinstance(widths, list) else [widths])
            return original(self, widths, **options)

        monkeypatch.setattr(SupernetScorer, name, counted)
    return seen


def asked(folder, method="greedy", *budgets, **settings):
    config = read_config(folder)
    chosen = replace(make_method(method), **settings)
    return replace(config, method=method, search=chosen, budget=budgets or config.budget)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def opened(folder):
    job = reopen_job(folder, shown=QUIET)
    obtain_supernet(job)
    return job


# Remembered scores --------------------------------------------------------------------------------------------------


def test_what_was_scored_is_not_scored_again(folder, passes):
    job = opened(folder)
    wide, narrow = job.space.widest, job.space.narrowest
    scores = job.scorer.score_many([wide, narrow, wide])
    assert scores[0] == scores[2] == job.scorer.score(wide)
    assert passes == [wide, narrow]
    assert job.scorer.evaluations == 2
    assert job.fresh_scorer.score(narrow) == scores[1]

    passes.clear()
    again = opened(folder).scorer
    assert again.score_many([narrow, wide]) == [scores[1], scores[0]]
    assert (passes, again.evaluations) == ([], 0)


def test_a_torn_line_is_scored_again(folder, passes):
    job = opened(folder)
    job.scorer.score_many([job.space.widest, job.space.narrowest])
    file = folder / "scores.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    passes.clear()
    opened(folder).scorer.score_many([job.space.widest, job.space.narrowest])
    assert passes == [job.space.narrowest]
    assert file.read_bytes() == whole


def test_scores_of_another_supernet_or_other_images_do_not_count(folder, passes):
    job = opened(folder)
    first = job.scorer.score(job.space.widest)
    other = opened(folder)
    other.config = replace(other.config, search_images=30)
    assert other.scorer.score(job.space.widest) != first
    supernet = folder / "supernet.safetensors"
    data = bytearray(supernet.read_bytes())
    data[-1] ^= 1
    supernet.write_bytes(bytes(data))
    opened(folder).scorer.score(job.space.widest)
    assert passes == [job.space.widest] * 3
    assert len({line["key"] for line in RunFolder(folder).lines("scores.jsonl")}) == 3


def test_samples_pass_through(folder):
    job = opened(folder)
    trials = [job.space.widest, job.space.narrowest]
    (wide, narrow), plain = job.scorer.samples(trials), job.fresh_scorer.samples(trials)
    assert (wide.loss.tolist(), narrow.loss.tolist()) == (plain[0].loss.tolist(), plain[1].loss.tolist())
    assert job.scorer.evaluations == 2
    assert not (folder / "scores.jsonl").exists()


# Searched once more -------------------------------------------------------------------------------------------------


def test_a_search_is_answered_from_what_was_scored(folder, passes):
    first = search_again(folder, asked(folder, "uniform"), shown=QUIET)
    assert len(passes) == first["evaluations"] > 0
    passes.clear()
    again = search_again(folder, asked(folder, "uniform"), name="again", shown=QUIET)
    assert passes == []
    assert again["evaluations"] == 0
    assert again["found"] == first["found"]


def test_what_is_found_is_what_the_method_finds(folder):
    before = contents(folder)
    found = search_again(folder, asked(folder, "exhaustive", "macs<=50%", "params<=40%"), shown=QUIET)
    job = opened(folder)
    budgets = replace(CONFIG, budget=("macs<=50%", "params<=40%")).budgets
    wanted = Exhaustive().search(job.space, job.costs, budgets, job.fresh_scorer, base=job.base)
    for row, each in zip(found["found"], wanted, strict=True):
        assert row["widths"] == dict(each.widths)
        assert (row["loss"], row["accuracy"]) == (each.score.loss, each.score.accuracy)
        assert row["costs"] == job.price(each.widths)
        metric = each.budget.limits[0].metric
        assert row["uniform"]["costs"][metric] == pytest.approx(row["costs"][metric], rel=0.05)
    place = folder / SEARCHES / "exhaustive-macs-50-params-40"
    assert sorted(path.name for path in place.iterdir()) == [
        "found.json", "search.json", "search.jsonl", "times.jsonl",
    ]  # fmt: skip
    after = contents(folder)
    assert {path: after[path] for path in before} == before  # the run's own results are not touched


def test_the_uniform_network_beside_it_holds_every_limit(folder):
    """At the cost of a network that is narrow where the parameters are it would have too many of them."""
    job = opened(folder)
    narrow = {group.name: group.candidates[0] for group in job.graph.groups if group.name.startswith("stage3")}
    widths = job.space.widest.replace(narrow)
    costs = job.price(widths)
    budget = Budget.parse(f"params<={costs['params'] + 1},macs<={costs['macs']}")
    beside = find_uniform(job, Found(budget, widths, costs, Score(0.0, 1.0)), job.folder)
    price = job.price(beside.widths)
    assert budget.holds(price, job.base)
    assert price["params"] > 0.98 * costs["params"]
    assert beside.gap == price["macs"] / costs["macs"] - 1 < -0.1
    told = f"{-beside.gap:.1%} below AutoSlim's macs: at the same it would have params "
    assert re.fullmatch(re.escape(told) + r"\d+\.\d% above the limit", beside.note)


def test_the_runs_own_steps_serve_where_the_path_is_the_same(folder, passes):
    own = (folder / "search.jsonl").read_text().splitlines()
    found = search_again(folder, asked(folder, "greedy", "macs<=45%"), shown=QUIET)
    assert len(passes) == 1  # the uniform network beside it
    steps = (folder / SEARCHES / "greedy-macs-45" / "search.jsonl").read_text().splitlines()
    assert 0 < len(steps) < len(own)
    assert steps == own[: len(steps)]
    (whole,) = Greedy().search(
        (job := opened(folder)).space, job.costs, replace(CONFIG, budget=("macs<=45%",)).budgets, job.fresh_scorer,
        base=job.base,
    )  # fmt: skip
    assert found["found"][0]["widths"] == dict(whole.widths)
    search_again(folder, asked(folder, "greedy", "macs<=15%"), shown=QUIET)  # goes on where the run ended
    further = (folder / SEARCHES / "greedy-macs-15" / "search.jsonl").read_text().splitlines()
    assert further[: len(own)] == own
    assert len(further) > len(own)


@pytest.mark.parametrize(
    ("method", "budgets", "settings"),
    [
        ("greedy", ("params<=60%",), {}),
        ("greedy", ("macs<=60%,params<=60%",), {}),
        ("greedy", ("macs<=60%", "params<=60%"), {}),
        ("greedy", ("macs<=60%",), {"metric": "accuracy"}),
        ("exhaustive", ("macs<=60%",), {}),
    ],
)
def test_steps_of_another_path_do_not_serve(folder, passes, method, budgets, settings):
    search_again(folder, asked(folder, method, *budgets, **settings), shown=QUIET)
    assert len(passes) > len(budgets) + 1


@pytest.mark.parametrize("at", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_search_that_was_stopped_ends_in_the_same_files(folder, monkeypatch, at):
    config = asked(folder, "exhaustive", "macs<=50%", "params<=40%")
    search_again(folder, config, name="whole", shown=QUIET)
    append = RunFolder.append

    def stop(self, name, line):
        append(self, name, line)
        if name == "search.jsonl" and line["step"] == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "append", stop)
    with pytest.raises(KeyboardInterrupt):
        search_again(folder, config, name="cut", shown=QUIET)
    monkeypatch.undo()
    whole, cut = folder / SEARCHES / "whole", folder / SEARCHES / "cut"
    assert not (cut / "found.json").exists()
    steps = cut / "search.jsonl"
    steps.write_bytes(steps.read_bytes() + b'{"torn')
    search_again(folder, config, name="cut", shown=QUIET)
    for name in ("search.jsonl", "found.json", "search.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


@dataclass(frozen=True, kw_only=True)
class Best(Uniform):
    """The best of a few networks within the budget, as methods find it that only ask for whole scores."""

    def search(self, space, costs, budgets, scorer, *, base, done=(), on_step=None):
        found = []
        for budget in budgets:
            tried = [space.narrowest.replace({group: space.candidates[group][1]}) for group in space.free]
            scores = scorer.score_many([*tried, space.narrowest])
            best = min(range(len(tried)), key=lambda at: scores[at].loss)
            found.append(Found(budget, tried[best], {m: cost(tried[best]) for m, cost in costs.items()}, scores[best]))
        return found


def test_a_method_of_whole_scores_goes_on_where_it_was_stopped(folder, monkeypatch, passes):
    monkeypatch.setitem(METHODS._items, "best", Best)
    append, limit = RunFolder.append, [3]

    def stop(self, name, line):
        append(self, name, line)
        if name == "scores.jsonl":
            limit[0] -= 1
            if limit[0] == 0:
                raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "append", stop)
    with pytest.raises(KeyboardInterrupt):
        search_again(folder, asked(folder, "best"), shown=QUIET)
    assert len(passes) == 3
    found = search_again(folder, asked(folder, "best"), shown=QUIET)
    assert len(passes) == len(set(passes))  # none of the three was scored again
    assert found["evaluations"] == len(passes)
    scores = [row["loss"] for row in found["found"]]
    assert scores == [opened(folder).fresh_scorer.score(Widths(row["widths"])).loss for row in found["found"]]


def test_one_process_at_a_time_is_at_work_on_a_search(folder):
    config = asked(folder, "exhaustive", "macs<=50%")
    place = RunFolder(folder / SEARCHES / "one")
    place.path.mkdir(parents=True)
    with place.held(), pytest.raises(RunFolderError, match="Another process is at work in"):
        search_again(folder, config, name="one", shown=QUIET)
    assert not list(place.path.iterdir())


def test_a_finished_search_is_shown_and_another_of_its_name_refused(folder, monkeypatch):
    config = asked(folder, "uniform")
    found = search_again(folder, config, name="mine", shown=QUIET)
    before = contents(folder)
    monkeypatch.setattr("autoslim.pipeline._again.reopen_job", None)
    assert search_again(folder, config, name="mine", shown=QUIET) == found
    for other, told in (
        (asked(folder, "uniform", tolerance=0.05), "settings"),
        (asked(folder, "exhaustive"), "method"),
        (asked(folder, "uniform", "macs<=33%"), "budgets"),
    ):
        with pytest.raises(RunFolderError, match=rf"mine holds a search with {told} .*another --name"):
            search_again(folder, other, name="mine", shown=QUIET)
    for name in ("a/b", "..", ".x"):
        with pytest.raises(ConfigError, match="expected a plain folder name"):
            search_again(folder, config, name=name)
    assert contents(folder) == before


def test_many_budgets_have_a_short_name(folder):
    budgets = tuple(f"macs<={share}.5%" for share in range(30, 61))
    found = search_again(folder, asked(folder, "uniform", *budgets), shown=QUIET)
    name = Path(found["folder"]).name
    assert re.fullmatch(r"uniform-[0-9a-f]{16}", name)
    assert search_again(folder, asked(folder, "uniform", *budgets), shown=QUIET) == found


def test_what_can_not_be_searched_leaves_nothing(folder):
    with pytest.raises(BudgetError, match=r"no sub-network holds it"):
        search_again(folder, asked(folder, "uniform", "macs<=1%"), shown=QUIET)
    (folder / "supernet.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"supernet\.safetensors.* is missing.*autoslim run --resume"):
        search_again(folder, asked(folder, "uniform"), shown=QUIET)
    assert not (folder / SEARCHES).exists()


# On the command line ------------------------------------------------------------------------------------------------


def test_the_command_shows_a_table_and_json(folder, capsys):
    args = ["search", str(folder), "--method", "uniform", "--tolerance", "0.05", "--budget", "memory<=50%"]
    assert main(args) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "budget macs params memory search accuracy uniform gain" in told
    assert f"on {CONFIG.search_images} search images (one is {100 / CONFIG.search_images:.2g} points)" in told
    assert main([*args, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["method"], data["settings"]) == ("uniform", {"tolerance": 0.05})
    assert data["found"][0]["costs"]["memory"] <= 0.5 * opened(folder).base["memory"]
    assert data["folder"] == str(folder / SEARCHES / "uniform-memory-50")


def test_the_run_comes_first(capsys):
    assert main(["search", "--method", "uniform"]) == 2
    assert "its folder first" in capsys.readouterr().err
    assert main(["search", "nowhere"]) == 2
    assert "`run.json` is missing in nowhere" in capsys.readouterr().err


def test_a_dry_run_tells_and_writes_nothing(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = contents(folder)
    assert main(["search", str(folder), "--dry-run", "--method", "exhaustive", "--budget", "params<=50%"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "params<=50% params 9.9k 50.0% 7.0% can be met" in out
    assert "exhaustive: about" in out
    assert main(["search", str(folder), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert plan["effort"]["trained"] is True
    assert plan["effort"]["total"] == plan["effort"]["evaluations"] * plan["effort"]["seconds"] > 0
    assert plan["supernet"] is plan["retrain"] is None  # a search trains nothing
    assert main(["search", str(folder), "--dry-run", "--budget", "macs<=1%"]) == 2
    captured = capsys.readouterr()
    assert captured.out.split()[-3:] == ["can't", "be", "met"]
    assert 'Write "macs<=' in captured.err
    options = ["--model", CONFIG.model, "--dry-run", "--out", str(tmp_path / "out"), "--search-images", "20"]
    assert main(["run", "digits", *options, "--method", "uniform"]) == 0
    out = capsys.readouterr().out
    assert "timed in the untrained network" in " ".join(out.split())
    told = [line.split(":")[0] for line in out.splitlines() if "about" in line]
    assert told == ["supernet", "uniform", "retrain", "in all"]
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@dataclass(frozen=True, kw_only=True)
class Drawn(Uniform):
    """A method with a seed, as those that draw have."""

    samples: int = 3
    """Networks to draw."""
    seed: int = 0


def test_the_seed_of_a_method_is_the_runs(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(METHODS._items, "drawn", Drawn)
    assert show_seed("drawn", replace(hide_seed(Drawn(samples=5)), samples=6), 4) == Drawn(samples=6, seed=4)
    assert make_method("drawn", seed=7) == Drawn(seed=7)
    assert RunConfig(model="m", data="digits", method="drawn", seed=2).search == Drawn(seed=2)
    seen = []
    monkeypatch.setattr("autoslim.cli.run.run", lambda config, **_: seen.append(config))
    assert main(["run", "digits", "--method", "drawn", "--samples", "2", "--seed", "3"]) == 0
    assert seen[0].search == Drawn(samples=2, seed=3)
    with pytest.raises(SystemExit):
        main(["run", "digits", "--method", "drawn", "--help"])
    assert capsys.readouterr().out.count("--seed") == 1


# The plan -----------------------------------------------------------------------------------------------------------


def test_the_plan_counts_what_a_search_asks_for(folder, passes):
    plan = plan_search(folder, asked(folder, "uniform"), shown=QUIET)
    job = opened(folder)
    macs = plan.prices["macs"]
    assert macs.narrowest == job.costs["macs"](job.space.narrowest)
    assert macs.half == job.costs["macs"](job.graph.uniform_widths(0.5))
    assert macs.own == macs.widest == job.base["macs"]
    assert [reach.share for reach in plan.budgets] == pytest.approx([0.6, 0.3])
    assert plan.effort.evaluations == 2
    for method in ("exhaustive", "greedy"):
        job.config = asked(folder, method)
        steps, evaluations = count_evaluations(job)
        passes.clear()
        real = job.config.search.search(job.space, job.costs, job.config.budgets, job.fresh_scorer, base=job.base)
        assert real
        assert len(passes) / 2 < evaluations < 2 * len(passes)
        assert steps > 5


def test_the_plan_counts_the_searches_of_finalists(tmp_path):
    config = replace(CONFIG, out=str(tmp_path / "x"), retrain="scratch", finalists=4)
    plan = plan_run(config, shown=QUIET)
    job = Job(config, QUIET, "")
    prepare(job)
    others = [Greedy(normalize="none"), Greedy(metric="accuracy")]
    assert plan.effort.finalists == sum(count_evaluations(job, method)[1] for method in others) > 20
    assert plan.effort.total == plan.effort.seconds * (plan.effort.evaluations + plan.effort.finalists)
    assert f"evaluations and {plan.effort.finalists} evaluations for finalists of " in "\n".join(plan.lines())


@pytest.mark.parametrize(
    ("options", "networks", "epochs"),
    [
        ({"baselines": "base,uniform"}, 5, (5 * 7, 0)),
        ({"baselines": "none", "finalists": 3, "finalist_epochs": 4}, 2 + 2 * (3 + 2), (2 * 7, 2 * (3 * 2 + 2 * 4))),
    ],
)
def test_the_plan_counts_the_trainings_of_a_run(tmp_path, options, networks, epochs):
    train = replace(CONFIG.train, epochs_supernet=3, epochs_retrain=7, batch_size=32)
    config = replace(CONFIG, train=train, out=str(tmp_path / "x"), retrain="scratch", **options)
    plan = plan_run(config, shown=QUIET)
    job = Job(config, QUIET, "")
    prepare(job)
    held_out, whole = len(job.loader(job.train_split)), len(job.loader(job.data.train))
    assert (plan.supernet.networks, plan.supernet.steps) == (1, 3 * held_out)
    assert (plan.retrain.networks, plan.retrain.steps) == (networks, epochs[0] * whole + epochs[1] * held_out)
    assert 0 < plan.retrain.seconds < plan.supernet.seconds < 5
    assert plan.lines()[-1].startswith("in all: about ")
    assert not (tmp_path / "x").exists()


def test_where_a_step_is_long_fewer_images_are_timed(tmp_path, monkeypatch):
    job = Job(replace(CONFIG, out=str(tmp_path / "x")), QUIET, "")
    prepare(job)
    seen = []
    monkeypatch.setattr(_forecast, "_time_step", lambda job, train, network, images: seen.append(images) or images / 4)
    for forward, images in ((0.0, 64), (5 / 12 / 16, 16), (1e9, 8)):
        supernet, retrain = _forecast.time_trainings(job, forward)
        assert seen.pop() == images
        assert supernet.seconds == 16  # of all 64 images
        assert retrain is None  # this run retrains nothing


def test_the_plan_of_a_run_that_can_not_be_met(tmp_path):
    plan = plan_run(replace(CONFIG, budget=("macs<=1%", "params<=50%"), out=str(tmp_path / "x")), shown=QUIET)
    assert [reach.held for reach in plan.budgets] == [False, True]
    assert plan.effort is plan.supernet is plan.retrain is None
    assert "macs<=1%" in plan.refused
    assert "can't be met" in "\n".join(plan.lines())
    json.dumps(plan.to_json(), allow_nan=False)


# The method of a run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["uniform", "exhaustive"])
def test_a_run_with_another_method(tmp_path, method):
    options = ["--model", CONFIG.model, "--budget", "macs<=50%", "--search-images", "20", "--baselines", "none"]
    options += ["--retrain", "none", "--epochs-supernet", "1", "--out", str(tmp_path / "run"), "--method", method]
    assert main(["run", "digits", *options]) == 0
    folder = tmp_path / "run"
    config = read_config(folder)
    assert (config.method, type(config.search)) == (method, METHODS[method])
    assert RunConfig.from_json(json.loads(json.dumps(asdict(config)))) == config
    steps = (folder / "search.jsonl").read_text().splitlines()
    assert bool(steps) == (method == "exhaustive")
    assert (folder / "report.html").exists()
    row = json.loads((folder / "summary.json").read_text())["budgets"][0]
    assert row["macs"] <= 0.5 * opened(folder).base["macs"]
    if method == "uniform":
        (found,) = Uniform().search(
            (job := opened(folder)).space, job.costs, job.config.budgets, job.fresh_scorer, base=job.base
        )
        assert row["widths"] == dict(found.widths)


def test_method_and_settings_must_fit():
    with pytest.raises(UnknownNameError, match=r"Unknown search method .gredy.\. Closest: greedy"):
        replace(CONFIG, method="gredy", search=None)
    with pytest.raises(ConfigError, match=r"RunConfig\.method is 'uniform', but RunConfig\.search is Greedy"):
        replace(CONFIG, method="uniform")
    assert replace(CONFIG, method="uniform", search=None).search == Uniform()
    old = json.loads(json.dumps(asdict(CONFIG)))
    del old["method"]
    assert RunConfig.from_json(old) == CONFIG
