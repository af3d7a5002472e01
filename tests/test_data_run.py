"""Whole runs on datasets given in Python and on shards: their splits are kept, their search images decoded."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from autoslim.data import Encoded, Split, load_data
from autoslim.errors import ConfigError, DataError, RunFolderError
from autoslim.pick import extract_picked, pick_network
from autoslim.pipeline import RunConfig, read_config, reopen_job, resume, run, search_again
from autoslim.pipeline._batches import ordered_batches
from autoslim.pipeline._splits import FILE, check_splits, list_splits, write_splits
from autoslim.progress import Shown
from autoslim.ranks import Ranks
from autoslim.retrain import retrain_folder
from autoslim.train import TrainConfig

QUIET = Shown(quiet=True)


def config_of(out: Path, **options: Any) -> RunConfig:
    train = {"epochs_supernet": 1, "epochs_retrain": 1, "batch_size": 32, **options.pop("train", {})}
    settings: dict[str, Any] = {"model": "zoo:resnet_digits?width=8", "data": "digits", "budget": ("macs<=80%",)}
    settings |= {"out": str(out), "baselines": "none", "workers": 0, **options}
    return RunConfig(**settings, train=TrainConfig(**train))


@pytest.fixture(scope="module")
def given() -> tuple[Dataset[Any], Dataset[Any]]:
    digits = load_data("digits", limit=200)
    train, test = (TensorDataset(part.images, part.labels) for part in (digits.train, digits.test))
    return train, test


@pytest.fixture(scope="module")
def done(given: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on given datasets, with mixed and erased images."""
    mixed = {"augment": "mobile", "mixup": 0.2, "cutmix": 1.0, "erase": 0.25}
    return run(config_of(tmp_path_factory.mktemp("given") / "run", train=mixed), data=given, shown=QUIET)


@pytest.fixture
def stopped(done: Path, tmp_path: Path) -> Path:
    """The same run, as if it had been stopped before its last stage."""
    folder = shutil.copytree(done, tmp_path / "run")
    (folder / "summary.json").unlink()
    return folder


def test_a_run_on_given_datasets_goes_on_with_them(done: Path, stopped: Path, given: Any):
    train, test = given
    resume(stopped, data=(train, DataLoader(test, batch_size=3)), shown=QUIET)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (done, stopped)]
    assert summaries[0]["data"] == summaries[1]["data"] == "python"
    assert summaries[0]["budgets"] == summaries[1]["budgets"]
    config = replace(read_config(done), budget=("macs<=90%",))
    assert search_again(done, config, data=given, shown=QUIET)["found"]


def test_what_was_found_on_given_datasets_is_picked_and_trained_with_them(stopped: Path, given: Any, tmp_path: Path):
    picked = pick_network(stopped, "macs<=90%", data=given)
    folder = extract_picked(stopped, picked, tmp_path / "picked", data=given)
    assert retrain_folder(stopped, folder, data=given, shown=QUIET)["retrained"]
    with pytest.raises(DataError, match="were given in Python; expected them once more"):
        extract_picked(stopped, picked, tmp_path / "other")


def test_a_run_on_given_datasets_asks_for_them(stopped: Path):
    with pytest.raises(DataError, match=r"were given in Python; expected them once more.*resume\(folder, data="):
        resume(stopped, shown=QUIET)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda x, y: (x, y.roll(1)), r"image \d+ of train is number \d+ of the source with label \d, and was number"),
        (lambda x, y: (x[1:], y[1:]), r"(train|search) has \d+ images, and had \d+"),
        (lambda x, y: (255 - x, y), "some images of train have other contents"),
    ],
)
def test_changed_datasets_are_refused_with_the_difference(stopped: Path, given: Any, change: Any, text: str):
    train, test = given
    with pytest.raises(RunFolderError, match=f"The images are not those.*{text}.*Restore the data, or start a new run"):
        resume(stopped, data=(TensorDataset(*change(*train.tensors)), test), shown=QUIET)


def write_shards(root: Path, count: int, side: int) -> Path:
    draw = np.random.default_rng(0)
    root.mkdir()
    with tarfile.open(root / "train-0.tar", "w") as tar:
        for number in range(count):
            buffer = io.BytesIO()
            Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "JPEG")
            for suffix, content in (("jpg", buffer.getvalue()), ("cls", b"%d" % (number % 2))):
                info = tarfile.TarInfo(f"{number:04}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return root


def test_a_run_on_shards_keeps_its_search_images_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shards = write_shards(tmp_path / "shards", 120, 20)
    options: dict[str, Any] = {"data": f"webdataset:{shards}", "input": "3,16,16", "train": {"augment": "imagenet"}}
    told: list[str] = []
    monkeypatch.setattr(Shown, "line", lambda self, text: told.append(text))
    folder = run(config_of(tmp_path / "run", **options), shown=QUIET)
    assert "data      10 search images, 0.0 MiB decoded, are kept in memory" in told
    job = reopen_job(folder, shown=QUIET)
    assert isinstance(job.judges, Encoded)
    (x, y), *rest = job.batches(job.judges, kept=True)
    (u, v), *others = job.batches(job.judges)
    assert not rest
    assert not others
    assert torch.equal(x, u)
    assert torch.equal(y, v)
    with np.load(folder / FILE) as saved:
        rows = np.concatenate([saved[name][0] for name in ("train", "search", "test")])
    assert sorted(rows.tolist()) == list(range(120))


def test_each_process_keeps_its_own_search_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("autoslim.pipeline._batches._EVAL_BATCH", 8)
    shards = write_shards(tmp_path / "shards", 40, 6)
    data = load_data(f"webdataset:{shards}", input_shape=(3, 4, 4), whole=True)
    options: dict[str, Any] = {"device": torch.device("cpu"), "workers": 0}
    whole = list(ordered_batches(data, data.train, ranks=Ranks(), **options))
    assert [len(y) for _, y in whole] == [8, 8, 8, 8]
    kept = [ordered_batches(data, data.train, ranks=Ranks(rank, 3), kept=True, **options) for rank in range(3)]
    assert [len(each.loader.split) for each in kept] == [16, 8, 8]
    assert all(isinstance(each.loader.split, Split) for each in kept)
    for rank, each in enumerate(kept):
        for (x, y), (u, v) in zip(each, whole[rank::3], strict=True):
            assert torch.equal(x, u)
            assert torch.equal(y, v)
    few = ordered_batches(data, data.train, ranks=Ranks(4, 5), kept=True, **options)
    assert list(few) == []


def test_a_split_file_is_written_once_and_refused_when_it_is_broken(tmp_path: Path):
    data = load_data("digits", limit=40)
    splits = list_splits(train=data.train, test=data.test)
    write_splits(tmp_path, splits)
    written = (tmp_path / FILE).read_bytes()
    check_splits(tmp_path, splits)
    write_splits(tmp_path, list_splits(train=data.test, test=data.train))
    assert (tmp_path / FILE).read_bytes() == written
    for broken in (written[:50], b"", b"\x80\x04."):
        (tmp_path / FILE).write_bytes(broken)
        with pytest.raises(RunFolderError, match=r"`splits\.npz` in .* can't be read"):
            check_splits(tmp_path, splits)


def test_processes_that_see_different_images_are_stopped(monkeypatch: pytest.MonkeyPatch):
    data = load_data("digits", limit=40)
    monkeypatch.setattr(Ranks, "gather", lambda self, value: [value, value, "other"])
    with pytest.raises(DataError, match=r"process 2 has others than process 0\. Expected the same on all machines"):
        list_splits(train=data.train)


def test_workers_share_the_cores_of_a_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(12)), raising=False)
    assert config_of(tmp_path, workers=-1).num_workers == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert config_of(tmp_path, workers=-1).num_workers == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "24")
    assert config_of(tmp_path, workers=-1).num_workers == 1
    assert config_of(tmp_path, workers=0).num_workers == 0
    with pytest.raises(ConfigError, match=r"RunConfig\.workers is -2; expected 0 or more, or -1"):
        config_of(tmp_path, workers=-2)


@pytest.mark.parametrize(("name", "value"), [("mixup", -0.1), ("cutmix", float("nan")), ("erase", 1.0)])
def test_settings_of_augmentation_that_are_none(name: str, value: float):
    with pytest.raises(ConfigError, match=f"TrainConfig.{name} is {value}; expected 0 or more"):
        TrainConfig(**{name: value})


@pytest.mark.slow
def test_the_benchmark_measures_every_row(tmp_path: Path):
    script, out = Path(__file__).resolve().parents[1] / "benchmarks" / "data.py", tmp_path / "data.json"
    command = [
        sys.executable,
        str(script),
        "--images",
        "40",
        "--steps",
        "1",
        "--networks",
        "cifar10",
        "--out",
        str(out),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=500)
    result = json.loads(out.read_text())
    assert 80_000 < result["imagenet"]["jpeg"]["mean_bytes"] < 140_000
    rows = result["imagenet"]["rows"]
    assert [row["augment"].split()[0] for row in rows[::3]] == ["none", "imagenet", "mobile", "randaugment"]
    assert [row["workers"] for row in rows] == 4 * [0, 1, 2]
    assert all(row["images"] == 32 and row["per_processor_second"] > 0 and not row["in_memory"] for row in rows)
    assert [(row["in_memory"], row["images"]) for row in result["cifar10"]] == 4 * [(True, 1200)]
    assert [row["recipe"] for row in result["steps"]] == ["cifar10"]


@pytest.mark.faults
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_killed_in_an_epoch_ends_in_the_same_weights(tmp_path: Path, workers: int):
    shards = write_shards(tmp_path / "shards", 200, 20)
    options = ["--data", f"webdataset:{shards}", "--input", "3,16,16", "--model", "zoo:resnet_digits?width=8"]
    options += ["--augment", "randaugment", "--mixup", "0.2", "--cutmix", "1", "--erase", "0.25", "--baselines", "none"]
    options += ["--budget", "macs<=80%", "--batch-size", "8", "--epochs-supernet", "2", "--epochs-retrain", "2"]
    options += ["--checkpoint-minutes", "0", "--workers", str(workers)]
    command = [sys.executable, "-m", "autoslim", "run"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "digits", *options, "--out", str(whole)], check=True, capture_output=True, timeout=500)
    process = subprocess.Popen([*command, "digits", *options, "--out", str(killed)], stdout=subprocess.DEVNULL)
    kills = 0
    for least in (5, 23, 60):  # steps, of 36 of the supernet and 40 of the retraining
        while process.poll() is None and _steps(killed) < least:
            time.sleep(0.002)
        process.kill()
        kills += process.wait() < 0
        process = subprocess.Popen([*command, "--resume", str(killed)], stdout=subprocess.DEVNULL)
    assert process.wait(500) == 0
    assert kills >= 2
    for name in ("supernet.safetensors", "models/macs-80/model.safetensors", "search.jsonl"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()


@pytest.mark.faults
def test_a_signal_to_the_whole_process_group_leaves_a_checkpoint(tmp_path: Path):
    """As torchrun, timeout and Slurm send it: to the processes that decode, too."""
    shards, folder = write_shards(tmp_path / "shards", 100, 600), tmp_path / "run"
    options = ["--data", f"webdataset:{shards}", "--input", "3,16,16", "--model", "zoo:resnet_digits?width=8"]
    options += ["--augment", "randaugment", "--batch-size", "40", "--epochs-supernet", "200", "--retrain", "none"]
    options += ["--budget", "macs<=80%", "--checkpoint-minutes", "60", "--workers", "1", "--out", str(folder)]
    command = [sys.executable, "-m", "autoslim", "run", "digits", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and not _steps(folder):  # the first epoch has ended
        time.sleep(0.01)
    time.sleep(0.3)  # the next one waits for its first batch
    os.killpg(process.pid, signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 143, told
    assert told == f"autoslim: stopped; go on with autoslim run --resume {folder}\n"
    with pytest.raises(ProcessLookupError):  # no worker is left
        os.killpg(process.pid, 0)


LEFT = """
import multiprocessing, subprocess
from autoslim.data import load_data, make_loader

data = load_data("digits", limit=40)
loader = make_loader(data.train, 1, data.mean, data.std, "mobile", workers=2)
batches = loader.epoch(0)
seen = len(next(batches)[0])
subprocess.run(["kill", "-TERM", *[str(each.pid) for each in multiprocessing.active_children()]], check=True)
print(seen + sum(len(x) for x, _ in batches) == len(data.train))
batches = loader.epoch(1)
next(batches)
"""


def test_workers_hear_their_parent_alone(tmp_path: Path):
    """Nobody else ends them; those of a script that ends in the middle of an epoch end with it."""
    (tmp_path / "left.py").write_text(LEFT)
    told = subprocess.run([sys.executable, tmp_path / "left.py"], capture_output=True, text=True, timeout=60)
    assert (told.stdout, told.stderr, told.returncode) == ("True\n", "", 0)


def _steps(folder: Path) -> int:
    """Steps taken so far, by the checkpoints that are there; those of the retraining count from 36."""
    if (folder / "supernet.safetensors").exists():
        return 36 + _last(folder / "checkpoints" / "models-macs-80")
    return _last(folder / "checkpoints" / "supernet")


def _last(folder: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in folder.glob("step-*")), default=0)
