"""Figures of a training reach TensorBoard and CSV files, survive a resume, and are given up on a full disk."""

import errno
import json
import sys
import types
from dataclasses import replace

import pytest

from autoslim.errors import ConfigError
from autoslim.pipeline import RunConfig, run
from autoslim.pipeline._track import check_tracker, open_tracker
from autoslim.progress import Shown
from autoslim.train import TrainConfig

VALUES = {"loss": 1.5, "learning_rate": 0.1, "images_per_second": 900.0}


def read_events(folder):
    """All events below a folder, in the order they were written, as TensorBoard reads them."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    events = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            record, check = data[12 : 12 + length], data[12 + length : 16 + length]
            assert int.from_bytes(check, "little") == masked_crc32c(record)
            events.append(Event.FromString(record))
            data = data[16 + length :]
    return events


def track(name, folder, steps, told, restart=None):
    with open_tracker(name, folder, "models/base", told.append) as tracker:
        if restart is not None:
            tracker.restart(restart)
        for step in steps:
            tracker.write(step, {**VALUES, "loss": float(step)})


def test_tensorboard_files_hold_every_step_and_what_a_resume_undid(tmp_path):
    told = []
    track("tensorboard", tmp_path, range(4), told)
    track("tensorboard", tmp_path, range(2, 5), told, restart=2)
    events = read_events(tmp_path / "metrics" / "models" / "base")
    assert events[0].file_version == "brain.Event:2"
    losses = [(event.step, event.summary.value[0].simple_value) for event in events if event.HasField("summary")]
    assert losses == [(step, step) for step in (0, 1, 2, 3, 2, 3, 4)]
    assert [value.tag for value in events[1].summary.value] == list(VALUES)
    (again,) = [event for event in events if event.HasField("session_log")]
    assert (again.step, again.session_log.status) == (2, again.session_log.START)
    assert told == []


def test_a_csv_file_holds_each_step_once(tmp_path):
    told = []
    track("csv", tmp_path, range(4), told)
    path = tmp_path / "metrics" / "models" / "base" / "steps.csv"
    path.write_text(path.read_text() + "4,1.0,0")  # torn by a kill
    track("csv", tmp_path, range(2, 5), told, restart=2)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    assert lines[0] == ["step", *VALUES]
    assert [(int(step), float(loss)) for step, loss, *_ in lines[1:]] == [(step, step) for step in range(5)]


@pytest.mark.parametrize("name", ["tensorboard", "csv"])
def test_a_full_disk_ends_the_figures_and_nothing_else(name, tmp_path, monkeypatch):
    def full(self, *args):
        raise OSError(errno.ENOSPC, "No space left on device")

    from autoslim.pipeline import _track

    told = []
    monkeypatch.setattr(_track.TensorBoardFile, "write", full)
    monkeypatch.setattr(_track.CsvFile, "_flush", full)
    with open_tracker(name, tmp_path, "supernet", told.append) as tracker:
        for step in range(3):
            if tracker is not None:
                tracker.write(step, VALUES)
    assert told == ["metrics   can't be written: [Errno 28] No space left on device; this training goes on without"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_services_get_the_figures_through_lightnings_loggers(name, tmp_path, monkeypatch):
    calls = []

    class Logger:
        def __init__(self, **options):
            calls.append(options)
            self.experiment = types.SimpleNamespace(finish=lambda: calls.append("finish"))

        def log_metrics(self, values, step):
            calls.append((step, values))

        def finalize(self, status):
            calls.append(status)

    module = types.ModuleType("pytorch_lightning.loggers")
    module.WandbLogger = module.MLFlowLogger = Logger
    monkeypatch.setitem(sys.modules, "pytorch_lightning.loggers", module)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
    with open_tracker(name, tmp_path / "run1", "supernet", calls.append) as tracker:
        tracker.write(7, VALUES)
    assert "run1: supernet" in calls[0].values()
    assert calls[1:] == [(7, VALUES), "success", *(["finish"] if name == "wandb" else [])]


@pytest.mark.parametrize("broken", ["start", "write"])
def test_a_service_that_fails_ends_the_figures_and_nothing_else(broken, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("nobody is logged in")

    logger = types.SimpleNamespace(log_metrics=fail, finalize=fail)
    module = types.ModuleType("pytorch_lightning.loggers")
    module.WandbLogger = fail if broken == "start" else lambda **options: logger
    monkeypatch.setitem(sys.modules, "pytorch_lightning.loggers", module)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
    told = []
    with open_tracker("wandb", tmp_path, "supernet", told.append) as tracker:
        for step in range(2):
            if tracker is not None:
                tracker.write(step, VALUES)
    assert told == ["metrics   can't be written: nobody is logged in; this training goes on without"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_told_before_anything_else(name, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    config = RunConfig(model="zoo:resnet_digits", data="hf:not-even-looked-at", tracker=name, out=str(tmp_path / "x"))
    told = rf"which needs {name} and pytorch_lightning: not installed here.* with pip install .*\"{name}(-skinny)?>="
    with pytest.raises(ConfigError, match=told):
        run(config, shown=Shown(quiet=True))
    assert not (tmp_path / "x").exists()
    check_tracker("tensorboard")


def test_float16_is_refused_where_it_can_not_be_had(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    train = TrainConfig(precision="16-mixed")
    config = RunConfig(model="zoo:resnet_digits", data="digits", train=train, out=str(tmp_path / "x"))
    with pytest.raises(ConfigError, match=r'precision is "16-mixed", but there is no GPU here'):
        run(config, shown=Shown(quiet=True))
    assert not (tmp_path / "x").exists()


def test_what_a_run_learns_does_not_depend_on_its_tracker(tmp_path):
    config = RunConfig(
        model="zoo:resnet_digits?width=8", data="digits", budget=("macs<=90%",), search_images=20, baselines="none",
        train=TrainConfig(epochs_supernet=1, epochs_retrain=1, batch_size=256),
    )  # fmt: skip
    left = []
    for name in ("tensorboard", "csv"):
        folder = run(replace(config, tracker=name, out=str(tmp_path / name)), shown=Shown(quiet=True))
        files = [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".jsonl")]
        left.append({p.relative_to(folder): p.read_bytes() for p in files if p.name != "times.jsonl"})
    assert left[0] == left[1]
    budget = json.loads((tmp_path / "csv" / "summary.json").read_text())["budgets"][0]["folder"]
    rows = (tmp_path / "csv" / "metrics" / budget / "steps.csv").read_text().splitlines()
    events = read_events(tmp_path / "tensorboard" / "metrics" / budget)
    assert [event.step for event in events if event.HasField("summary")] == [int(row.split(",")[0]) for row in rows[1:]]
