"""The baselines: budgets hold, the kept channels are the ranked ones, and every pass is counted."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoslim import build_model, extract_network, make_cost, trace_channels
from autoslim.baselines import (
    BASELINES,
    L1,
    Amc,
    BnScale,
    Chosen,
    Lab,
    Lasso,
    MacCounter,
    NetAdapt,
    PolicySearch,
    Taylor,
    TorchPruning,
)
from autoslim.baselines._base import Baseline, _Steps, cut_least, fill_atoms, relative
from autoslim.baselines.amc import _Agent
from autoslim.baselines.lasso import _silence_, choose_channels, find_readers
from autoslim.baselines.netadapt import Proposal, find_best
from autoslim.budget import Budget
from autoslim.data import Loader, Split, hold_out, load_data
from autoslim.errors import BudgetError, ConfigError, ModelError, WidthsError
from autoslim.extract import copy_model
from autoslim.search import Score, Space, hold_uniform
from autoslim.sort import filter_norms
from autoslim.tasks import TASKS
from autoslim.testing.networks import counted_macs
from autoslim.train import TrainConfig
from autoslim.widths import Widths

SMALL: dict[str, Baseline] = {
    "l1": L1(),
    "taylor": Taylor(batches=2),
    "bn-scale": BnScale(penalty=1e-3),
    "netadapt": NetAdapt(saving=0.4, steps=2),
    "amc": Amc(episodes=6, warmup=3),
    "lasso": Lasso(batches=1),
    "rl": PolicySearch(samples=3, steps=2),
    "torch-pruning": TorchPruning(),
}
BUDGETS = [Budget.parse(text) for text in ("macs<=60%", "macs<=30%")]
every_baseline = pytest.mark.parametrize("name", BASELINES)


@pytest.fixture(scope="module")
def lab() -> Lab:
    data = load_data("digits", seed=0)
    train, search = hold_out(data.train, seed=0)
    config = TrainConfig(epochs_retrain=1, batch_size=128, augment="none")

    def build() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return build_model("zoo:resnet_digits?width=8", num_classes=10, in_channels=1)

    def loader(split: Split, size: int) -> Loader:
        return Loader(split, size, data.mean, data.std, shuffle=True, drop_last=True)

    from lightning_fabric import Fabric

    graph = trace_channels(build(), torch.zeros(1, 1, 8, 8))
    costs = {name: make_cost(name, graph) for name in ("macs", "params")}
    made = Lab(
        graph=graph,
        space=Space.of(graph.groups),
        costs=costs,
        base={name: cost(graph.max_widths()) for name, cost in costs.items()},
        trained=build(),
        build=build,
        loader=loader(train, 128),
        search=list(loader(search, 100).epoch(0)),
        calibration=[next(iter(loader(train, 256).epoch(0)))[0]],
        task=TASKS["classification"],
        config=config,
        runtime=Fabric(accelerator="cpu", devices=1),
        seed=0,
    )
    made.train(made.trained, 40)
    return made


@pytest.fixture(scope="module")
def choose(lab: Lab) -> Callable[[str], list[Chosen]]:
    """What a baseline chooses for both budgets; asked once."""
    return cache(lambda name: SMALL[name].choose(lab, BUDGETS))


def test_mixed_precision_is_trained_on_gradients_of_the_right_size(lab: Lab):
    scaler = torch.amp.GradScaler("cpu")

    class Scaled:
        device = torch.device("cpu")

        def autocast(self) -> Any:
            return torch.autocast("cpu", enabled=False)

        def backward(self, tensor: torch.Tensor) -> None:
            scaler.scale(tensor).backward()

    models = lab.build(), lab.build()
    lab.train(models[0], 5)
    replace(lab, runtime=Scaled(), scaler=scaler).train(models[1], 5)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


@every_baseline
def test_budgets_hold_closely_and_networks_have_these_widths(
    lab: Lab, name: str, choose: Callable[[str], list[Chosen]]
):
    before = {key: value.clone() for key, value in lab.trained.state_dict().items()}
    chosen = choose(name)
    assert [each.budget for each in chosen] == BUDGETS
    for each in chosen:
        gap = lab.excess(each.budget)(each.widths)
        assert -0.03 < gap <= 0  # eight channels are coarse
        if name == "rl":  # chooses widths, no channels
            assert each.network is None
            continue
        assert each.network is not None
        assert counted_macs(each.network, (torch.zeros(1, 1, 8, 8),)) == lab.costs["macs"](each.widths)
        assert set(each.network.state_dict()) == set(before)
    for key, value in lab.trained.state_dict().items():
        torch.testing.assert_close(value, before[key])


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("lasso", "netadapt") else n for n in BASELINES]
)
def test_the_same_twice_with_and_without_another_budget(lab: Lab, name: str, choose: Callable[[str], list[Chosen]]):
    first, (second,) = choose(name)[0], SMALL[name].choose(lab, BUDGETS[:1])
    assert first.widths == second.widths
    if first.network is None or second.network is None:
        assert first.network is second.network
        return
    for ours, theirs in zip(first.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_l1_keeps_the_largest_filters(lab: Lab, choose: Callable[[str], list[Chosen]]):
    each = choose("l1")[1]
    assert each.network is not None
    norms = filter_norms(lab.trained, lab.graph)
    kept = filter_norms(each.network, trace_channels(each.network, torch.zeros(1, 1, 8, 8)))
    for group, width in each.widths.items():
        if group in kept and group.endswith("conv1"):  # its filters lost inputs: compare which, not how large
            assert len(kept[group]) == width
    # what went is the least of all groups, relative to their means, but for the few that were filled up
    values = relative(norms)
    cut = {group: len(values[group]) - each.widths[group] for group in values}
    gone = [v for group, count in cut.items() for v in sorted(values[group].tolist())[:count]]
    stays = [
        v
        for group, count in cut.items()
        if each.widths[group] > lab.space.candidates[group][0]
        for v in sorted(values[group].tolist())[count:]
    ]
    assert max(gone) < sorted(stays)[len(stays) // 4]


def test_taylor_leaves_out_layers_that_the_loss_does_not_reach(lab: Lab):
    trained = copy_model(lab.trained)
    for name in ("stage2.conv1.weight", "stage2.norm1.weight", "stage2.norm1.bias"):
        trained.get_parameter(name).requires_grad_(False)
    importance = Taylor(batches=1).measure(replace(lab, trained=trained))
    assert "stage2.conv1" not in importance
    assert importance


@pytest.mark.parametrize(
    ("group", "tensors"),
    [("stage2.conv1", ("stage2.norm1.weight", "stage2.norm1.bias")), ("0", ("0.weight",))],
)
def test_taylor_is_the_change_of_the_loss(lab: Lab, group: str, tensors: tuple[str, ...]):
    """By a finite difference: a channel behind its BatchNorm, or without one its filter, scaled by 1 - e and 1 + e.

    In a layer that is alone in its group.
    """
    plain = lab_of(lab, lambda: headed(nn.Conv2d(1, 16, 3, bias=False), nn.ReLU(), nn.Conv2d(16, 32, 3)))
    own = lab if group != "0" else plain
    importance = Taylor(batches=1).measure(own)[group]
    ((images, labels),) = own.batches(1)
    model = copy_model(own.trained).double().eval()

    def loss() -> float:
        return float(own.task.loss(model(images.double()), labels).detach().double())

    step = 1e-4
    for channel in (0, 3, 7):
        parameters = [model.get_parameter(name) for name in tensors]
        old, losses = [each[channel].detach().clone() for each in parameters], list[float]()
        for scale in (1 - step, 1 + step):  # on both sides: curvature drops out
            with torch.no_grad():
                for each, value in zip(parameters, old, strict=True):
                    each[channel] = value * scale
            losses.append(loss())
        with torch.no_grad():
            for each, value in zip(parameters, old, strict=True):
                each[channel] = value
        change = (losses[0] - losses[1]) / (2 * step)
        assert float(importance[channel]) == pytest.approx(change**2, rel=0.05, abs=1e-8)


@pytest.mark.slow
def test_bn_scale_drives_scales_down(lab: Lab):
    free, steps = lab.build(), 2 * lab.epoch_steps
    lab.train(free, steps)
    strong = BnScale(penalty=0.05)
    plain = {group: float(v.sum()) for group, v in strong.measure(lab, free).items()}
    pressed = lab.build()
    scales = [p for name, p in pressed.named_parameters() if "norm" in name and name.endswith("weight")]
    lab.train(pressed, steps, penalty=lambda: 0.05 * torch.stack([s.abs().sum() for s in scales]).sum())
    assert sum(v.sum() for v in strong.measure(lab, pressed).values()) < 0.9 * sum(plain.values())


def test_torch_pruning_ranks_as_the_package_does(lab: Lab):
    """At a ratio of its own, over the whole network: of every group the channels of the largest importance stay."""
    package: Any = importlib.import_module("torch_pruning")
    importance, model = TorchPruning().measure(lab), copy_model(lab.trained)
    assert {group.name for group in lab.graph.groups if group.frozen is None} == set(importance)
    magnitude = package.importance.GroupMagnitudeImportance(p=2)
    head = [model.get_submodule(group.name) for group in lab.graph.groups if group.frozen is not None]
    pruner = package.pruner.BasePruner(
        model,
        torch.zeros(1, 1, 8, 8),
        importance=magnitude,
        global_pruning=True,
        pruning_ratio=0.4,
        ignored_layers=head,
    )
    pruner.step()
    left = {group: model.get_submodule(group).weight.shape[0] for group in importance}  # pyright: ignore
    gone = {group: len(values) - left[group] for group, values in importance.items()}
    taken = [v for group, count in gone.items() for v in sorted(importance[group].tolist())[:count]]
    stays = [v for group, count in gone.items() for v in sorted(importance[group].tolist())[count:]]
    assert sum(gone.values()) > 5
    assert max(taken) <= min(stays)


def test_torch_pruning_cuts_down_to_the_narrowest_network_and_tells_what_is_too_tight(lab: Lab):
    least = 1 + lab.excess(Budget.parse("macs<=100%"))(lab.space.narrowest)
    (chosen,) = TorchPruning().choose(lab, [Budget.parse(f"macs<={100 * least + 0.5:.2f}%")])
    assert lab.excess(chosen.budget)(chosen.widths) <= 0
    with pytest.raises(BudgetError, match=r"channels may go, and without them the network still costs \+[1-9]\d?\.\d%"):
        TorchPruning().choose(lab, [Budget.parse(f"macs<={90 * least:.2f}%")])


def test_torch_pruning_that_cuts_otherwise_than_we_do_is_refused(lab: Lab):
    """Grouped convolutions of many groups lose channels of each group there, and whole groups here."""

    def build() -> nn.Module:
        grouped = (nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=8), nn.ReLU())
        return nn.Sequential(*grouped, nn.Flatten(), nn.Linear(32 * 16, 10))

    model, shape = build(), (1, 1, 8, 8)
    graph = trace_channels(model, torch.zeros(shape))
    costs = {"macs": make_cost("macs", graph)}
    space = Space.of(graph.groups)
    base = {"macs": costs["macs"](graph.max_widths())}
    other = replace(lab, graph=graph, space=space, costs=costs, base=base, trained=model, build=build)
    with pytest.raises((ModelError, WidthsError)):
        TorchPruning().choose(other, BUDGETS[:1])


def test_netadapt_is_one_path(choose: Callable[[str], list[Chosen]]):
    wide, slim = choose("netadapt")
    assert all(slim.widths[group] <= width + 1 for group, width in wide.widths.items())  # an atom more by filling up


def test_netadapt_asks_every_group_and_goes_on_with_the_least_loss_for_what_is_saved(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    """The last layer alone can't save the share: narrowed at its own small saving, as nothing is lost with it."""
    small = lab_of(lab, lambda: headed(*conv(1, 32), *conv(32, 32), *conv(32, 32, 1)))
    free, rounds = small.space.free, list[list[Widths]]()

    def propose(own: NetAdapt, lab: Lab, network: nn.Module, widths: Widths, trials: list[Widths], number: int) -> Any:
        rounds.append(list(trials))
        fair = [0.0 if trial[free[-1]] == widths[free[-1]] else 1.0 for trial in trials]
        return [Proposal(widths=t, network=network, score=Score(1.0, a)) for t, a in zip(trials, fair, strict=True)]

    monkeypatch.setattr(NetAdapt, "_propose", propose)
    (chosen,) = NetAdapt(saving=0.3).choose(small, [Budget.parse("macs<=50%")])
    assert [[g for g in free if trial[g] < small.space.widest[g]] for trial in rounds[0]] == [[group] for group in free]
    assert rounds[1][0][free[-1]] == small.space.candidates[free[-1]][0]  # it went on
    assert small.excess(chosen.budget)(chosen.widths) <= 0


def test_netadapt_weighs_what_is_lost_by_what_is_saved():
    def proposal(accuracy: float, loss: float = 1.0) -> Proposal:
        return Proposal(widths=Widths({"a": 1}), network=nn.Identity(), score=Score(loss, accuracy))

    large, small = (proposal(0.80), 0.1), (proposal(0.899), 0.01)
    assert find_best(0.9, [large, small]) is small[0]
    assert find_best(0.9, [(proposal(0.89), 0.1), small]) is not small[0]
    gain, even = (proposal(0.95), 0.01), (proposal(0.9), 0.1)  # a gain counts as no loss
    assert find_best(0.9, [gain, even]) is even[0]
    assert find_best(0.9, [(proposal(0.9), 0.1), (better := proposal(0.9, 0.5), 0.1)]) is better


def test_netadapt_narrows_layers_that_must_give_way_together(lab: Lab):
    """Two layers have the same peak of memory: neither lowers it alone."""
    even = lab_of(lab, lambda: headed(*conv(1, 32, padding=1), *conv(32, 32, padding=1), *conv(32, 32, padding=1)),
                  "peak_memory")  # fmt: skip
    budget = Budget.parse("peak_memory<=50%")
    (chosen,) = NetAdapt(saving=0.3, steps=1).choose(even, [budget])
    assert -0.1 < even.excess(budget)(chosen.widths) <= 0
    assert all(chosen.widths[group] > even.space.candidates[group][0] for group in even.space.free)


def test_netadapt_fills_up_from_the_last_network_that_had_the_channels(lab: Lab):
    baseline, excess = NetAdapt(steps=1), lab.excess(BUDGETS[0])
    half, least = lab.graph.uniform_widths(0.75), lab.space.narrowest
    networks = [baseline._propose(lab, lab.trained, lab.space.widest, [each], 0)[0].network for each in (half, least)]
    path = [(lab.space.widest, lab.trained), (half, networks[0]), (least, networks[1])]
    assert excess(least) < -0.5
    chosen = baseline._filled(lab, BUDGETS[0], path)
    assert -0.03 < excess(chosen.widths) <= 0
    assert chosen.network is not None
    assert counted_macs(chosen.network, (torch.zeros(1, 1, 8, 8),)) == lab.costs["macs"](chosen.widths)


def test_amc_judges_networks_with_statistics_of_their_own(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """Those of the network that they are cut from do not matter."""
    rewards: list[float] = []
    monkeypatch.setattr(_Agent, "remember", lambda self, steps, reward: rewards.append(reward))  # pyright: ignore
    trained = copy_model(lab.trained)
    for name, buffer in trained.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(3)
    found: list[Widths] = []
    for each in (lab, replace(lab, trained=trained)):
        with MacCounter() as counter:
            found.append(Amc(episodes=2, warmup=2).choose(each, BUDGETS[:1])[0].widths)
        seen = sum(len(labels) for _, labels in lab.search) + len(lab.calibration[0])
        assert counter.macs > 1.5 * seen * 0.5 * lab.costs["macs"](
            lab.space.widest
        )  # of two judged, about half as large
    assert rewards[:2] == rewards[2:]
    assert found[0] == found[1]


def test_a_network_without_batchnorm_can_not_be_ranked_by_it(lab: Lab):
    plain = replace(lab, build=lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 10)))
    with pytest.raises(BudgetError, match="bn_scale: Sequential has no BatchNorm with scales"):
        BnScale().choose(plain, BUDGETS)


def test_a_budget_that_the_ranked_groups_can_not_hold_is_told(lab: Lab):
    norms = {"stem": filter_norms(lab.trained, lab.graph)["stem"]}
    with pytest.raises(BudgetError, match=r"Budget 'macs<=30%': \d channels may go"):
        cut_least(lab, norms, BUDGETS[1])


class Priced:
    """A cost of so much a channel."""

    def __init__(self, prices: dict[str, float]) -> None:
        self.prices = prices

    def __call__(self, widths: Mapping[str, int]) -> float:
        return sum(price * widths[group] for group, price in self.prices.items())

    def many(self, widths: Sequence[Mapping[str, int]]) -> Any:
        return np.array([self(each) for each in widths])


def test_what_was_cut_comes_back_by_its_importance(lab: Lab):
    """Six cheap atoms go, then a dear one, and three of the six fit again: the most important."""
    space = Space({"a": (4, 8), "b": (4, 8), "c": (1, 2)}, {"a": 1, "b": 1, "c": 1})
    small = replace(lab, space=space, costs={"macs": Priced({"a": 1, "b": 1, "c": 10})}, base={"macs": 36})
    rising = torch.arange(8.0)
    importance = {"a": rising, "b": rising + 0.5, "c": torch.tensor([2.75, 99.0])}
    assert dict(cut_least(small, importance, Budget.parse("macs<=23"))) == {"a": 6, "b": 7, "c": 1}


def test_atoms_are_filled_up_to_the_budget(lab: Lab):
    excess = lab.excess(BUDGETS[0])
    widths = fill_atoms(lab.space, lab.space.narrowest, excess)
    assert -0.02 < excess(widths) <= 0


@pytest.mark.parametrize("settings", [{"saving": 0.0}, {"decay": 0.1}, {"steps": 0}, {"lr": 0.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]):
    with pytest.raises(ConfigError, match="NetAdapt: saving="):
        NetAdapt(**settings)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="Taylor: batches=0"):
        Taylor(batches=0)
    with pytest.raises(ConfigError, match="BnScale: penalty=0"):
        BnScale(penalty=0)


def test_every_number_that_a_method_is_set_by_is_told():
    """In the settings that a comparison keeps; as they are by default."""
    assert repr(NetAdapt()) == "NetAdapt(saving=0.08, decay=0.96, steps=30, lr=0.01, least=0.01)"
    assert repr(PolicySearch()) == "PolicySearch(samples=40, steps=60, rate=0.15, exponent=-0.07, average=0.9)"
    assert repr(Lasso()) == "Lasso(batches=4, places=10, penalties=60)"
    told = "units=64, batch=64, actor_rate=0.001, critic_rate=0.01, follow=0.01, average=0.95"
    assert repr(Amc()) == f"Amc(episodes=120, warmup=30, noise=0.5, decay=0.96, {told})"


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (NetAdapt, {"least": 0.0}),
        (PolicySearch, {"average": 1.0}),
        (Lasso, {"places": 0}),
        (Lasso, {"penalties": 1}),
        (Amc, {"units": 0}),
        (Amc, {"follow": 0.0}),
    ],
)
def test_each_of_these_numbers_out_of_range_is_refused(method: Any, settings: dict[str, float]):
    (name,) = settings
    with pytest.raises(ConfigError, match=f"{name}={settings[name]}"):
        method(**settings)


def test_lasso_finds_the_channels_that_count():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(200, 6, 9)), rng.normal(size=(4, 6, 9))
    weight[:, [0, 2, 5]] *= 0.01
    y = np.einsum("nct,oct->no", x, weight)
    assert choose_channels(x, y, weight, 3).tolist() == [1, 3, 4]


def test_what_is_silenced_computes_as_what_is_extracted(lab: Lab):
    widths = lab.graph.random_widths(3)
    silent, x = copy_model(lab.trained).eval(), torch.randn(4, 1, 8, 8)
    stays = _silence_(silent, lab.graph, widths)
    torch.testing.assert_close(silent(x), extract_network(lab.trained, lab.graph, widths).eval()(x))
    assert len(stays["stem.weight"]) == widths["stem"]


def test_lasso_rebuilds_outputs_better_than_norms_do(lab: Lab):
    """Before any training after it: the loss on the search images."""
    readers = find_readers(lab.trained, lab.graph)
    assert {"stage1.conv1", "stage2.conv1", "stage3.conv1"} <= set(readers)
    (rebuilt,) = Lasso(batches=2).choose(lab, BUDGETS[:1])
    assert rebuilt.network is not None
    kept = lab.keep(lab.trained, filter_norms(lab.trained, lab.graph), rebuilt.widths)
    assert lab.judge(rebuilt.network).loss < lab.judge(kept).loss


# The counter -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conv", "each"),
    [
        (nn.Conv2d(8, 8, 3, groups=8, padding=1), 8 * 9 * 36),
        (nn.Conv2d(8, 4, 3, groups=2, padding=1), 4 * 4 * 9 * 36),
        (nn.Conv2d(8, 4, 3, stride=2, padding=1), 4 * 8 * 9 * 9),
        (nn.ConvTranspose2d(8, 4, 3, stride=2, groups=2), 8 * 2 * 9 * 36),
    ],
)
def test_a_convolutions_backward_pass_costs_its_forward_pass_for_each_gradient(conv: nn.Module, each: int):
    images = torch.randn(2, 8, 6, 6)
    for needed, passes in ((True, 3), (False, 2)):
        with MacCounter() as counter:
            conv(images.clone().requires_grad_(needed)).sum().backward()
        assert counter.macs == passes * 2 * each


def test_the_counter_counts_forward_and_backward(lab: Lab):
    macs = lab.costs["macs"](lab.space.widest)
    model = copy_model(lab.trained).eval()
    with MacCounter() as counter, torch.no_grad():
        model(torch.zeros(5, 1, 8, 8))
    assert counter.macs == 5 * macs
    with MacCounter() as counter:
        model(torch.zeros(5, 1, 8, 8)).sum().backward()
    first = counted_macs(model.get_submodule("stem"), (torch.zeros(1, 1, 8, 8),))
    assert counter.macs == 3 * 5 * macs - 5 * first  # no gradient to the images


def test_the_counter_sees_training_and_judging_and_no_trace(lab: Lab):
    macs, model = lab.costs["macs"](lab.space.widest), copy_model(lab.trained)
    with MacCounter() as counter:
        lab.train(model, 2)
    trained = counter.macs
    assert 2.5 * 2 * 128 * macs < trained < 3 * 2 * 128 * macs
    with MacCounter() as counter:
        lab.judge(model)
    assert counter.macs == macs * sum(len(labels) for _, labels in lab.search)
    with MacCounter() as counter:
        trace_channels(model, torch.zeros(1, 1, 8, 8))
    assert counter.macs < 3 * macs  # what the probe runs, if anything


def test_steps_are_so_many_batches_whatever_an_epoch_has(lab: Lab):
    length = lab.epoch_steps
    many = list(_Steps(lab.loader, length + 2).epoch(0))
    assert len(many) == length + 2
    torch.testing.assert_close(many[length][0], next(iter(lab.loader.epoch(1)))[0])
    assert len(list(_Steps(lab.loader, 5).epoch(0, 3))) == 2
    torch.testing.assert_close(next(_Steps(lab.loader, 1, 4).epoch(0))[0], next(iter(lab.loader.epoch(4)))[0])


def test_keep_equals_the_masked_choice(lab: Lab):
    """The kept network at full width is the trained one with its channels in another order."""
    norms = filter_norms(lab.trained, lab.graph)
    whole = lab.keep(lab.trained, norms, lab.space.widest)
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(whole.eval()(x), copy_model(lab.trained).eval()(x), rtol=1e-4, atol=1e-4)
    assert extract_network(lab.trained, lab.graph, lab.space.narrowest) is not None


class Placed(nn.Module):
    """Weighs channels by their place, so that no other order of them computes the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(1, 6, 1), nn.Conv2d(6, 8, 1), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.first, self.second):
            x = layer(x)
            x = x * torch.linspace(1, 2, x.shape[1], dtype=x.dtype).view(1, -1, 1, 1)
        return self.head(x.relu().mean((2, 3)))


def lab_of(lab: Lab, build: Callable[[], nn.Module], *metrics: str) -> Lab:
    """The lab with another network, untrained."""
    model = build()
    graph = trace_channels(model, torch.zeros(1, 1, 8, 8))
    costs = {name: make_cost(name, graph) for name in ("macs", *metrics)}
    return replace(
        lab,
        graph=graph,
        space=Space.of(graph.groups),
        costs=costs,
        base={name: cost(graph.max_widths()) for name, cost in costs.items()},
        trained=model,
        build=build,
    )


@pytest.mark.parametrize("name", ["l1", "taylor", "lasso", "amc", "netadapt"])
def test_channels_that_cannot_be_sorted_are_told(lab: Lab, name: str):
    with pytest.warns(UserWarning, match=r"`(first|second)` \(the network tells its channels apart by their place\)"):
        SMALL[name].choose(lab_of(lab, Placed), BUDGETS[:1])


def conv(come: int, goes: int, kernel: int = 3, **options: Any) -> list[nn.Module]:
    return [nn.Conv2d(come, goes, kernel, **options), nn.BatchNorm2d(goes), nn.ReLU()]


def headed(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def test_netadapt_narrows_grouped_convolutions_to_few_groups(lab: Lab):
    """Traced anew, a convolution of four groups would lose channels in another way."""

    def build() -> nn.Module:
        return headed(*conv(1, 32), *conv(32, 80, 1), *conv(80, 80, groups=10), *conv(80, 32, 1))

    grouped = lab_of(lab, build)
    (chosen,) = NetAdapt(saving=0.2, steps=1).choose(grouped, [Budget.parse("macs<=25%")])
    assert chosen.widths["3"] <= 32  # of atoms of 8
    assert grouped.excess(chosen.budget)(chosen.widths) <= 0


@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_lasso_rebuilds_layers_however_they_pad(lab: Lab, padding: str | int):
    def build() -> nn.Module:
        torch.manual_seed(0)
        return headed(*conv(1, 32, padding=padding), *conv(32, 32, padding=padding))

    padded = lab_of(lab, build)
    assert find_readers(padded.trained, padded.graph) == {"0": "3", "3": "8"}
    (chosen,) = Lasso(batches=1).choose(padded, BUDGETS[:1])
    kept = padded.keep(padded.trained, filter_norms(padded.trained, padded.graph), chosen.widths)
    assert chosen.network is not None
    images = torch.cat([images for images, _ in padded.batches(1)])
    wanted, lasso, norms = (each.eval()(images) for each in (copy_model(padded.trained), chosen.network, kept))
    assert (lasso - wanted).square().mean() < (norms - wanted).square().mean()


def test_lasso_has_the_widths_of_the_uniform_network_under_joint_budgets(lab: Lab):
    joint = Budget.parse("macs<=50%,memory<=55%")
    flat = lab_of(lab, lambda: headed(*conv(1, 24, 1), *conv(24, 24, 1), *conv(24, 24, 1), *conv(24, 32, 1)), "memory")
    (chosen,) = Lasso(batches=1).choose(flat, [joint])
    _, uniform = hold_uniform(flat.space, flat.costs, joint, base=flat.base, tolerance=0)
    assert all(uniform[group] <= width <= uniform[group] + 1 for group, width in chosen.widths.items())
    assert flat.excess(joint)(chosen.widths) <= 0


def test_bn_scale_does_not_favour_groups_of_many_norms(lab: Lab):
    measured = BnScale().measure(lab, lab.build())
    assert all((values == 1).all() for values in measured.values())  # as they are drawn


def test_the_counter_sees_attention_on_cpus_and_in_eval_mode():
    query = torch.randn(2, 4, 16, 8, requires_grad=True)
    with MacCounter() as counter:
        out = nn.functional.scaled_dot_product_attention(query, query, query)
    forward = 2 * (2 * 4 * 16 * 16 * 8)
    assert counter.macs == forward
    with MacCounter() as counter:
        out.sum().backward()
    assert counter.macs == 2.5 * forward  # scores are computed again
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(2, 5, 8)
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad(), MacCounter() as counter:
        attention(x, x, x, need_weights=False)
    assert counter.macs == 4 * 2 * 5 * 8 * 8 + 2 * 2 * 5 * 5 * 8
    assert torch.backends.mha.get_fastpath_enabled() == fast
