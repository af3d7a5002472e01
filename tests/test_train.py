"""One sandwich step equals the same step written by hand in plain PyTorch; the recipe's parts do what they say."""

import copy
import math
import random
import signal
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from autoslim import Supernet, extract_network, trace_channels
from autoslim.checkpoint import Checkpoints, State
from autoslim.errors import ConfigError, RunFolderError, TrainingError
from autoslim.pipeline import RunConfig
from autoslim.ranks import Ranks
from autoslim.saved import load_tensors_, save_tensors
from autoslim.tasks import TASKS
from autoslim.testing.random_cnn import RandomCNN
from autoslim.train import (
    TrainConfig,
    learning_rate,
    parameter_groups,
    sandwich_step,
    train_network,
    train_supernet,
)
from autoslim.train._loop import _lerp_all_

TASK = TASKS["classification"]


class Runtime:
    """What a step needs of Lightning Fabric, without it."""

    device = torch.device("cpu")

    def autocast(self):
        return torch.autocast("cpu", enabled=False)

    def backward(self, tensor):
        tensor.backward()


class Batches:
    """The same few batches in every epoch."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def epoch(self, number, start=0):
        return iter(self.batches[start:])


@pytest.fixture
def net():
    model = RandomCNN([("inverted", 8), ("concat", 9), ("grouped", 6)], seed=1).double()
    return Supernet(model, trace_channels(model, torch.zeros(1, 3, 6, 6, dtype=torch.float64))).train()


def batch(seed=0, n=8):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, 6, 6, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 5, (n,), generator=generator)


def test_a_sandwich_step_equals_one_by_hand(net):
    x, y = batch()
    graph, by_hand = net.graph, copy.deepcopy(net.model)
    expected_statistics = copy.deepcopy(net.model).train()
    loss = sum(sandwich_step(net, (x, y), task=TASK, seed=5, subnets=2, smoothing=0.1).tolist())

    wide = by_hand(x)
    taught = functional.softmax(wide.detach().float(), 1)
    total = functional.cross_entropy(wide.float(), y, label_smoothing=0.1)
    total.backward()
    gradients = {name: p.grad.clone() for name, p in by_hand.named_parameters()}
    for widths in (graph.min_widths(), graph.random_widths(5 * 64), graph.random_widths(5 * 64 + 1)):
        small = extract_network(net.model, graph, widths).train()
        part = -(taught * functional.log_softmax(small(x).float(), 1)).sum(1).mean()
        part.backward()
        total = total.detach() + part.detach()
        for name, p in small.named_parameters():
            kept = graph.selection(widths).get(name, {})
            mesh = torch.meshgrid(
                *[kept.get(d, torch.arange(s)) for d, s in enumerate(gradients[name].shape)], indexing="ij"
            )
            gradients[name][mesh] += p.grad
    assert loss == pytest.approx(float(total), rel=1e-6)
    for name, p in net.model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-6, atol=1e-8)
    expected_statistics(x)
    for (name, ours), theirs in zip(net.model.named_buffers(), expected_statistics.buffers(), strict=True):
        assert torch.equal(ours, theirs), name  # only the widest pass has written running statistics


def test_the_widest_is_not_taught(net):
    x, y = batch()
    sandwich_step(net, (x, y), task=TASK, seed=0, subnets=0)
    alone = extract_network(net.model, net.graph, net.graph.min_widths())
    free = next(g for g in net.graph.groups if g.frozen is None)
    wide = copy.deepcopy(net.model)
    functional.cross_entropy(wide(x).float(), y).backward()
    name = f"{free.name}.weight"
    outside = slice(alone.get_parameter(name).shape[0], None)
    torch.testing.assert_close(net.model.get_parameter(name).grad[outside], wide.get_parameter(name).grad[outside])


def test_weight_decay_spares_norms_biases_and_depthwise_kernels():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 2))
    decayed, spared = parameter_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0.0
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[3].weight)}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_learning_rate_rises_then_falls_to_nothing(schedule):
    config = TrainConfig(lr=0.4, warmup=0.1, schedule=schedule)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[9] == rates[10] == pytest.approx(0.4)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    half = 0.4 * (1 + math.cos(math.pi * 45 / 90)) / 2 if schedule == "cosine" else 0.4 / 2
    assert rates[55] == pytest.approx(half)
    assert rates[99] < 0.01


def test_training_learns_and_is_repeatable(net):
    config = TrainConfig(epochs_supernet=6, epochs_retrain=6, lr=0.05)
    loader = Batches([batch(seed) for seed in range(4)])
    models = [copy.deepcopy(net) for _ in range(2)]
    seen = []

    def on_step(loss, done):
        seen.append(loss)

    losses = [
        train_supernet(m, loader, config, task=TASK, seed=3, runtime=Runtime(), on_step=on_step).losses for m in models
    ]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    assert len(losses[0]) == 6
    assert len(seen) == 2 * 24
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)
    plain = train_network(
        copy.deepcopy(net.model), loader, config, task=TASK, seed=0, runtime=Runtime(), on_step=on_step
    ).losses
    assert plain[-1] < plain[0]


def stop_at(number):
    def on_step(loss, done):
        if done == number:
            raise KeyboardInterrupt

    return on_step


def pass_by(loss, done):
    pass


def checkpoints_in(folder, told=None, **changes):
    told = [] if told is None else told
    return Checkpoints(folder, {"training": "a", "settings": {"lr": 0.05}, **changes}, tell=told.append)


LOADER = Batches([batch(seed) for seed in range(4)])
CONFIG = TrainConfig(epochs_supernet=3, epochs_retrain=3, lr=0.05, ema=0.9, clip=1.0)
SHARED = {"task": TASK, "seed": 3, "runtime": Runtime()}


def train_both(net, folder, *, on_step=pass_by, told=None):
    """The supernet, then a network alone, each with checkpoints of its own."""
    store = checkpoints_in(folder / "net", told)
    train_supernet(net, LOADER, CONFIG, checkpoints=store, on_step=on_step, **SHARED)
    return alone(net.model, folder, on_step=on_step)


def alone(model, folder, *, on_step=pass_by):
    return train_network(model, LOADER, CONFIG, checkpoints=checkpoints_in(folder / "alone"), on_step=on_step, **SHARED)


def test_a_training_that_is_stopped_anywhere_goes_on_bit_for_bit(tmp_path):
    model = RandomCNN([("inverted", 8), ("concat", 9)], seed=1).double()
    model.head = nn.Sequential(nn.Dropout(0.3), model.head)  # its draws follow from the number of the step
    net = Supernet(model, trace_channels(model, torch.zeros(1, 3, 6, 6, dtype=torch.float64)))
    whole = copy.deepcopy(net)
    expected = train_both(whole, tmp_path / "whole")
    for number in (1, 6, 8, 12):
        folder, told = tmp_path / str(number), []
        with pytest.raises(KeyboardInterrupt):
            train_both(copy.deepcopy(net), folder, on_step=stop_at(number))
        torch.manual_seed(number)  # what is drawn elsewhere does not matter
        again = copy.deepcopy(net)  # a new process has fresh weights
        with pytest.raises(KeyboardInterrupt):
            train_both(again, folder, on_step=stop_at(number), told=told)  # the supernet ends, the network is stopped
        assert told[0].startswith(f"goes on after step {number}")
        assert alone(again.model, folder) == expected
        for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
            assert torch.equal(one, other), name


def test_only_the_last_two_checkpoints_are_kept_and_then_none(net, tmp_path):
    train_both(net, tmp_path)
    names = sorted(path.name[:14] for path in (tmp_path / "net").iterdir())
    assert names == ["step-000000008", "step-000000012"]
    checkpoints_in(tmp_path / "net").remove()
    assert not (tmp_path / "net").exists()
    assert checkpoints_in(tmp_path / "net").load() is None


@pytest.mark.parametrize("damage", ["cut", "bit", "swapped"])
def test_a_damaged_checkpoint_is_known_and_the_one_before_serves(net, tmp_path, damage):
    train_both(net, tmp_path)
    before, last = sorted((tmp_path / "net").iterdir())
    data = bytearray(last.read_bytes())
    if damage == "swapped":
        data = before.read_bytes()
    else:
        data = data[:-1] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1])
    last.write_bytes(data)
    told = []
    state = checkpoints_in(tmp_path / "net", told).load()
    assert state.facts["done"] == 8
    assert len(told) == 2
    assert f"The checkpoint {last} is damaged" in told[0]
    assert told[1].startswith("goes on after step 8")
    before.write_bytes(b"")
    assert checkpoints_in(tmp_path / "net").load() is None  # begins anew


@pytest.mark.parametrize(("field", "value"), [("training", "b"), ("settings", {"lr": 0.1}), ("version", 2)])
def test_a_checkpoint_of_another_training_is_refused_with_the_difference(net, tmp_path, field, value):
    train_both(net, tmp_path)
    with pytest.raises(RunFolderError, match="is of another training") as error:
        checkpoints_in(tmp_path / "net", **{field: value}).load()
    assert f"its {field} is " in str(error.value)
    assert f"expected {value!r}" in str(error.value)


def test_of_another_trainings_settings_those_that_differ_are_told(tmp_path):
    settings = {"lr": 0.05, "clip": 1.0, "warmup": 0.1}
    checkpoints_in(tmp_path, settings=settings).save(1, State({"model/a": torch.ones(3)}, {"done": 1}))
    now = {**settings, "lr": 0.1, "ema": 0.5}
    told = r"its settings is \{'lr': 0.05\}; expected \{'lr': 0.1, 'ema': 0.5\}\. Delete"
    with pytest.raises(RunFolderError, match=told):
        checkpoints_in(tmp_path, settings=now).load()


def test_what_damage_and_kills_left_goes_and_new_checkpoints_stay(tmp_path):
    store, state = checkpoints_in(tmp_path), State({"model/a": torch.ones(3)}, {"done": 1})
    for step in (8, 9):
        store.save(step, state)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    (tmp_path / ".step-000000010-abc.safetensors.part").touch()
    assert store.load() is None
    store.save(1, state)
    assert [path.name[:14] for path in tmp_path.iterdir()] == ["step-000000001"]
    assert store.load().facts == {"done": 1}


def test_a_full_disk_leaves_the_last_good_checkpoint_and_is_told(tmp_path, monkeypatch):
    told = []
    store = checkpoints_in(tmp_path, told)
    state = State({"model/a": torch.ones(3)}, {"done": 1})
    store.save(1, state)

    def fail(path, data):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    store.save(2, state)
    monkeypatch.undo()
    assert [path.name[:14] for path in tmp_path.iterdir()] == ["step-000000001"]
    assert "No space left on device" in told[0]
    assert "step-000000001" in told[0]
    assert store.load().facts == {"done": 1}


def test_steps_that_are_not_finite_change_nothing_and_ten_in_a_row_stop(net, tmp_path):
    x, y = batch()
    bad = (x * float("nan"), y)
    config = TrainConfig(lr=0.2, warmup=0.0, epochs_retrain=2)
    one = copy.deepcopy(net.model)
    with pytest.raises(TrainingError, match="not finite in 6 steps in a row, the last of them step 6 of 6"):
        train_network(one, Batches([bad, bad, bad]), config, on_step=pass_by, **SHARED)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), net.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), net.model.buffers(), strict=True))
    found = train_network(one, Batches([(x, y), bad]), config, on_step=pass_by, **SHARED)
    assert found.skipped == 2
    assert all(value.isfinite().all() for value in one.state_dict().values())
    store = checkpoints_in(tmp_path)
    with pytest.raises(TrainingError) as error:
        train_network(one, Batches([(x, y), *[bad] * 10]), config, checkpoints=store, on_step=pass_by, **SHARED)
    assert "not finite in 10 steps in a row, the last of them step 11 of 22, learning rate" in str(error.value)
    assert "The last checkpoint: none. Try a lower learning rate (--lr 0.05)" in str(error.value)


class Scaled(Runtime):
    """A runtime whose backward passes are scaled, as Fabric's are in 16-mixed precision."""

    def __init__(self, scaler):
        self.scaler = scaler

    def backward(self, tensor):
        self.scaler.scale(tensor).backward()


def test_scaled_losses_train_the_same_and_an_overflow_halves_the_scale(net, tmp_path):
    config, loader = TrainConfig(epochs_retrain=8, lr=0.05, clip=0.5), Batches([batch(seed) for seed in range(3)])
    plain, scaled = copy.deepcopy(net.model), copy.deepcopy(net.model)
    given = {"task": TASK, "seed": 3, "on_step": pass_by}
    train_network(plain, loader, config, runtime=Runtime(), **given)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    train_network(scaled, loader, config, runtime=Scaled(scaler), scaler=scaler, **given)
    for ours, theirs in zip(scaled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)

    def overflowing(**options):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)  # overflows float32 for a while
        small = copy.deepcopy(net.model).float()
        found = train_network(
            small, Batches([(1000 * x.float(), y) for x, y in loader.batches]), config, task=TASK, seed=3,
            runtime=Scaled(scaler), scaler=scaler, **options,
        )  # fmt: skip
        return found, scaler.get_scale()

    whole = overflowing(on_step=pass_by)
    assert 3 < whole[0].skipped < 24  # more than an epoch of them: it is not taken for a failure
    assert whole[1] == 2.0 ** (127 - whole[0].skipped)
    with pytest.raises(KeyboardInterrupt):
        overflowing(on_step=stop_at(whole[0].skipped - 1), checkpoints=checkpoints_in(tmp_path))
    assert overflowing(on_step=pass_by, checkpoints=checkpoints_in(tmp_path)) == whole  # the scale was kept


def test_a_signal_in_the_middle_of_a_step_is_heard_after_it(net, tmp_path):
    loader, stopped = Batches([batch(seed) for seed in range(4)]), copy.deepcopy(net.model)
    whole = copy.deepcopy(net.model)
    expected = train_network(whole, loader, CONFIG, on_step=pass_by, **SHARED)

    class Asked(Runtime):
        passes = 0

        def backward(self, tensor):
            tensor.backward()
            self.passes += 1
            if self.passes == 6:
                signal.raise_signal(signal.SIGINT)
                assert all(p.grad is not None for p in stopped.parameters())

    shared, before = {**SHARED, "runtime": Asked()}, signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_network(stopped, loader, CONFIG, checkpoints=checkpoints_in(tmp_path), on_step=pass_by, **shared)
    assert signal.getsignal(signal.SIGINT) is before
    told = []
    store = checkpoints_in(tmp_path, told)
    assert train_network(stopped, loader, CONFIG, checkpoints=store, on_step=pass_by, **SHARED) == expected
    assert told[0].startswith("goes on after step 6")
    for one, other in zip(stopped.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_signal_after_the_last_step_is_heard(net, tmp_path):
    heard = []

    def on_step(loss, done):
        if done == CONFIG.epochs_retrain * len(LOADER):
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(KeyboardInterrupt):
            train_network(net.model, LOADER, CONFIG, checkpoints=checkpoints_in(tmp_path), on_step=on_step, **SHARED)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]


class Checkpointed(nn.Module):
    """A depthwise layer over a small map that runs once more in the backward pass."""

    def __init__(self):
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)
        self.register_buffer("one", torch.ones(8))
        self.register_buffer("column", self.one.view(8, 1, 1))  # in the same memory

    def forward(self, x):
        x = functional.adaptive_avg_pool2d(self.stem(x) * self.column, 2)
        return self.head(checkpoint(self.depthwise, x, use_reentrant=False).mean((2, 3)))


def test_a_network_that_checkpoints_activations_is_trained(tmp_path):
    images = torch.randn(4, 3, 8, 8)
    loader, model = Batches([(images, torch.tensor([0, 1, 2, 3]))] * 3), Checkpointed()
    before = model.depthwise.weight.detach().clone()
    train_network(model, loader, CONFIG, on_step=pass_by, checkpoints=checkpoints_in(tmp_path), **SHARED)
    assert not torch.equal(model.depthwise.weight, before)
    save_tensors(tmp_path / "model.safetensors", model)
    load_tensors_(tmp_path / "model.safetensors", Checkpointed())


class Recomputed(nn.Module):
    """A block that runs once more in the backward pass, or does not."""

    def __init__(self, how):
        super().__init__()
        self.how, self.stem, self.head = how, nn.Conv2d(3, 8, 1), nn.Linear(8, 5)
        self.block = nn.Sequential(nn.Conv2d(8, 12, 1), nn.ReLU(), nn.Conv2d(12, 8, 1))

    def forward(self, x):
        y = self.stem(x)
        z = self.block(y) if self.how == "plain" else checkpoint(self.block, y, use_reentrant=self.how == "reentrant")
        return self.head((y + z).mean((2, 3)))


@pytest.mark.parametrize("how", ["reentrant", "not"])
def test_sub_networks_that_run_layers_again_have_the_gradients_of_those_that_do_not(how):
    batch, found = (torch.randn(4, 3, 5, 5), torch.tensor([0, 1, 2, 3])), []
    model = Recomputed("plain")
    net = Supernet(model, trace_channels(model, batch[0]))
    for model.how in ("plain", how):
        model.zero_grad()
        sandwich_step(net, batch, task=TASK, seed=0)
        found.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("times", [1, 2])
def test_a_step_is_kept_before_a_signal_ends_the_process(net, tmp_path, times):
    class Asked(Runtime):
        def backward(self, tensor):
            tensor.backward()
            for _ in range(times):  # a job's manager and its launcher may each send one
                signal.raise_signal(signal.SIGTERM)

    store, found = checkpoints_in(tmp_path), []
    before = signal.signal(signal.SIGTERM, lambda number, frame: found.append(store.latest))
    try:
        with pytest.raises(KeyboardInterrupt):
            train_network(
                net.model, LOADER, CONFIG, checkpoints=store, on_step=pass_by, **{**SHARED, "runtime": Asked()}
            )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ["step-000000001" in path for path in found] == [True]


class Odd(nn.Module):
    """Puts another tensor into the place of a buffer, expands one, and draws from Python's and numpy's generators."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 5)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("one", torch.ones(1).expand(3))

    def forward(self, x):
        x = x.mean((2, 3)).float()
        self.mean = 0.5 * self.mean + 0.5 * x.mean(0)
        return self.layer((x - self.mean) * self.one) * (1 + random.random() + np.random.random())


def test_a_network_with_habits_of_its_own_is_trained_and_resumed_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    model, generators = Odd(), (random.getstate(), np.random.get_state()[1].tolist())
    whole, stopped = copy.deepcopy(model), copy.deepcopy(model)
    train_network(whole, LOADER, CONFIG, on_step=pass_by, checkpoints=checkpoints_in(tmp_path / "whole"), **SHARED)
    with pytest.raises(KeyboardInterrupt):
        train_network(stopped, LOADER, CONFIG, on_step=stop_at(5), checkpoints=checkpoints_in(tmp_path), **SHARED)
    train_network(model, LOADER, CONFIG, on_step=pass_by, checkpoints=checkpoints_in(tmp_path), **SHARED)
    assert float(whole.mean.abs().sum()) > 0
    for name, tensor in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert (random.getstate(), np.random.get_state()[1].tolist()) == generators


def test_parts_of_a_batch_differ_by_one_image_at_most():
    sizes = []

    class Seen(nn.Linear):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x.mean((2, 3)))

    config = TrainConfig(epochs_retrain=1, accumulate=4)
    batches = Batches(
        [
            (torch.randn(10, 3, 2, 2), torch.zeros(10, dtype=torch.long)),
            (torch.randn(2, 3, 2, 2), torch.zeros(2, dtype=torch.long)),
        ]
    )
    train_network(Seen(3, 5), batches, config, on_step=pass_by, **SHARED)
    assert sizes == [3, 3, 2, 2, 1, 1]


def test_processes_that_run_other_widths_share_no_statistics():
    with pytest.raises(ConfigError, match=r"different_subnets was given together with sync_batchnorm.*Drop one"):
        TrainConfig(different_subnets=True, sync_batchnorm=True)


def test_a_second_signal_ends_at_once(net, tmp_path):
    class Asked(Runtime):
        def backward(self, tensor):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the second one was not heard")

    shared = {**SHARED, "runtime": Asked()}
    with pytest.raises(KeyboardInterrupt):
        train_network(net.model, LOADER, CONFIG, checkpoints=checkpoints_in(tmp_path), on_step=pass_by, **shared)
    assert checkpoints_in(tmp_path).load() is None  # it would be of half a step


def test_figures_of_a_training_that_is_stopped_come_once(net, tmp_path):
    """Before its first checkpoint, too: it begins anew then."""
    steps = []

    class Figures:
        def restart(self, step):
            del steps[step:]

        def write(self, step, values):
            steps.append(step)

    def go_on(**given):
        train_network(net.model, LOADER, CONFIG, tracker=Figures(), **{**SHARED, "on_step": pass_by, **given})

    with pytest.raises(KeyboardInterrupt):
        go_on(on_step=stop_at(2))  # nothing is kept
    for store in (checkpoints_in(tmp_path), checkpoints_in(tmp_path)):
        with pytest.raises(KeyboardInterrupt):
            go_on(on_step=stop_at(5 + len(steps)), checkpoints=store)
    go_on(checkpoints=checkpoints_in(tmp_path))
    assert steps == [*range(12)]


def test_a_process_that_ends_at_once_waits_for_no_other(net, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(Ranks, "wait", lambda ranks: waited.append(ranks))
    with pytest.raises(KeyboardInterrupt):
        train_both(net, tmp_path, on_step=stop_at(3))
    assert checkpoints_in(tmp_path / "net").load().facts["done"] == 3
    assert waited == []


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(parts):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(8, 5)).double()
    net = Supernet(model, trace_channels(model, torch.zeros(1, 3, 6, 6, dtype=torch.float64)))
    trained = []
    for count in (1, parts):
        each = copy.deepcopy(net)
        config = TrainConfig(epochs_supernet=2, lr=0.1, accumulate=count)
        train_supernet(each, LOADER, config, on_step=pass_by, **SHARED)
        trained.append(each.state_dict())
    for name, tensor in trained[0].items():
        torch.testing.assert_close(trained[1][name], tensor, rtol=1e-9, atol=1e-12)


def test_clipping_bounds_the_step(net):
    before = copy.deepcopy(net.model)
    config = TrainConfig(epochs_retrain=1, lr=1.0, warmup=0, momentum=0, weight_decay=0, clip=0.01, schedule="linear")
    train_network(net.model, Batches([batch()]), config, on_step=pass_by, **SHARED)
    moved = [a - b for a, b in zip(net.model.parameters(), before.parameters(), strict=True)]
    assert float(torch.nn.utils.get_total_norm(moved)) == pytest.approx(0.01, rel=1e-3)


def test_many_averages_fade_at_once_as_each_alone():
    draw, kinds = torch.Generator().manual_seed(0), (torch.float32, torch.float64, torch.bfloat16, torch.complex64)
    shapes = [(), (3,), (1001,), (16, 8, 3, 3), (5, 7)]
    for weight in (0.9, 0.5, 9 / 17, 0.001):
        old, new = ([torch.randn(s, generator=draw).to(k) for k in kinds for s in shapes] for _ in range(2))
        old[3] = old[3].to(memory_format=torch.channels_last)
        new[4] = new[4].t().contiguous().t()
        alone = [one.clone().lerp_(other, weight) for one, other in zip(old, new, strict=True)]
        _lerp_all_(old, new, weight)
        assert all(torch.equal(one, other) for one, other in zip(old, alone, strict=True))


def test_the_average_fades_by_its_factor(net):
    model = net.model
    average = model.get_parameter("head.weight").detach().clone()

    def on_step(loss, done):
        average.lerp_(model.get_parameter("head.weight").detach(), max(0.25, 9 / (9 + done)))

    config = TrainConfig(epochs_retrain=8, lr=0.1, ema=0.75)
    train_network(model, LOADER, config, on_step=on_step, **SHARED)
    torch.testing.assert_close(model.get_parameter("head.weight").detach(), average)


@pytest.mark.slow
def test_every_network_of_many_is_compiled(monkeypatch):
    """torch compiles one class's code for eight networks, and gives up on the ninth."""
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    config, frames = TrainConfig(epochs_retrain=1, compile=True), []
    for width in range(2, 12):
        model = RandomCNN([("inverted", width)], seed=1).double()
        train_network(model, Batches([batch()]), config, on_step=pass_by, **SHARED)
        frames.append(counter.frame_count)
    assert all(later > earlier for earlier, later in pairwise([0, *frames]))


def test_a_step_that_does_not_fit_into_the_gpu_tells_what_to_do(net, tmp_path):
    def fill(loss, done):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    config, store = TrainConfig(batch_size=64, epochs_retrain=1), checkpoints_in(tmp_path)
    text = r"Step 2 of 2 does not fit into the GPU: .*Tried to allocate 2\.00 GiB\..* --accumulate 2 or --batch-size 32"
    with pytest.raises(TrainingError, match=text):
        train_network(net.model, Batches([batch(), batch(1)]), config, on_step=fill, checkpoints=store, **SHARED)


@pytest.mark.slow
def test_a_compiled_network_trains_alike(net):
    small = net.model.float()
    batches = Batches([(x.float(), y) for x, y in LOADER.batches])
    losses = []
    for compiled in (False, True):
        config = TrainConfig(epochs_retrain=3, lr=0.05, compile=compiled)
        trained = train_network(copy.deepcopy(small), batches, config, on_step=pass_by, **SHARED)
        losses.append(trained.losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs_supernet", 0), ("batch_size", 1), ("lr", 0.0), ("warmup", 1.0), ("label_smoothing", -1)],
)
def test_configurations_are_validated(field, value):
    with pytest.raises(ValueError, match=field):
        TrainConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("schedule", "cos", 'expected one of cosine, linear. Write "cosine", or another of them.'),
        ("augment", "random", 'expected one of none, flip, crop, .*, randaugment. Write "randaugment"'),
        ("precision", None, 'expected one of 32-true, bf16-mixed, 16-mixed. Write "'),
        ("retrain", "scrach", 'expected one of scratch, inherit, none. Write "scratch"'),
        ("tracker", "csvv", 'expected one of tensorboard, csv, wandb, mlflow, none. Write "csv"'),
    ],
)
def test_settings_with_a_few_values_take_no_other(field, value, told):
    run = {"model": "zoo:resnet_digits", "data": "digits"} if field in ("retrain", "tracker") else None
    kind = TrainConfig if run is None else RunConfig
    with pytest.raises(ConfigError, match=rf"{kind.__name__}\.{field} is {value!r}; {told}"):
        kind(**(run or {}), **{field: value})


def test_auxiliary_heads_count_three_tenths():
    logits, aux = torch.randn(4, 5), torch.randn(4, 5)
    labels = torch.tensor([0, 1, 2, 3])
    alone = [TASK.loss(head, labels) for head in (logits, aux)]
    torch.testing.assert_close(TASK.loss((logits, aux), labels), alone[0] + 0.3 * alone[1])
    torch.testing.assert_close(TASK.loss({"out": logits, "aux": aux}, labels), alone[0] + 0.3 * alone[1])
    taught = TASK.teach((logits, aux))
    assert float(TASK.distill((logits, aux), taught)) <= float(TASK.distill((aux, logits), taught))
    loss, hit = TASK.judge((logits, aux), labels)
    torch.testing.assert_close(loss.mean(), alone[0].double(), rtol=1e-6, atol=1e-6)
    assert hit.tolist() == (logits.argmax(1) == labels).double().tolist()
