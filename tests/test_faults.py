"""A run that is killed at any moment, and resumed, ends in the files of one that was left alone."""

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.faults, pytest.mark.slow]

KILLS = 20
OPTIONS = ["--epochs-supernet", "3", "--epochs-retrain", "2", "--checkpoint-minutes", "0.002", "--ema", "0.9"]
OPTIONS += ["--budget", "macs<=50%", "--budget", "macs<=30%"]


def start(*args, log, **options):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "autoslim", *args]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, **options)


def results(folder):
    """All that must be the same, bit for bit, by name; times apart."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors" or path.name in ("search.jsonl", "widths.json", "metrics.json", "graph.json"):
            found[name] = path.read_bytes()
        elif path.name in ("training.json", "summary.json"):
            data = json.loads(path.read_text())
            found[name] = {key: value for key, value in data.items() if key not in ("seconds", "command")}
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was left alone."""
    folder = tmp_path_factory.mktemp("faults")
    with (folder / "log").open("w") as log:
        assert start("run", "digits", *OPTIONS, "--out", str(folder / "whole"), log=log).wait() == 0
    return folder / "whole"


def progress(folder):
    """How far a run is: the stage's file that was written last, and the checkpoint. Metrics come with every step."""
    files = [(0.0, "nothing")]
    for path in (path for path in folder.rglob("[!.]*") if "metrics" not in path.parts):
        with contextlib.suppress(FileNotFoundError):  # it may go at any moment
            files += [(path.stat().st_mtime_ns, str(path.relative_to(folder)))] if path.is_file() else []
    return max(files)[1]


def test_twenty_kills_over_all_stages_leave_the_same_results(whole, tmp_path):
    killed, rng, at = tmp_path / "killed", random.Random(0), list[str]()
    with (tmp_path / "log").open("w") as log:
        args = ["run", "digits", *OPTIONS, "--out", str(killed)]
        while len(at) < KILLS:
            process, wait, seen = start(*args, log=log), rng.randint(1, 5), {progress(killed)}
            while process.poll() is None and len(seen) <= wait:  # until it has got on from where it stood
                seen.add(progress(killed))
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                break
            at.append(progress(killed))
            args = ["run", "--resume", str(killed)]
        assert start("run", "--resume", str(killed), log=log).wait() == 0
    stages = {tuple(name.split("/")[:2]) for name in at}
    assert len(at) >= 0.75 * KILLS, at
    assert len(stages) >= 4, at
    ours, theirs = results(killed), results(whole)
    assert set(ours) == set(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert not (killed / "checkpoints").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(whole, tmp_path, number, code):
    folder = tmp_path / "run"
    options = [option if option != "0.002" else "60" for option in OPTIONS]
    with (tmp_path / "log").open("w") as log:
        process = start("run", "digits", *options, "--out", str(folder), log=log)
        while not (folder / "checkpoints").exists():  # the first epoch has ended
            time.sleep(0.01)
        time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(timeout=60) == code
        assert f"autoslim: stopped; go on with autoslim run --resume {folder}" in (tmp_path / "log").read_text()
        assert start("run", "--resume", str(folder), log=log).wait() == 0
    assert "resume    supernet: goes on after step" in (tmp_path / "log").read_text()
    ours, theirs = results(folder), results(whole)
    assert [name for name in theirs if ours[name] != theirs[name]] == []


def test_a_disk_that_is_full_stops_nothing_but_the_checkpoint(tmp_path):
    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))  # checkpoints of 600 kB don't fit, results do
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    folder = tmp_path / "run"
    options = ["--epochs-supernet", "1", "--retrain", "none", "--budget", "macs<=50%", "--out", str(folder)]
    with (tmp_path / "log").open("w") as log:
        start("run", "digits", *options, log=log, preexec_fn=fill).wait()
    told = (tmp_path / "log").read_text()
    assert "No checkpoint could be written at step" in told
    assert "File too large" in told
    assert (folder / "supernet.safetensors").exists()
    assert not list(folder.rglob(".*.part"))
    assert (folder / "report.html").exists()
    assert "Traceback" not in told


def test_a_run_with_workers_that_decode_images_goes_on_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 10)):
        for label, name in enumerate(("dark", "light")):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 128, (24, 24, 3)) + 127 * label
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / part / name / f"{number}.jpg")
    options = ["--data", f"folder:{tmp_path}/images", "--model", "zoo:resnet_digits?width=8", "--input", "3,24,24"]
    options += ["--augment", "randaugment", "--workers", "2", "--batch-size", "8", "--checkpoint-minutes", "0.001"]
    options += ["--epochs-supernet", "6", "--epochs-retrain", "2", "--budget", "macs<=60%", "--baselines", "none"]
    whole, killed, kills = tmp_path / "whole", tmp_path / "killed", 0
    with (tmp_path / "log").open("w") as log:
        assert start("run", "digits", *options, "--out", str(whole), log=log).wait() == 0
        process = start("run", "digits", *options, "--out", str(killed), log=log)
        while kills < 6 and process.poll() is None:
            before = progress(killed)
            while process.poll() is None and progress(killed) == before:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            process = start("run", "--resume", str(killed), log=log)
        assert process.wait() == 0
    assert kills == 6
    assert (tmp_path / "log").read_text().count("goes on after step") >= 2
    ours, theirs = results(killed), results(whole)
    assert [name for name in theirs if ours[name] != theirs[name]] == []


def test_a_killed_rank_ends_the_others_within_a_minute(tmp_path):
    folder = tmp_path / "run"
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "autoslim", "run", "digits"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", *launch, "--epochs-supernet", "200", "--out", str(folder)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
        while not (folder / "checkpoints").exists():
            time.sleep(0.05)
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
        started = time.monotonic()
        assert process.wait(timeout=60) != 0
        assert time.monotonic() - started < 60
    told = (tmp_path / "log").read_text()
    assert "Signal 9 (SIGKILL)" in told
    assert "of 2 has lost the others" in told
    assert "autoslim run --resume DIR" in told
    assert not (folder / "supernet.safetensors").exists()
    assert (folder / "run.json").exists()
