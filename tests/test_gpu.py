"""What only an NVIDIA GPU can show: the same numbers there, recorded steps, and lower precision."""

import copy
import json

import pytest
import torch
from torch import nn

from autoslim import Supernet, extract_network, trace_channels
from autoslim.data import load_data, make_loader
from autoslim.pipeline import RunConfig, run
from autoslim.pipeline._launch import make_fabric
from autoslim.progress import Shown
from autoslim.tasks import TASKS
from autoslim.testing.random_cnn import RandomCNN
from autoslim.train import TrainConfig, sandwich_step, train_network

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.fixture
def exact():
    """Kernels that add in a fixed order, in full float32."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("augment", ["none", "crop", "crop+flip"])
def test_batches_made_on_the_gpu_are_those_of_the_processor_to_the_bit(augment):
    data = load_data("digits")
    options = {"batch_size": 60, "mean": data.mean, "std": data.std, "augment": augment, "shuffle": True, "seed": 3}
    here, there = (make_loader(data.train, **options, device=device) for device in (None, CUDA))
    for one, other in zip(here.epoch(2, start=3), there.epoch(2, start=3), strict=True):
        assert other[0].device.type == "cuda"
        assert torch.equal(one[0], other[0].cpu())
        assert torch.equal(one[1], other[1].cpu())
        assert other[0].is_contiguous()


def make_model(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    model = RandomCNN([("inverted", 8), ("concat", 9), ("grouped", 6)], seed=1)
    return nn.Sequential(model, nn.Dropout(dropout)).to(CUDA, memory_format=torch.channels_last)


class Batches:
    """Two epochs of five batches, the last of them smaller."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        sizes = (16, 16, 16, 16, 16, 16, 12)
        self.batches = [
            (torch.randn(n, 3, 6, 6, generator=generator), torch.randint(0, 5, (n,), generator=generator))
            for n in sizes
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number, start=0):
        return iter([(x.to(CUDA), y.to(CUDA)) for x, y in self.batches[start:]])


@pytest.mark.parametrize(("dropout", "precision"), [(0.0, "32-true"), (0.3, "32-true"), (0.0, "bf16-mixed")])
def test_recorded_steps_train_the_same_network_to_the_bit(exact, dropout, precision):
    model = make_model(dropout)
    found = []
    for recorded in (False, True):
        one = copy.deepcopy(model)
        trained = train_network(
            one, Batches(), TrainConfig(epochs_retrain=3, lr=0.05, cuda_graph=recorded), task=TASKS["classification"],
            seed=1, runtime=make_fabric(precision), on_step=lambda loss, done: None,
        )  # fmt: skip
        found.append((trained.losses, one.state_dict()))
    assert found[0][0] == found[1][0]
    for name, tensor in found[0][1].items():
        assert torch.equal(tensor, found[1][1][name]), name


def test_in_place_equals_extracted():
    model = RandomCNN([("inverted", 8), ("concat", 9), ("shuffle", 8)], seed=1).double().eval()
    graph = trace_channels(model, torch.zeros(1, 3, 6, 6, dtype=torch.float64))
    net = Supernet(model.to(CUDA), graph)
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64, device=CUDA)
    assert torch.equal(net(x), model(x))
    for seed in range(5):
        widths = graph.random_widths(seed)
        small = extract_network(model, graph, widths)
        with net.at(widths):
            torch.testing.assert_close(net(x), small(x), rtol=1e-10, atol=1e-12)


def test_a_sandwich_step_is_that_of_the_processor(exact):
    """Of random widths, in float64."""
    model = RandomCNN([("inverted", 8), ("concat", 9), ("grouped", 6)], seed=1).double()
    graph = trace_channels(model, torch.zeros(1, 3, 6, 6, dtype=torch.float64))
    x, y = torch.randn(8, 3, 6, 6, dtype=torch.float64), torch.randint(0, 5, (8,))
    gradients = []
    for device in (torch.device("cpu"), CUDA):
        net = Supernet(copy.deepcopy(model).to(device), graph).train()
        sandwich_step(net, (x.to(device), y.to(device)), task=TASKS["classification"], seed=3)
        gradients.append({name: p.grad.cpu() for name, p in net.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_whole_run_in_each_precision(tmp_path, precision):
    train = TrainConfig(epochs_supernet=4, epochs_retrain=6, batch_size=64, precision=precision, cuda_graph=True)
    config = RunConfig(model="zoo:resnet_digits", data="digits", out=str(tmp_path / "run"), train=train)
    folder = run(config, shown=Shown(quiet=True))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["base"]["accuracy"]["test"] > 0.9
    assert summary["budgets"][0]["accuracy"]["test"] > 0.9
