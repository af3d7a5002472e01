"""Processes that share a run: what they make together is what one makes alone."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed.run import get_args_parser

from autoslim.cli import main
from autoslim.pipeline import RunConfig
from autoslim.pipeline import run as run_job
from autoslim.pipeline._launch import make_fabric
from autoslim.progress import Shown
from autoslim.ranks import Ranks
from autoslim.recipes import RECIPES
from autoslim.train import TrainConfig

SCRIPT = """
import pathlib, signal, sys, torch
from torch import distributed, nn
import autoslim.score
from autoslim import Supernet, trace_channels
from autoslim.checkpoint import Checkpoints
from autoslim.pipeline import join_ranks, leave_ranks
from autoslim.ranks import Ranks
from autoslim.score import SupernetScorer, evaluate
from autoslim.tasks import TASKS
from autoslim.testing.random_cnn import RandomCNN
from autoslim.train import TrainConfig, sandwich_step, train_supernet
from autoslim.train._batchnorm import SharedBatchNorm

torch.set_num_threads(1)
distributed.init_process_group("gloo") if "RANK" in __import__("os").environ else None
ranks, task, generator = Ranks.here(), TASKS["classification"], torch.Generator().manual_seed(0)
images = torch.randn(40, 3, 6, 6, dtype=torch.float64, generator=generator)
labels = torch.randint(0, 5, (40,), generator=generator)

def make_net(blocks):
    model = RandomCNN(blocks, seed=2).double()
    return Supernet(model, trace_channels(model, images[:2])).train()

def step():
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    without = nn.Sequential(*layers, nn.Linear(8, 5)).double()
    nets = Supernet(without, trace_channels(without, images[:2])).train(), make_net([("inverted", 8), ("concat", 9)])
    kept = []
    for net in nets:
        part = ranks.share(40)
        with SharedBatchNorm():
            losses = sandwich_step(net, (images[part], labels[part]), task=task, seed=3, smoothing=0.1)
        gradients = {name: p.grad for name, p in net.named_parameters()}
        ranks.average_(gradients.values())
        buffers = {name: b for name, b in net.named_buffers()}
        kept.append((sum(ranks.gather(float(losses.sum()))) / ranks.size, gradients, buffers))
    return kept

class Loader:
    def __len__(self):
        return 5

    def epoch(self, number, start=0):
        for at in range(8 * start, 40, 8):
            yield images[at : at + 8][ranks.share(8)], labels[at : at + 8][ranks.share(8)]

class Runtime:
    device = torch.device("cpu")

    def autocast(self):
        return torch.autocast("cpu", enabled=False)

    def backward(self, tensor):
        tensor.backward()

def stop():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests were started in the background
    kept = []
    for asked in (True, False):  # stopped, then resumed
        net, done = make_net([("inverted", 8)]), []

        def on_step(loss, number):
            done.append(number)
            if asked and ranks.rank == 1 and number == 7:
                signal.raise_signal(signal.SIGINT)

        store = Checkpoints(pathlib.Path(sys.argv[1]).parent / f"store-{ranks.size}", {})
        given = {"task": task, "seed": 3, "runtime": Runtime(), "on_step": on_step, "checkpoints": store}
        try:
            train_supernet(net, Loader(), TrainConfig(epochs_supernet=3, lr=0.05, sync_batchnorm=True), **given)
        except KeyboardInterrupt:
            done.append("stopped")
        ranks.wait()
        kept.append(done)
    return kept, {name: tensor.detach() for name, tensor in net.state_dict().items()}

def late():  # asked to end while the state after the last step is saved
    signal.signal(signal.SIGINT, signal.default_int_handler)
    net, done = make_net([("inverted", 8)]), []

    class Store(Checkpoints):
        def save(self, step, state):
            super().save(step, state)
            if ranks.rank == 1 and "asked" not in done:
                done.append("asked")
                signal.raise_signal(signal.SIGINT)

    store = Store(pathlib.Path(sys.argv[1]).parent / "late", {})
    given = {"task": task, "seed": 3, "runtime": Runtime(), "on_step": lambda *_: None, "checkpoints": store}
    try:
        train_supernet(net, Loader(), TrainConfig(epochs_supernet=1, lr=0.05, sync_batchnorm=True), **given)
    except KeyboardInterrupt:
        done.append("stopped")
    ranks.wait()
    return done, store.latest

def score():
    net = make_net([("inverted", 8), ("dense", 4)])
    batches = [(images[at : at + 8], labels[at : at + 8]) for at in range(0, 40, 8)]
    own = batches[ranks.rank :: ranks.size]
    scorer = SupernetScorer(net, task, calibration=[x for x, _ in own], search=own)
    trials = [net.graph.random_widths(seed) for seed in range(4)]
    looks = []

    def referee(alive, samples):
        looks.append((list(alive), [len(sample) for sample in samples]))
        return alive[:-1] if len(alive) > 2 else alive

    autoslim.score._LOOK = 10
    kept = [scorer.samples(trials), scorer.samples(trials, base=net.graph.max_widths(), referee=referee), looks]
    return [*kept, evaluate(net.model, own, task), scorer.buffers(trials[0])]

def leave():
    joined = join_ranks().size
    leave_ranks()
    return joined, distributed.is_initialized()

torch.save({name: globals()[name]() for name in sys.argv[2:]}, f"{sys.argv[1]}-{ranks.rank}")
ranks.wait()  # gloo's threads end badly where one process leaves while the other still listens
distributed.destroy_process_group() if ranks.size > 1 else None
"""


def run(folder, size, *names):
    """What these functions of the script give in each of `size` processes."""
    file, out = folder / "script.py", folder / f"kept-{size}"
    file.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(file), str(out), *names],
            env={**os.environ, **(shared | {"RANK": str(rank)} if size > 1 else {})},
            stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]
    for process in started:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error.decode()
    return [torch.load(f"{out}-{rank}", weights_only=False) for rank in range(size)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process keeps."""
    (kept,) = run(tmp_path_factory.mktemp("alone"), 1, "step", "score", "stop")
    return kept


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two processes keeps; they leave the group last, for the rest needs it."""
    return run(tmp_path_factory.mktemp("both"), 2, "step", "score", "stop", "late", "leave")


def test_ranks_alone_and_their_shares():
    alone = Ranks.here()
    assert alone == Ranks(0, 1)
    assert (alone.gather("a"), alone.tell("a")) == (["a"], "a")
    tensor = torch.ones(3)
    alone.average_([tensor])
    alone.wait()
    assert alone.sum_(tensor).tolist() == [1, 1, 1]
    for size in range(1, 6):
        parts = [Ranks(rank, size).share(13) for rank in range(size)]
        assert [at for part in parts for at in range(13)[part]] == list(range(13))
        assert max(part.stop - part.start for part in parts) - min(part.stop - part.start for part in parts) <= 1


def test_a_step_on_two_ranks_is_that_of_one_on_the_joined_batch(alone, both):
    for at, (loss, gradients, buffers) in enumerate(alone["step"]):
        for rank in (kept["step"] for kept in both):
            assert rank[at][0] == pytest.approx(loss, rel=1e-12)
            for name, gradient in gradients.items():
                torch.testing.assert_close(rank[at][1][name], gradient, rtol=1e-9, atol=1e-12)
            for name, buffer in buffers.items():
                torch.testing.assert_close(rank[at][2][name], buffer, rtol=1e-9, atol=1e-12)
    assert any("running_mean" in name for name in alone["step"][1][2])


LEAVE = """
import sys
from pathlib import Path
from torch import distributed
from autoslim.pipeline import join_ranks, leave_ranks

ranks = join_ranks()
inside = distributed.is_initialized()
leave_ranks()
Path(f"{sys.argv[1]}-{ranks.rank}").write_text(f"{ranks.size} {inside} {distributed.is_initialized()}")
"""


def test_a_run_ends_the_group_that_it_made(tmp_path):
    (tmp_path / "script.py").write_text(LEAVE)
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*started, tmp_path / "script.py", tmp_path / "told"], check=True, capture_output=True, timeout=120)
    assert [(tmp_path / f"told-{rank}").read_text() for rank in range(2)] == ["2 True False"] * 2


def test_a_run_leaves_a_group_that_somebody_else_made(both):
    assert [kept["leave"] for kept in both] == [(2, True)] * 2


def test_a_signal_to_one_of_two_ranks_ends_both_after_the_same_step_and_both_go_on(alone, both):
    for done, tensors in (kept["stop"] for kept in both):
        assert done == [[*range(1, 9), "stopped"], [*range(9, 16)]]  # asked in step 8, told with its loss
        for name, tensor in alone["stop"][1].items():
            torch.testing.assert_close(tensors[name], tensor, rtol=1e-9, atol=1e-12)


def test_a_signal_in_the_last_save_ends_both_ranks(both):
    (first, kept), (second, _) = (each["late"] for each in both)
    assert (first, second) == (["stopped"], ["asked", "stopped"])
    assert "step-000000005" in kept


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_scores_of_several_ranks_are_those_of_one_bit_for_bit(alone, both, tmp_path, size):
    ours, several = alone["score"], both if size == 2 else run(tmp_path, size, "score")
    for rank in (kept["score"] for kept in several):
        for one, other in zip((*ours[0], *ours[1], ours[3]), (*rank[0], *rank[1], rank[3]), strict=True):
            assert one.loss.tolist() == other.loss.tolist()
            assert one.accuracy.tolist() == other.accuracy.tolist()
        assert rank[2] == ours[2]
        assert len(ours[2]) == 2
        assert all(torch.equal(rank[4][name], value) for name, value in ours[4].items())


def test_a_run_ends_in_no_process_before_its_summary_is_there(tmp_path, monkeypatch):
    seen = []

    class Watched(Ranks):
        def wait(self):
            seen.append((tmp_path / "run" / "summary.json").exists())

    monkeypatch.setattr("autoslim.pipeline._job.join_ranks", Watched)
    train = TrainConfig(epochs_supernet=1, batch_size=512)
    given = {"model": "zoo:resnet_digits?width=8", "data": "digits", "retrain": "none", "search_images": 20}
    run_job(RunConfig(**given, budget=("macs<=90%",), out=str(tmp_path / "run"), train=train), shown=Shown(quiet=True))
    assert seen[-1]


def torchrun(*args, folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "autoslim"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *args], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_run_on_two_ranks_and_the_same_search_on_one(tmp_path):
    folder = tmp_path / "run"
    options = ["--epochs-supernet", "2", "--epochs-retrain", "1", "--budget", "macs<=50%", "--out", str(folder)]
    told = torchrun("run", "digits", *options, folder=tmp_path)
    assert told.count("report ") == 1
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["budgets"][0]["accuracy"]["test"] > 0.3
    assert {path.name for path in (folder / "models").iterdir()} == {"base", "macs-50"}
    for method in ("greedy", "exhaustive", "uniform"):
        asked = ["search", str(folder), "--method", method, "--budget", "macs<=15%"]
        torchrun(*asked, "--name", f"{method}-two", folder=tmp_path)
        (folder / "scores.jsonl").unlink()
        main([*asked, "--name", f"{method}-one"])
        one, two = (folder / "searches" / f"{method}-{count}" for count in ("one", "two"))
        assert (one / "search.jsonl").read_bytes() == (two / "search.jsonl").read_bytes()
        assert json.loads((one / "found.json").read_text()) == json.loads((two / "found.json").read_text())


@pytest.mark.slow
def test_a_latency_budget_on_two_ranks(tmp_path):
    folder = tmp_path / "run"
    options = ["--epochs-supernet", "1", "--retrain", "none", "--budget", "latency<=90%", "--runtime-batch", "64"]
    torchrun("run", "digits", *options, "--out", str(folder), folder=tmp_path)
    found = json.loads((folder / "summary.json").read_text())["budgets"][0]
    assert found["latency"] <= 0.9 * json.loads((folder / "summary.json").read_text())["base"]["latency"]


def test_the_others_wait_for_as_long_as_the_first_measures(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert make_fabric().strategy._timeout >= timedelta(days=1)


def test_the_launch_lines_of_the_page_can_be_parsed():
    page = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        assert subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True).stderr == ""
        (line,) = re.findall(r"torchrun .*", block.replace("\\\n", ""))
        given = get_args_parser().parse_args(shlex.split(line)[1:])
        assert (given.nnodes, given.nproc_per_node, given.training_script) == ("4", "8", "autoslim")
        command, what, *_ = given.training_script_args
        assert (command, what in (*RECIPES, "--resume")) == ("run", True)
