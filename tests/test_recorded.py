"""Passes that can't be recorded are refused with what to do; the rest of it needs a GPU, see test_gpu.py."""

import json
import os
import random
import re
import signal
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from autoslim.checkpoint import Checkpoints
from autoslim.data import load_data, make_loader
from autoslim.errors import DataError, TrainingError
from autoslim.pipeline import RunConfig, resume, run
from autoslim.progress import Shown
from autoslim.train import TrainConfig
from autoslim.train._recorded import Recorded, look


class Habits(nn.Module):
    """What its forward does beside running its layers is `habit`."""

    def __init__(self, habit=None):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.register_buffer("mean", torch.zeros(1))
        self.habit, self.steps = habit, 0

    def forward(self, x):
        if self.habit is not None:
            self.habit(self)
        return self.layers(x)


def put_anew(model):
    model.mean = 0.5 * model.mean + 1


def count(model):
    model.steps += 1


HABITS = [
    (put_anew, r"the tensor that is its buffer `mean`"),
    (lambda model: random.random(), "Python's random state"),
    (lambda model: np.random.rand(), "numpy's random state"),
    (lambda model: torch.rand(1), "torch's random state on the processor"),
    (count, "the number `steps`"),
]


@pytest.fixture
def recorder(monkeypatch):
    """Records on the processor, which does what it is told; gives the options of the recording."""
    options = {}

    @contextmanager
    def record(graph, **given):
        options.update(given)
        yield

    monkeypatch.setattr("torch.cuda.CUDAGraph", object)
    monkeypatch.setattr("torch.cuda.Stream", object)
    monkeypatch.setattr("torch.cuda.current_stream", lambda: "main")
    monkeypatch.setattr("torch.cuda.set_stream", lambda stream: options.update(left=stream))
    monkeypatch.setattr("torch.cuda.graph", record)
    return options


def record(model):
    batch = torch.arange(96.0).reshape(2, 3, 4, 4), torch.zeros(2)

    def passes(batch, share):
        loss = model(batch[0]).sum() * share
        loss.backward()
        return loss.detach().reshape(1)

    return Recorded(model, passes)._record(batch, 1.0)


@pytest.mark.parametrize(("habit", "told"), HABITS)
def test_what_a_replay_would_not_do_is_refused(recorder, habit, told):
    text = rf"cuda_graph: the passes of this network change {told}, .* Drop --cuda-graph; .* \"cuda_graph\": false into"
    with pytest.raises(TrainingError, match=text):
        record(Habits(habit))


def test_what_is_written_in_place_is_recorded_and_other_threads_may_work_meanwhile(recorder):
    model = Habits(lambda model: model.mean.mul_(0.5).add_(1))
    before = look(model)
    record(model)
    assert look(model) == before
    assert recorder.pop("stream") is not None
    assert recorder == {"capture_error_mode": "thread_local"}


@contextmanager
def fail_at_the_end(graph, **given):
    try:
        yield
    finally:
        raise RuntimeError("operation failed due to a previous error during capture")


def test_the_first_error_of_a_recording_is_told_and_its_stream_left(recorder, monkeypatch):
    """Its end fails, too, and has less to say."""

    def wait(model):
        raise RuntimeError("Cannot copy between CPU and CUDA tensors during capture")

    monkeypatch.setattr("torch.cuda.graph", fail_at_the_end)
    with pytest.raises(TrainingError, match=r"can't be recorded: .*Cannot copy between CPU and CUDA tensors"):
        record(Habits(wait))
    assert recorder == {"left": "main"}


@pytest.mark.parametrize("end", ["well", "badly"])
def test_a_full_gpu_is_not_told_as_code_that_waits_for_it(recorder, monkeypatch, end):
    if end == "badly":
        monkeypatch.setattr("torch.cuda.graph", fail_at_the_end)

    def fill(model):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(torch.OutOfMemoryError):
        record(Habits(fill))


def test_advice_for_a_run_that_has_begun_is_taken_by_its_resume(recorder, tmp_path, monkeypatch):
    """Both errors name what to write into run.json; a training goes on with it from its checkpoint."""

    def fail(model):
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(TrainingError, match="can't be recorded: RuntimeError: operation not permitted") as graph:
        record(Habits(fail))
    data = load_data("digits", limit=40)
    loader = make_loader(data.train, 4, data.mean, data.std, "mobile", workers=2)
    monkeypatch.setattr("autoslim.data._encoded.decode_image", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(DataError, match="A process that decodes images died") as worker:
        next(loader.epoch(0))
    monkeypatch.undo()
    found = [re.search(r"write (\".*?) into its run\.json", str(error.value)) for error in (graph, worker)]
    assert [each[1] for each in found] == ['"cuda_graph": false', '"workers": 1']

    train = TrainConfig(epochs_supernet=2, batch_size=512, cuda_graph=True)
    config = RunConfig(model="zoo:resnet_digits?width=8", data="digits", retrain="none", search_images=20, workers=2)
    save = Checkpoints.save

    def stop(self, step, state):
        save(self, step, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stop)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(replace(config, budget=("macs<=90%",), out=str(out), train=train), shown=Shown(quiet=True))
    monkeypatch.undo()
    saved = json.loads((out / "run.json").read_text())
    assert (saved["config"]["train"].pop("cuda_graph"), saved["config"].pop("workers")) == (True, 2)
    saved["config"]["train"] |= json.loads(f"{{{found[0][1]}}}")
    saved["config"] |= json.loads(f"{{{found[1][1]}}}")
    (out / "run.json").write_text(json.dumps(saved))
    told = []
    monkeypatch.setattr(Shown, "line", lambda self, text: told.append(text))
    resume(out, shown=Shown(quiet=True))
    assert any("supernet: goes on after step" in line for line in told)
