"""The comparison at its smallest, on real digits: every method on the same work, its table whole, resumable."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from autoslim.cli import main
from autoslim.compare import CompareConfig, compare_methods, list_methods, plan_comparison, summarise
from autoslim.compare._bench import Bench
from autoslim.compare._result import measure_difference
from autoslim.errors import ConfigError, RunFolderError, UnknownNameError
from autoslim.pipeline import RunConfig
from autoslim.progress import Shown
from autoslim.train import TrainConfig

QUIET = Shown(quiet=True)
RUN = RunConfig(
    model="zoo:resnet_digits",
    data="digits",
    budget=("macs<=50%",),
    search_images=60,
    train=TrainConfig(epochs_supernet=1, epochs_retrain=1, batch_size=128, augment="none"),
)
METHODS = ("autoslim", "uniform", "flat", "l1", "bn-scale")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "done"
    compare_methods(CompareConfig(run=replace(RUN, out=str(out)), methods=METHODS, seeds=2), shown=QUIET)
    return out


@pytest.fixture(scope="module")
def rows(done: Path) -> dict[str, dict]:
    return {row["method"]: row for row in json.loads((done / "compare.json").read_text())["rows"]}


def test_the_table_is_whole(rows: dict[str, dict]):
    assert set(rows) == {*METHODS, "l1 (kept weights)", "bn-scale (kept weights)"}
    for row in rows.values():
        assert row["seeds"] == [0, 1]
        assert len(row["accuracies"]) == 2
        assert row["accuracy_mean"] == pytest.approx(np.mean(row["accuracies"]))
        assert row["accuracy_std"] == pytest.approx(np.std(row["accuracies"], ddof=1))
        assert all(0 <= accuracy <= 1 for accuracy in row["accuracies"])
        assert (row["to_uniform"] is None) == (row["method"] == "uniform")


def test_all_networks_of_a_budget_cost_the_same(done: Path, rows: dict[str, dict]):
    costs = [row["macs"] for row in rows.values()]
    assert max(costs) / min(costs) < 1.01
    assert json.loads((done / "compare.json").read_text())["uneven"] == []


def test_search_costs_are_what_was_run(rows: dict[str, dict]):
    assert rows["uniform"]["search_image_macs"] == rows["flat"]["search_image_macs"] == 0
    assert rows["autoslim"]["search_image_macs"] > rows["l1"]["search_image_macs"] > 1e9
    assert rows["l1"]["search_image_macs"] == rows["l1 (kept weights)"]["search_image_macs"]
    # both trained one full-width network for as long; l1 from the one that is shared, bn-scale its own
    assert rows["bn-scale"]["search_image_macs"] == pytest.approx(rows["l1"]["search_image_macs"], rel=1e-6)


def test_a_comparison_goes_on_where_it_stopped(done: Path, monkeypatch: pytest.MonkeyPatch):
    before = (done / "compare.json").read_text()
    (done / "compare.json").unlink()
    monkeypatch.setattr(Bench, "_fit", lambda *args: pytest.fail("trained again"))
    compare_methods(CompareConfig(run=replace(RUN, out=str(done)), methods=METHODS, seeds=2), shown=QUIET)
    assert (done / "compare.json").read_text() == before


def test_one_lost_network_is_trained_again_to_the_same(done: Path, rows: dict[str, dict]):
    lost = done / "seed-0" / "models" / "l1" / "macs-50" / "kept"
    for file in lost.iterdir():
        file.unlink()
    config = CompareConfig(run=replace(RUN, out=str(done)), methods=("uniform", "l1"), seeds=1)
    again = {row["method"]: row for row in compare_methods(config, shown=QUIET)["rows"]}
    for name, row in again.items():
        assert row["accuracies"] == rows[name]["accuracies"][:1]
        assert row["accuracy_std"] is None


def test_other_work_in_the_folder_is_refused(done: Path):
    config = CompareConfig(run=replace(RUN, out=str(done), budget=("macs<=40%",)), methods=("uniform",), seeds=1)
    with pytest.raises(RunFolderError, match="holds a comparison with budget"):
        compare_methods(config, shown=QUIET)


def test_paired_differences_have_students_interval():
    told = measure_difference([0.01, 0.03, -0.01, 0.02])
    low, high = stats.t.interval(0.95, 3, loc=0.0125, scale=stats.sem([0.01, 0.03, -0.01, 0.02]))
    assert (told["mean"], told["low"], told["high"]) == pytest.approx((0.0125, low, high))
    assert measure_difference([0.5]) == {"differences": [0.5], "mean": 0.5, "low": None, "high": None}


def test_pairs_are_of_one_seed_and_uneven_rows_are_named():
    def row(method: str, seed: int, accuracy: float, gap: float = -0.001) -> dict:
        costs = {"macs": 1.0, "params": 1.0, "memory": 1.0, "image_macs": 5.0, "seconds": 1.0, "widths": {}}
        return {"method": method, "seed": seed, "budget": "b", "accuracy": accuracy, "gap": gap, **costs}

    taken = [row("uniform", 0, 0.5), row("x", 0, 0.6), row("uniform", 1, 0.8), row("x", 1, 0.7, gap=-0.05)]
    told = summarise(taken, model="m", data="d", methods={})
    assert told["rows"][1]["to_uniform"]["differences"] == pytest.approx([0.1, -0.1])
    assert told["uneven"] == ["x, b: -5.0%"]


def test_what_can_not_be_compared_is_refused():
    with pytest.raises(UnknownNameError, match="netadapt"):
        CompareConfig(run=RUN, methods=("netadopt",))
    with pytest.raises(ConfigError, match="0 seeds"):
        CompareConfig(run=RUN, methods=("uniform",), seeds=0)
    with pytest.raises(ConfigError, match="retrain is 'inherit'"):
        CompareConfig(run=replace(RUN, retrain="inherit"), methods=("uniform",))
    with pytest.raises(ConfigError, match="latency"):
        CompareConfig(run=replace(RUN, budget=("latency<=5ms",)), methods=("uniform",))


def test_the_plan_counts_trainings_and_writes_nothing(tmp_path: Path):
    run = replace(RUN, out=str(tmp_path / "out"))
    plan = plan_comparison(CompareConfig(run=run, methods=("uniform", "l1"), seeds=2), shown=QUIET)
    assert plan.trainings == 6  # l1 also from the weights it kept
    assert plan.hours > 0
    assert not (tmp_path / "out").exists()


def test_the_command_tells_its_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert (
        main(["compare", "digits", "--methods", "uniform", "--seeds", "1", "--dry-run", "--out", str(tmp_path / "x")])
        == 0
    )
    assert "2 final trainings" in capsys.readouterr().out
    assert main(["compare", "digits", "--methods", "unifrom", "--dry-run"]) == 2
    assert "Closest: uniform" in capsys.readouterr().err


def test_every_method_has_one_name():
    names = list_methods()
    assert len(names) == len(set(names))
    assert {"autoslim", "uniform", "l1", "netadapt", "bn-scale"} <= set(names)


@pytest.mark.slow
def test_all_methods_on_digits(tmp_path: Path):
    out = str(tmp_path / "all")
    names = tuple(list_methods())
    result = compare_methods(CompareConfig(run=replace(RUN, out=out), methods=names, seeds=1), shown=QUIET)
    assert {row["method"].removesuffix(" (kept weights)") for row in result["rows"]} == set(names)
    # the package's own steps are coarse on so small a network; the table says so
    assert [line for line in result["uneven"] if not line.startswith("torch-pruning")] == []
