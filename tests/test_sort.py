"""Sorted channels: the same function, the best first; what can't be sorted is left alone and named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from autoslim import build_model, extract_network, trace_channels
from autoslim.errors import ConfigError, ModelError, UnknownNameError, WidthsError
from autoslim.extract import copy_model
from autoslim.graph import ChannelGraph
from autoslim.pipeline import RunConfig, reopen_job, run
from autoslim.pipeline._networks import Networks
from autoslim.pipeline._reopen import load_supernet
from autoslim.pipeline._weights import load_weights_
from autoslim.progress import Shown
from autoslim.sort import Sorted, filter_norms, sort_channels_
from autoslim.tasks import TASKS
from autoslim.testing.networks import check_subnetwork, outputs, randomise_
from autoslim.testing.random_cnn import BLOCKS, RandomCNN
from autoslim.train import TrainConfig


def draw_importance(graph: ChannelGraph, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {group.name: torch.rand(group.atoms, generator=generator) for group in graph.groups}


def sort_and_check(model: nn.Module, shape: tuple[int, ...], *, seed: int = 0) -> Sorted:
    """Sorts by random numbers and holds the outputs against those before, in float64."""
    randomise_(model).eval()
    x = torch.randn(2, *shape[1:], dtype=torch.float64)
    graph = trace_channels(model, torch.zeros(shape, dtype=torch.float64))
    before = outputs(model, (x,))
    done = sort_channels_(model, graph, draw_importance(graph, seed))
    for ours, theirs in zip(outputs(model, (x,)), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10 * float(theirs.abs().max()))
    assert set(done.order) | set(done.left) == {group.name for group in graph.groups}
    assert not set(done.order) & set(done.left)
    check_subnetwork(model, graph, graph.random_widths(seed), (x[:1],), masked=False)
    return done


@settings(max_examples=4, deadline=None)
@given(
    blocks=st.lists(st.tuples(st.sampled_from(BLOCKS), st.integers(4, 9)), min_size=1, max_size=4),
    flatten=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_networks_compute_the_same(blocks: list[tuple[str, int]], flatten: bool, seed: int):
    sort_and_check(RandomCNN(blocks, flatten=flatten, seed=seed), (1, 3, 6, 6), seed=seed)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_can_be_sorted(block: str):
    done = sort_and_check(RandomCNN([(block, 8), ("conv", 7)]), (1, 3, 6, 6))
    assert all(why.startswith("frozen") for why in done.left.values()), done.left


@pytest.mark.parametrize(
    "spec",
    [
        "zoo:mobilenet_small",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "torchvision:mobilenet_v2",
                "torchvision:resnet18",
                "torchvision:shufflenet_v2_x0_5",
                "timm:mobilenetv3_small_050",
            )
        ),
    ],
)
def test_real_networks_compute_the_same(spec: str):
    done = sort_and_check(build_model(spec, num_classes=10), (1, 3, 32, 32))
    assert len(done.order) > len(done.left)


def test_the_most_important_come_first_and_atoms_stay_whole():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 2))
    graph = trace_channels(model, torch.ones(1, 3, 2, 2))
    old = copy_model(model)
    done = sort_channels_(model, graph, {"0": [1.0, 3.0, 2.0, 3.0]})
    assert done.order == {"0": (1, 3, 2, 0)}
    assert done.left == {"3": "frozen: the network's output"}
    torch.testing.assert_close(model[0].weight, old[0].weight[[1, 3, 2, 0]])
    columns = old[3].weight.reshape(2, 4, 4)[:, [1, 3, 2, 0]].reshape(2, 16)
    torch.testing.assert_close(model[3].weight, columns)


def test_sorted_by_norm_the_narrow_network_keeps_the_largest_filters():
    model = build_model("zoo:resnet_digits")
    graph = trace_channels(model, torch.zeros(1, 1, 8, 8))
    sort_channels_(model, graph, norms := filter_norms(model, graph))
    again = filter_norms(model, graph)
    for name, values in again.items():
        assert values.tolist() == pytest.approx(sorted(norms[name].tolist(), reverse=True))
    small = extract_network(model, graph, graph.uniform_widths(0.5))
    kept = filter_norms(small, trace_channels(small, torch.zeros(1, 1, 8, 8)))["stage3.conv1"]
    assert len(kept) == 32


def test_norms_sum_over_all_layers_that_make_a_channel():
    model = build_model("zoo:resnet_digits")
    graph = trace_channels(model, torch.zeros(1, 1, 8, 8))
    both = [model.get_submodule(name).weight for name in ("stem", "stage1.conv2")]
    wanted = sum(weight.detach().abs().sum((1, 2, 3)) for weight in both)
    torch.testing.assert_close(filter_norms(model, graph)["stem"], wanted.double(), rtol=1e-5, atol=1e-5)


class Fixed(nn.Module):
    """Code that knows float32 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).float() * torch.full((1,), 0.5, dtype=torch.float32))


def test_code_that_fixes_float32_is_sorted_in_it():
    model, x = Fixed(), torch.randn(2, 3, 4, 4)
    wanted = model(x)
    done = sort_channels_(model, trace_channels(model, x), {"first": [1, 2, 3, 4, 5, 6]})
    assert done.order == {"first": (5, 4, 3, 2, 1, 0)}
    torch.testing.assert_close(model(x), wanted)


def test_any_arguments_that_were_traced_will_do(takes: tuple[nn.Module, tuple[Any, ...]]):
    model, arguments = takes
    graph, before = trace_channels(model, arguments), outputs(model, arguments)
    importance = {"first": range(16)}
    with pytest.raises(ModelError, match=r"sort_channels_: Takes fails on random.*pass them as `example_inputs`"):
        sort_channels_(model, graph, importance)
    assert sort_channels_(model, graph, importance, example_inputs=arguments).order == {"first": (*range(15, -1, -1),)}
    torch.testing.assert_close(outputs(model, arguments), before)


class Placed(nn.Module):
    """Weighs channels by their place, with numbers that the trace sees as constants."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.second(y * torch.linspace(1, 2, y.shape[1], dtype=y.dtype).view(1, -1, 1, 1))


def test_channels_that_are_told_apart_by_their_place_are_left_and_named():
    model = Placed()
    graph = trace_channels(model, torch.ones(1, 3, 4, 4))
    assert graph.group("first").frozen is None
    old = copy_model(model)
    done = sort_channels_(model, graph, {"first": [1, 2, 3, 4, 5, 6]})
    assert done.order == {}
    assert done.left["first"] == "the network tells its channels apart by their place"
    torch.testing.assert_close(model.first.weight, old.first.weight)


def test_orders_that_change_the_outputs_together_alone_are_left_as_they_are():
    class Either(nn.Module):
        """Adds the product of two numbers that are 0 while a layer's biases are in the order that they were in."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
            self.register_buffer("whole", torch.stack([self.placed(each.bias.detach()) for each in (self.a, self.b)]))

        def placed(self, bias: torch.Tensor) -> torch.Tensor:
            return (bias * torch.linspace(1, 2, len(bias), dtype=bias.dtype)).sum()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            moved = torch.stack([self.placed(each.bias) for each in (self.a, self.b)]) - self.whole
            y = self.head(self.b(self.a(x).relu()).relu())
            return y + 1e6 * torch.where(moved.abs() > 1e-5, moved, 0).prod()

    torch.manual_seed(0)
    model, x = Either(), torch.randn(2, 4)
    graph, falling = trace_channels(model, x), torch.arange(8.0)
    assert set(sort_channels_(copy_model(model), graph, {"a": falling}).order) == {"a"}
    before = model(x)
    told = sort_channels_(model, graph, {"a": falling, "b": falling})
    assert told.order == {}
    assert [told.left[group] for group in ("a", "b")] == ["the network tells its channels apart by their place"] * 2
    torch.testing.assert_close(model(x), before)


def test_the_floats_of_an_example_are_drawn_anew():
    model, zeros = Placed(), torch.zeros(1, 3, 4, 4)
    nn.init.zeros_(model.first.bias)  # on zeros any order would do
    done = sort_channels_(model, trace_channels(model, zeros), {"first": range(6)}, example_inputs=zeros)
    assert done.left["first"] == "the network tells its channels apart by their place"
    with pytest.raises(ModelError, match="fails on `example_inputs`, RuntimeError"):
        sort_channels_(model, trace_channels(model, zeros), {"first": range(6)}, example_inputs=zeros[:, :2])


def test_what_has_no_importance_stays():
    model = build_model("zoo:resnet_digits")
    graph = trace_channels(model, torch.zeros(1, 1, 8, 8))
    done = sort_channels_(model, graph, {"stem": list(range(16))})
    assert list(done.order) == ["stem"]
    assert done.left["stage1.conv1"] == "no importance was given"


@pytest.mark.parametrize("values", [[1.0], [float("nan")] * 16])
def test_an_importance_that_does_not_fit_is_refused(values: list[float]):
    model = build_model("zoo:resnet_digits")
    graph = trace_channels(model, torch.zeros(1, 1, 8, 8))
    with pytest.raises(WidthsError, match=r"`stem` has an importance of shape .*; expected 16 finite numbers"):
        sort_channels_(model, graph, {"stem": values})
    with pytest.raises(UnknownNameError, match="stem"):
        sort_channels_(model, graph, {"stam": values})


# A supernet from trained weights --------------------------------------------------------------------------------------


def networks_from(path: Path, **more: Any) -> Networks:
    config = RunConfig(model="zoo:resnet_digits", data="digits", from_weights=str(path), **more)
    return Networks(config, TASKS["classification"], num_classes=10, input_shape=(1, 8, 8))


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "nested", "ddp", "compiled"])
def test_a_supernet_starts_from_trained_weights_the_largest_filters_first(tmp_path: Path, suffix: str):
    trained = randomise_(build_model("zoo:resnet_digits", num_classes=10, in_channels=1), seed=5).float().eval()
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(trained.state_dict(), path)
    else:
        prefix = {"ddp": "module.", "compiled": "_orig_mod.module."}.get(suffix, "")
        state = {f"{prefix}{name}": tensor for name, tensor in trained.state_dict().items()}
        torch.save({"model": state, "epoch": 3} if suffix == "nested" else state, path)
    networks = networks_from(path)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(networks.model.eval()(x), trained(x), rtol=1e-4, atol=1e-4)
    for values in filter_norms(networks.model, networks.graph).values():
        assert (values.diff() <= 0).all()


def test_a_trained_run_needs_the_file_no_more(tmp_path: Path):
    path, out = tmp_path / "weights.safetensors", tmp_path / "run"
    save_file(build_model("zoo:resnet_digits?width=8", num_classes=10, in_channels=1).state_dict(), path)
    train = TrainConfig(epochs_supernet=1, batch_size=512)
    config = RunConfig(
        model="zoo:resnet_digits?width=8", data="digits", from_weights=str(path), train=train, retrain="none",
        budget=("macs<=90%",), search_images=20, baselines="none", out=str(out),
    )  # fmt: skip
    run(config, shown=Shown(quiet=True))
    path.unlink()
    load_supernet(reopen_job(out, shown=Shown(quiet=True)))
    (out / "supernet.safetensors").unlink()
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        reopen_job(out, shown=Shown(quiet=True))


def test_a_head_for_other_classes_is_drawn_anew(tmp_path: Path):
    trained, path = build_model("zoo:resnet_digits", num_classes=37, in_channels=1), tmp_path / "weights.pt"
    torch.save(trained.state_dict(), path)
    networks = networks_from(path)
    (note,) = [note for note in networks.notes if "classes" in note]
    assert note == f"head.weight, head.bias: of another number of classes in {path}, here drawn anew"
    assert networks.model.head.weight.shape[0] == 10
    ours, theirs = networks.model.stem.weight, trained.stem.weight
    assert torch.equal(ours.flatten().sort().values, theirs.flatten().sort().values)  # in another order
    state = trained.state_dict()
    torch.save({**state, "head.bias": state["head.bias"][:36]}, path)  # no head has both
    with pytest.raises(ModelError, match=r"'head\.weight' has the shape .* Only a head may differ"):
        networks_from(path)


def test_a_builder_that_draws_no_weights_is_told(tmp_path: Path):
    """Trained weights that a builder loads by itself would be cut as if they were drawn."""
    code = "import torch\nfrom torch import nn\n\ndef make():\n    {}return nn.Sequential(nn.Conv2d(1, 8, 3), "
    code += "nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))\n"
    for name, seeding in (("drawn", ""), ("loaded", "torch.manual_seed(7)\n    ")):
        (tmp_path / f"{name}.py").write_text(code.format(seeding))
        config = RunConfig(model=f"{tmp_path / name}.py:make", data="digits")
        networks = Networks(config, TASKS["classification"], num_classes=10, input_shape=(1, 8, 8))
        assert [note.startswith("has the same weights from any seed") for note in networks.notes] == [True] * (
            name == "loaded"
        )
    resumed = replace(config, from_weights=str(tmp_path / "gone.pt"))  # of a supernet that is trained already
    shape: dict[str, Any] = {"num_classes": 10, "input_shape": (1, 8, 8)}
    assert Networks(resumed, TASKS["classification"], **shape, trained=True).notes == []


class Prepares(nn.Module):
    """Prepares its images in a way that random ones, or a second look at them, do not stand."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv, self.head = how, nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> Any:
        if self.how != "nothing found":
            x = x.sub_(0.5) if self.how == "in place" else torch.log(x + 1e-3) - torch.sqrt(1 - x)
        y = self.head(self.conv(x))
        return y[y.flatten(1).sum(1) > 1e9] if self.how == "nothing found" else y


def test_what_can_not_be_told_is_not_taken_for_the_same():
    """Of numbers that are none an order changes nothing."""

    class Roots(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(torch.sqrt(x - 9)))

    model = Roots().double().eval()
    graph = trace_channels(model, torch.full((1, 3, 4, 4), 10.0, dtype=torch.float64))
    before = model.conv.weight.clone()
    with pytest.raises(ModelError, match="Roots puts out NaN on random inputs, also on such between 0 and 1; expected"):
        sort_channels_(model, graph, filter_norms(model, graph))
    assert torch.equal(model.conv.weight, before)


@pytest.mark.parametrize("how", ["log", "in place", "nothing found"])
def test_what_a_network_does_to_its_images_does_not_matter(how: str):
    model, x = randomise_(Prepares(how)).eval(), torch.rand(2, 3, 6, 6, dtype=torch.float64)
    graph = trace_channels(model, x.clone())
    before = model(x.clone())
    done = sort_channels_(model, graph, filter_norms(model, graph), example_inputs=x.clone())
    assert set(done.order) == {"conv"}
    torch.testing.assert_close(model(x.clone()), before)


def test_weights_of_another_network_are_refused(tmp_path: Path):
    path, model = tmp_path / "weights.pt", nn.Linear(3, 2)
    torch.save(nn.Linear(3, 4).state_dict(), path)
    with pytest.raises(ModelError, match=r"'weight' has the shape \(4, 3\); expected \(2, 3\)"):
        load_weights_(model, str(path))
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(ModelError, match="1 tensor in only one of file and network"):
        load_weights_(model, str(path))
    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="hold list; expected a state dict"):
        load_weights_(model, str(path))
    torch.save(nn.Linear(3, 2), path)
    with pytest.raises(
        ModelError, match=r"a whole module perhaps.*torch\.save\(model\.state_dict\(\), PATH\)"
    ) as error:
        load_weights_(model, str(path))
    assert "weights_only" not in str(error.value)
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="can't be read"):
        load_weights_(model, str(path))
    with pytest.raises(ModelError, match="can't be read"):
        networks_from(tmp_path / "missing.safetensors")
    with pytest.raises(ConfigError, match="together with rewrite or widen"):
        networks_from(path, widen=1.5)
