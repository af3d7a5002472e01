"""A network that was picked, trained as its run trains what it finds: the same bits, however often it is stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autoslim import retrain
from autoslim.checkpoint import Checkpoints
from autoslim.cli import main
from autoslim.errors import RunFolderError
from autoslim.pick import extract_picked, pick_network
from autoslim.pipeline import RunConfig, reopen_job, run
from autoslim.progress import Shown
from autoslim.retrain import retrain_folder
from autoslim.train import TrainConfig
from autoslim.widths import Widths

QUIET = Shown(quiet=True)
BUDGET = "macs<=60%"
CONFIG = RunConfig(
    model="zoo:resnet_digits?width=8",
    data="digits",
    budget=(BUDGET,),
    baselines="none",
    search_images=40,
    train=TrainConfig(epochs_supernet=1, epochs_retrain=2, batch_size=64, checkpoint_minutes=60),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run with one network, trained."""
    return run(replace(CONFIG, out=str(tmp_path_factory.mktemp("runs") / "made")), shown=QUIET)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def picked(folder: Path, tmp_path: Path) -> Path:
    """The run's own network once more, as the supernet has it."""
    return extract_picked(folder, pick_network(folder, BUDGET), tmp_path / "picked")


def metrics_of(folder: Path):
    return json.loads((folder / "metrics.json").read_text())


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def forbid_training(monkeypatch):
    monkeypatch.setattr(retrain, "retrain_network", lambda *_: pytest.fail("it was trained again"))


def test_it_becomes_what_the_run_made_of_it(folder: Path, picked: Path, monkeypatch):
    own, before = folder / "models" / "macs-60", metrics_of(picked)
    assert weights_of(picked) != weights_of(own)
    told = retrain_folder(folder, picked, shown=QUIET)
    assert weights_of(picked) == weights_of(own)
    result = {name: metrics_of(own)[name] for name in ("losses", "skipped_steps", "test_loss", "test_accuracy")}
    assert told == metrics_of(picked) == {**before, "retrained": True, **result}
    assert not (folder / "checkpoints").exists()
    forbid_training(monkeypatch)
    monkeypatch.setattr(retrain, "test_network", lambda *_: pytest.fail("it was tested again"))
    assert retrain_folder(folder, picked, shown=QUIET) == told


def test_a_training_that_was_stopped_goes_on(folder: Path, picked: Path, monkeypatch, capsys):
    before, save = weights_of(picked), Checkpoints.save

    def stop(self, step, state):
        save(self, step, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        retrain_folder(folder, picked, shown=QUIET)
    monkeypatch.undo()
    assert (weights_of(picked), metrics_of(picked)["retrained"]) == (before, False)
    retrain_folder(folder, picked, shown=Shown())
    told = capsys.readouterr().out
    assert "resume    picked/picked-" in told
    assert "goes on after step 22" in told  # of 44: the first epoch
    assert weights_of(picked) == weights_of(folder / "models" / "macs-60")
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("at", ["write_json", "test_network"])
def test_one_that_was_stopped_after_the_training_ends_alike(folder: Path, picked: Path, monkeypatch, at):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(retrain, at, stop)
    with pytest.raises(KeyboardInterrupt):
        retrain_folder(folder, picked, shown=QUIET)
    monkeypatch.undo()
    if at == "test_network":
        forbid_training(monkeypatch)
    told, own = retrain_folder(folder, picked, shown=QUIET), folder / "models" / "macs-60"
    assert (told["test_accuracy"], told["losses"]) == (metrics_of(own)["test_accuracy"], metrics_of(own)["losses"])
    assert weights_of(picked) == weights_of(own)


def test_the_run_tells_of_its_own_network_that_was_trained_later(tmp_path: Path):
    folder = run(replace(CONFIG, out=str(tmp_path / "run"), retrain="none"), shown=QUIET)
    told = retrain_folder(folder, folder / "models" / "macs-60", shown=QUIET)
    (row,) = json.loads((folder / "summary.json").read_text())["budgets"]
    assert row["accuracy"]["test"] == told["test_accuracy"]
    assert f"{told['test_accuracy']:.1%}" in (folder / "report.html").read_text()


def change_run(folder: Path, **changes):
    data = json.loads((folder / "run.json").read_text())
    data["config"] |= changes
    (folder / "run.json").write_text(json.dumps(data))


def test_it_starts_where_the_runs_own_networks_do(folder: Path, picked: Path, monkeypatch):
    """From the supernet's weights with `inherit`: a learning rate next to nothing leaves them."""
    train = {**json.loads((folder / "run.json").read_text())["config"]["train"], "lr": 1e-12, "warmup": 0.0}
    change_run(folder, retrain="inherit", train=train)
    before = load_file(picked / "model.safetensors")
    retrain_folder(folder, picked, shown=QUIET)
    after = load_file(picked / "model.safetensors")
    assert after.keys() == before.keys()
    for name in (name for name in after if name.endswith("weight")):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)
    other = extract_picked(folder, pick_network(folder, "macs<=80%"), folder.parent / "other")
    (folder / "supernet.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"`supernet\.safetensors` is missing in .*Restore it"):
        retrain_folder(folder, other, shown=QUIET)


def test_networks_of_a_run_that_trained_none_are_trained(folder: Path, picked: Path):
    """From scratch, as `retrain` is by default."""
    change_run(folder, retrain="none")
    (folder / "supernet.safetensors").unlink()  # from scratch it is not needed
    told = retrain_folder(folder, picked, shown=QUIET)
    assert told["losses"] == metrics_of(folder / "models" / "macs-60")["losses"]


def test_what_is_no_network_of_the_run_is_refused(folder: Path, picked: Path, finished: Path, tmp_path: Path):
    with pytest.raises(RunFolderError, match=r"`widths\.json` is missing in "):
        retrain_folder(folder, tmp_path / "nowhere", shown=QUIET)
    with pytest.raises(RunFolderError, match=r"`run\.json` is missing in "):
        retrain_folder(tmp_path, picked, shown=QUIET)
    config = json.loads((picked / "config.json").read_text())
    before = weights_of(picked)
    for name, other in (("model", {**config["model"], "arguments": {}}), ("resize", 7), ("attributes", {"a": {}})):
        (picked / "config.json").write_text(json.dumps({**config, name: other}))
        with pytest.raises(
            RunFolderError, match=rf"`config\.json` in {picked} has another {name} .* Give the run that"
        ):
            retrain_folder(folder, picked, shown=QUIET)
    assert weights_of(picked) == before


def test_your_own_network_is_told_beside_it(folder: Path, picked: Path, capsys):
    own = shutil.copytree(folder / "models/macs-60", folder / "models/base")  # one that is trained and tested
    retrain_folder(folder, picked)
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.endswith(f", your own network {metrics_of(own)['test_accuracy']:.2%}")


def test_the_command_tells_and_says_how_to_go_on(folder: Path, tmp_path: Path, capsys, monkeypatch):
    place = tmp_path / "mine"
    assert main(["pick", str(folder), "--budget", "macs<=80%", "--extract", str(place)]) == 0
    command = capsys.readouterr().out.splitlines()[-1].rpartition(": ")[2]
    assert command == f"autoslim retrain {folder} {place}"
    args = command.split()[1:]
    monkeypatch.setattr(Checkpoints, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(args) == 130
    assert capsys.readouterr().err == f"autoslim: stopped; go on with {command}\n"
    monkeypatch.undo()
    assert main(args) == 0
    lines, metrics = capsys.readouterr().out.splitlines(), metrics_of(place)
    job = reopen_job(folder, shown=QUIET)
    widths = Widths.from_json(json.loads((place / "widths.json").read_text()))
    share = job.costs["macs"](widths) / job.base["macs"]
    assert lines[-1].startswith(f"test      {place}: {metrics['test_accuracy']:.2%} at ")
    assert lines[-1].endswith(f"k MACs ({share:.1%})")
    assert lines[-2].startswith(f"retrain   picked/mine-{widths.digest}: 2 epochs, loss ")
    assert main([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**metrics, "folder": str(place)}
    assert main([*args, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["export", str(place), "--images", str(folder), "--to", "state-dict"]) == 0


@pytest.mark.faults
@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again_leaves_the_same_network(tmp_path: Path):
    """By SIGKILL, soon after each checkpoint."""
    made, picked, kills = tmp_path / "run", tmp_path / "picked", 0
    options = [
        "--epochs-supernet",
        "1",
        "--epochs-retrain",
        "6",
        "--checkpoint-minutes",
        "0.001",
        "--baselines",
        "none",
    ]
    program = [sys.executable, "-m", "autoslim"]
    command = [*program, "retrain", str(made), str(picked)]

    def seen() -> set[str]:
        return {path.name for path in (made / "checkpoints").rglob("step-*")}

    with (tmp_path / "log").open("w") as log:
        start = {"stdout": log, "stderr": subprocess.STDOUT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
        for args in (
            ["run", "digits", *options, "--budget", BUDGET, "--out", str(made)],
            ["pick", str(made), "--budget", BUDGET, "--extract", str(picked)],
        ):
            subprocess.run([*program, *args], **start, check=True)
        while kills < 5:
            process, before = subprocess.Popen(command, **start), seen()
            while process.poll() is None and not seen() - before:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                break
            kills += 1
        assert subprocess.run(command, **start, check=False).returncode == 0
    assert kills == 5
    assert (tmp_path / "log").read_text().count("goes on after step") == kills
    assert weights_of(picked) == weights_of(made / "models" / "macs-60")
    assert metrics_of(picked)["test_accuracy"] == metrics_of(made / "models" / "macs-60")["test_accuracy"]
