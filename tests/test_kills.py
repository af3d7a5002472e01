"""A search that is killed again and again, at random moments, ends in the files of one that was left alone."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

KILLS = 20
NETWORK = """
from torch import nn

def deep():
    layers = [nn.Conv2d(1, 64, 3, stride=2), nn.ReLU()]
    for _ in range(9):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
"""


def start(*args, log):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "autoslim", *args], stdout=log, stderr=subprocess.STDOUT, env=env)


def steps_in(folder):
    file = folder / "search.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.fixture
def whole(tmp_path):
    """A run that was left alone: ten layers of 64 channels, down to a twelfth of the MACs."""
    (tmp_path / "net.py").write_text(NETWORK)
    folder = tmp_path / "whole"
    options = ["--model", f"{tmp_path}/net.py:deep", "--budget", "macs<=50%", "--budget", "macs<=8%"]
    options += ["--baselines", "none", "--retrain", "none", "--epochs-supernet", "1", "--batch-size", "256"]
    with (tmp_path / "log").open("w") as log:
        assert start("run", "digits", *options, "--out", str(folder), log=log).wait() == 0
    return folder


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("method", ["evolution", "knapsack"])
def test_a_search_that_scores_whole_networks_is_killed_and_finds_the_same(method, whole, tmp_path):
    asked = ["search", str(whole), "--method", method, "--budget", "macs<=40%"]
    scores, place = whole / "scores.jsonl", whole / "searches"
    scores.touch()  # a greedy search scores image by image, and may leave none
    scored = scores.read_bytes()
    with (tmp_path / "log").open("a") as log:
        assert start(*asked, "--name", "alone", log=log).wait() == 0
        scores.write_bytes(scored)
        kills = 0
        while kills < 5:
            before = scores.stat().st_size
            process = start(*asked, "--name", "killed", log=log)
            while process.poll() is None and scores.stat().st_size == before:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                break
            kills += 1
        assert start(*asked, "--name", "killed", log=log).wait() == 0
    assert kills == 5
    one, other = (json.loads((place / name / "found.json").read_text()) for name in ("alone", "killed"))
    assert one["found"] == other["found"]


@pytest.mark.faults
@pytest.mark.slow
def test_twenty_kills_leave_the_same_search(whole, tmp_path):
    killed = tmp_path / "killed"
    shutil.copytree(whole, killed)
    for name in ("summary.json", "report.html", "search.jsonl"):
        (killed / name).unlink()
    shutil.rmtree(killed / "models")
    most, rng, at = steps_in(whole), random.Random(0), list[int]()
    with (tmp_path / "log").open("a") as log:
        for _ in range(KILLS):
            before, wait = steps_in(killed), 1
            process = start("run", "--resume", str(killed), log=log)
            try:
                while process.poll() is None and steps_in(killed) < min(before + wait, most - 1):
                    time.sleep(0.001)
                time.sleep(rng.uniform(0, 0.02))  # somewhere in the middle of what comes next
            finally:
                process.send_signal(signal.SIGKILL)
            if process.wait() == -signal.SIGKILL and steps_in(killed) < most:
                at.append(steps_in(killed))
        assert start("run", "--resume", str(killed), log=log).wait() == 0
    assert len(at) >= 0.75 * KILLS, f"only {at} of {KILLS} kills hit the search, which has {most} steps"
    assert len(set(at)) > KILLS / 2
    assert (killed / "search.jsonl").read_bytes() == (whole / "search.jsonl").read_bytes()
    ours, theirs = (json.loads((folder / "summary.json").read_text())["budgets"] for folder in (killed, whole))
    assert ours == theirs
