"""How well the supernet ranks: tau on orders that are known, samples spread over cost, a run measured and resumed."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from autoslim import trust as trust_module
from autoslim.cli import main
from autoslim.errors import BudgetError, ConfigError, RunFolderError
from autoslim.progress import Shown
from autoslim.report.trust import explain_ranking, read_ranking
from autoslim.run_folder import RunFolder
from autoslim.search import Space
from autoslim.tasks import Metric
from autoslim.trust import STRATA, Sample, bootstrap_gain, draw_samples, measure_order, measure_trust, summarise

QUIET, ACCURACY = Shown(quiet=True), Metric("accuracy")


# Order --------------------------------------------------------------------------------------------------------------


def test_tau_of_known_orders():
    assert measure_order([1, 2, 3], [4, 5, 6]) == 1
    assert measure_order([1, 2, 3], [6, 5, 4]) == -1
    assert np.isnan(measure_order([1, 1, 1], [4, 5, 6]))


@pytest.mark.parametrize("seed", range(5))
def test_tau_is_scipys_also_with_ties(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 6, 20).tolist(), rng.integers(0, 6, 20).tolist()
    assert measure_order(x, y) == pytest.approx(kendalltau(x, y).statistic)
    assert measure_order(x, y, [7] * 20) == measure_order(x, y)


def test_tau_within_strata_is_that_of_pairs_in_one_stratum():
    x, strata = [1, 2, 3, 11, 12, 13], [0, 0, 0, 1, 1, 1]
    y = [3, 2, 1, 13, 12, 11]  # cost explains the two strata, and within them the order is reversed
    assert measure_order(x, y) == pytest.approx((9 - 6) / 15)
    assert measure_order(x, y, strata) == -1


def make_samples(supernet, alone, *, num=24):
    """Samples whose worth is their number, as a supernet and a training alone tell it."""
    return [
        Sample(n, n % STRATA, 3, 1e6 * (n % STRATA) + n, 1 - alone(n), alone(n), 1 - supernet(n), supernet(n), 5.0, {})
        for n in range(num)
    ]


def test_a_supernet_that_knows_the_order_is_told_so():
    told = summarise(make_samples(lambda n: n / 50, lambda n: n / 30), macs=(0.0, 4e6), images=100)
    assert (told["orders"]["loss"]["tau"], told["orders"]["loss"]["within"]) == (1, 1)
    assert told["orders"]["loss"]["low"] == told["orders"]["loss"]["high"] == 1
    assert told["gain"][0] == pytest.approx(1 - told["orders"]["macs"]["tau"])
    assert told["gain"][1] > 0  # MACs say nothing here but their stratum
    assert told["image_macs"] == 24 * 5.0


def test_a_supernet_that_only_knows_the_cost_is_told_so():
    told = summarise(
        make_samples(lambda n: n % STRATA / 8, lambda n: n % STRATA / 8 + n / 1e3), macs=(0, 4e6), images=9
    )
    orders = told["orders"]
    assert orders["macs"]["tau"] == 1
    assert orders["loss"]["tau"] > 0.8
    assert orders["loss"]["within"] is None  # it tells none of those apart
    assert told["gain"][0] < 0
    json.dumps(told, allow_nan=False)


def test_the_interval_covers_zero_for_a_supernet_that_guesses():
    rng = random.Random(3)
    order = summarise(make_samples(lambda _: rng.random(), lambda n: n / 30), macs=(0, 4e6), images=9)["orders"]["loss"]
    assert order["low"] < 0 < order["high"]


def test_the_gain_of_one_over_itself_is_nothing():
    values = [1.0, 3.0, 2.0, 5.0]
    assert bootstrap_gain(values, values, [1, 2, 3, 4], [0, 0, 1, 1]) == (0, 0, 0)


# Samples ------------------------------------------------------------------------------------------------------------


class Cost:
    """The sum of all widths."""

    def __call__(self, widths):
        return float(sum(widths.values()))

    def many(self, widths):
        return np.array([self(each) for each in widths])


SPACE = Space(candidates={name: tuple(range(2, 21, 2)) for name in "abcdef"}, atoms=dict.fromkeys("abcdef", 2))


def test_samples_are_spread_over_cost_and_differ():
    drawn = draw_samples(SPACE, Cost(), 30, 90, 20, seed=0)
    assert Counter(stratum for stratum, _ in drawn) == dict.fromkeys(range(STRATA), 5)
    assert len({widths for _, widths in drawn}) == 20
    assert all(30 + 15 * stratum <= Cost()(widths) <= 45 + 15 * stratum for stratum, widths in drawn)
    assert max(len({widths[g] for _, widths in drawn}) for g in "abcdef") > 5  # not one ratio for all groups
    assert draw_samples(SPACE, Cost(), 30, 90, 8, seed=0) == drawn[:8]
    assert draw_samples(SPACE, Cost(), 30, 90, 8, seed=1) != drawn[:8]


def test_too_many_samples_are_refused():
    space = Space(candidates={"a": (1, 2, 3, 4)}, atoms={"a": 1})
    with pytest.raises(BudgetError, match=r"Sample 5 of 9: no further sub-network .* Ask for fewer"):
        draw_samples(space, Cost(), 0.5, 4.5, 9, seed=0)


# A run --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory):
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("runs") / "done"))
    assert 'class="trust"' not in (folder / "report.html").read_text()
    assert main(["trust", str(folder), "--samples", "5"]) == 0
    return folder


def test_one_process_at_a_time_measures(measured):
    folder, _ = RunFolder.open(measured)
    with folder.held(), pytest.raises(RunFolderError, match="Another process is at work in"):
        trust_module.measure_trust(measured, samples=5)


def test_the_result_follows_from_its_lines(measured):
    lines = [json.loads(line) for line in (measured / "trust.jsonl").read_text().splitlines()]
    told = json.loads((measured / "trust.json").read_text())
    assert [{**point, "_type": "TrustSample", "_version": 1} for point in told["points"]] == lines
    assert (told["samples"], told["epochs"], told["images"]) == (5, 1, 144)
    low, high = told["macs"]
    macs = [row["macs"] for row in json.loads((measured / "summary.json").read_text())["budgets"]]
    assert low == pytest.approx(0.9 * min(macs))
    assert high == pytest.approx(1.1 * max(macs))
    assert all(low <= line["macs"] <= high for line in lines)
    losses, alone = ([line[key] for line in lines] for key in ("supernet_loss", "alone_accuracy"))
    assert told["orders"]["loss"]["tau"] == pytest.approx(-kendalltau(losses, alone).statistic)
    assert not any("second" in key for line in lines for key in line)


def test_the_report_shows_a_scatter(measured):
    page = (measured / "report.html").read_text()
    assert "<h2>Does the supernet rank well?</h2>" in page
    assert 'class="trust"' in page
    ranking = read_ranking(measured, ACCURACY)
    assert ranking is not None
    assert len(ranking.points) == 5
    assert explain_ranking(ranking).startswith("5 sub-networks drawn at random, each trained alone for 1 epoch and ")
    assert "Kendall's tau: the supernet's loss" in explain_ranking(ranking)
    assert read_ranking(measured / "nothing", ACCURACY) is None


def test_a_broken_result_is_told(tmp_path):
    (tmp_path / "trust.json").write_text('{"_type": "Trust", "_version": 1, "macs": [0, "x"]}')
    with pytest.raises(RunFolderError, match=r"macs\[0\] is '0'.*expected a number above 0"):
        read_ranking(tmp_path, ACCURACY)


def test_what_was_stopped_ends_in_the_same_files(measured, tmp_path, monkeypatch):
    again = tmp_path / "again"
    shutil.copytree(measured, again)
    text = (measured / "trust.jsonl").read_text()
    (again / "trust.jsonl").write_text("".join(text.splitlines(keepends=True)[:4]) + '{"torn')
    (again / "trust.json").unlink()
    trained = []
    original = trust_module.train_alone
    monkeypatch.setattr(trust_module, "train_alone", lambda *a, **more: trained.append(1) or original(*a, **more))
    measure_trust(again, samples=5, shown=QUIET)
    assert len(trained) == 1
    assert (again / "trust.jsonl").read_text() == text
    assert (again / "trust.json").read_text() == (measured / "trust.json").read_text()
    with pytest.raises(RunFolderError, match=r"line 1, holds another sample or 1 epochs.*Give --epochs 1"):
        measure_trust(again, samples=5, epochs=2, shown=QUIET)


def test_a_supernet_that_is_gone_is_not_trained_anew(measured, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(measured, again)
    (again / "supernet.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"`supernet\.safetensors` is missing"):
        measure_trust(again, samples=5, shown=QUIET)
    assert not (again / "supernet.safetensors").exists()


def test_what_can_not_be_measured_is_told(tmp_path):
    with pytest.raises(ConfigError, match="3 samples, 0 epochs; expected 4 samples or more"):
        measure_trust(tmp_path, samples=3)
    with pytest.raises(RunFolderError, match=r"`summary\.json` is missing"):
        measure_trust(tmp_path)
