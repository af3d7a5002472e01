"""The paper's networks: their shapes, what they cost by torch's own counter, and the official channel lists."""

import pytest
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torchvision.models import resnet50

from autoslim import build_model, extract_network, make_cost, trace_channels
from autoslim.errors import ModelError, UnknownNameError
from autoslim.extract import correct_scale_
from autoslim.models import OFFICIAL, describe_model, official_widths, rebuild_model, trace_base
from autoslim.models.official import read_list
from autoslim.testing.networks import check_subnetwork, counted_macs, randomise_

IMAGE = torch.zeros(1, 3, 224, 224, device="meta")
SCALED = ["mobilenet_v1", "shufflenet_v1", "mnasnet", "resnet50"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def channels(model: nn.Module) -> list[int]:
    """What each convolution but the depthwise ones puts out, in the order they are registered."""
    convs = [module for module in model.modules() if isinstance(module, _ConvNd)]
    return [conv.out_channels for conv in convs if conv.groups != conv.in_channels or conv.in_channels == 3]


# Networks that scale ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "macs", "parameters"),
    [
        ("mobilenet_v1", 568_740_352, 4_231_976),
        ("mobilenet_v1?width_mult=0.5", 149_497_088, 1_331_592),
        ("shufflenet_v1", 137_300_832, 1_865_728),
        ("mnasnet", 314_415_872, 4_383_312),
        ("mnasnet?width_mult=1.3", 534_573_888, 6_826_768),
        ("resnet50", 4_089_184_256, 25_557_032),
        ("resnet50?width_mult=0.5", 1_052_311_552, 6_917_640),
    ],
)
def test_macs_and_parameters_by_torchs_counter(spec: str, macs: int, parameters: int):
    model = build_model(f"zoo:{spec}").eval().to("meta")
    assert model(IMAGE).shape == (1, 1000)
    assert counted_macs(model, (IMAGE,)) == macs
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_vgg_has_the_macs_that_papers_on_pruning_give():
    model = build_model("zoo:vgg16_32").eval().to("meta")
    image = torch.zeros(1, 3, 32, 32, device="meta")
    assert model(image).shape == (1, 10)
    assert round(counted_macs(model, (image,)) / 1e6) == 313
    assert channels(build_model("zoo:vgg16_32?width_mult=0.125")) == [8] * 2 + [16] * 2 + [32] * 3 + [64] * 6


@pytest.mark.parametrize("name", [*SCALED, "vgg16_32"])
def test_arguments_images_and_training(name: str):
    model = build_model(f"zoo:{name}?width_mult=0.25", num_classes=4, in_channels=1)
    x = torch.randn(2, 1, 64, 96)
    loss = nn.functional.cross_entropy(model(x), torch.tensor([1, 3]))
    loss.backward()
    assert loss < 3  # ln 4 = 1.39
    assert all(p.grad is not None for p in model.parameters())
    assert model.eval()(x).shape == (2, 4)


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("query", ["width_mult=0", "num_classes=0", "in_channels=0"])
def test_empty_networks_are_refused(name: str, query: str):
    with pytest.raises(ModelError, match=rf"{name}: num_classes=.* Raise the one that is less\."):
        build_model(f"zoo:{name}?{query}")


def test_resnet50_is_torchvisions_name_by_name():
    ours, theirs = build_model("zoo:resnet50").eval(), resnet50().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("zoo:mnasnet", "torchvision:mnasnet1_0"),
        ("zoo:mnasnet?width_mult=0.75", "torchvision:mnasnet0_75"),
        ("zoo:mobilenet_v1", "timm:mobilenetv1_100"),
    ],
)
def test_they_have_the_libraries_layers(ours: str, theirs: str):
    shapes = [[tuple(v.shape) for v in build_model(spec).state_dict().values()] for spec in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("width_mult", [0.1, 0.25, 0.3, 0.75, 1.1, 1.3, 2.0])
def test_every_width_scales(width_mult: float):
    """Any width builds and runs, in whole multiples, and its skips are those of the network at width 1."""
    for name in SCALED:
        model = build_model(f"zoo:{name}?width_mult={width_mult}").eval().to("meta")
        assert model(IMAGE).shape == (1, 1000)
        assert all(width % (12 if name == "shufflenet_v1" else 8) == 0 for width in channels(model)[:1])
    blocks = build_model(f"zoo:mnasnet?width_mult={width_mult}").blocks
    assert isinstance(blocks, nn.Sequential)
    added = [index for index, block in enumerate(blocks) if block.residual]
    assert added == [2, 3, 5, 6, 8, 9, 11, 13, 14, 15]


@pytest.mark.parametrize(
    "spec",
    [
        *["mobilenet_v1", "vgg16_32?width_mult=0.5", "shufflenet_v1?width_mult=1.5"],
        *(pytest.param(n, marks=pytest.mark.slow) for n in SCALED[2:]),
    ],
)
def test_they_slim_exactly(spec: str):
    model = randomise_(build_model(f"zoo:{spec}")).eval()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    graph = trace_channels(model, x)
    assert [group.frozen for group in graph.groups if group.frozen] == ["the network's output"]
    check_subnetwork(model, graph, graph.random_widths(1), (x,))
    macs = make_cost("macs", graph)
    assert macs(graph.min_widths()) < 0.1 * macs(graph.max_widths())


# Official networks --------------------------------------------------------------------------------------------------

ANY = ["autoslim_mobilenet_v1_150m", "autoslim_mobilenet_v2_305m", "autoslim_mnasnet_532m", "amc_mobilenet_v2"]
MACS = {  # convolutions and the classifier
    "autoslim_mobilenet_v1_150m": 149_825_128,
    "autoslim_mobilenet_v2_305m": 305_072_416,
    "autoslim_mnasnet_532m": 531_773_072,
    "autoslim_resnet50_570m": 570_004_736,
    "amc_mobilenet_v2": 210_620_528,
}


def test_there_are_thirteen_and_amcs_two():
    assert len(OFFICIAL) == 15
    assert sum(name.startswith("autoslim_") for name in OFFICIAL) == 13
    assert {name.rpartition("_")[0] for name in OFFICIAL if name.startswith("autoslim_")} == {
        f"autoslim_{family}" for family in ("mobilenet_v1", "mobilenet_v2", "mnasnet", "resnet50")
    }


@pytest.mark.parametrize(
    "name", [n if n in MACS else pytest.param(n, marks=pytest.mark.slow) for n in sorted(OFFICIAL)]
)
def test_an_official_network_has_its_lists_channels(name: str):
    """Also read back from the extracted network: its convolutions put out what was published, in order."""
    model = build_model(f"zoo:{name}")
    listed = list(OFFICIAL[name].channels)
    if OFFICIAL[name].family == "resnet50":  # a list names the shortcut first, the module last
        widths = [conv.out_channels for conv in model.modules() if isinstance(conv, nn.Conv2d)]
        for start in (1, 11, 24, 43):
            listed.insert(start + 3, listed.pop(start))
        assert widths == listed
    else:
        assert channels(model) == listed
    spec, widths = official_widths(name)
    graph = trace_base(spec)
    graph.check(widths)
    counted = counted_macs(model.eval().to("meta"), (IMAGE,))
    assert make_cost("macs", graph)(widths) == counted == MACS.get(name, counted)
    assert make_cost("params", graph)(widths) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", [ANY[0], *(pytest.param(n, marks=pytest.mark.slow) for n in ANY[1:])])
def test_an_official_network_trains(name: str):
    model = build_model(f"zoo:{name}", num_classes=4).train()
    loss = nn.functional.cross_entropy(model(torch.randn(2, 3, 64, 64)), torch.tensor([1, 3]))
    loss.backward()
    assert loss < 3
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_cut_layer_has_the_scale_of_its_own_fan_in():
    spec, widths = official_widths("autoslim_resnet50_570m")
    torch.manual_seed(0)
    small = build_model("zoo:autoslim_resnet50_570m")
    torch.manual_seed(0)
    wide = build_model(spec)
    expected = correct_scale_(extract_network(wide, trace_base(spec), widths), wide)
    for ours, theirs in zip(small.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    name = "layer4.1.conv2"  # its input: 120 of 512 channels
    ours, theirs = (net.get_parameter(f"{name}.weight").detach().std() for net in (small, wide))
    assert float(ours / theirs) == pytest.approx((512 / 120) ** 0.5, rel=0.05)


def test_an_official_network_is_described_and_rebuilt_by_name():
    described = describe_model("zoo:amc_mobilenet_v1", num_classes=7)
    assert described == {"builder": "zoo", "name": "amc_mobilenet_v1", "arguments": {"num_classes": 7}}
    assert rebuild_model(described).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_skips_are_the_wide_networks():
    """In two lists the first block has as many channels out as in: it has no skip in the network they were found in."""
    model = build_model("zoo:autoslim_mobilenet_v2_207m")
    first = model.get_submodule("features.1")
    assert channels(model)[:2] == [8, 8]
    assert not first.use_res_connect


def test_a_list_that_does_not_fit_is_told():
    graph = trace_base("zoo:mnasnet?width_mult=1.5")
    layers = ["stem.0", *(f"blocks.{block}.layers.{part}" for block in (1, 2) for part in (0, 6))]
    with pytest.raises(ModelError) as error:
        read_list("mine", graph, layers, [16, 24, 16, 48, 24])
    assert str(error.value) == (
        "Channel list `mine`: 24 channels for `blocks.2.layers.6`, but 16 for `blocks.1.layers.6`; expected the same, "
        "for the two are added or filtered together. Correct one of them."
    )
    with pytest.raises(ModelError) as error:
        read_list("mine", graph, layers, [16, 24, 16, 48, 16])
    assert str(error.value) == (
        "Channel list `mine`: no number for `blocks.0.layers.3`; expected one for every group of layers that can "
        "change. Name a layer of that group too."
    )
    with pytest.raises(ModelError, match=r"4 numbers; expected 5, one for each of stem\.0 to blocks\.2\.layers\.6"):
        read_list("mine", graph, layers, [16, 24, 16, 48])
    with pytest.raises(UnknownNameError, match=r"Unknown official network 'autoslim_mnasnet_539m'\. Closest"):
        official_widths("autoslim_mnasnet_539m")


def test_computed_and_shared_weights_are_scaled_as_far_as_they_are_drawn():
    tied = nn.Linear(16, 16)
    model = nn.Sequential(nn.Linear(4, 16), tied, nn.ReLU(), tied, nn.Linear(16, 5))
    graph = trace_channels(model, torch.randn(2, 4))
    (group,) = (group for group in graph.groups if group.frozen is None)
    small = extract_network(model, graph, graph.max_widths().replace({group.name: 4}))
    before = small[1].weight.detach().clone()
    correct_scale_(small, model)
    torch.testing.assert_close(small[1].weight, 2 * before)
    computed = nn.utils.parametrizations.weight_norm(nn.Linear(16, 5))
    state = {name: value.clone() for name, value in computed.state_dict().items()}
    correct_scale_(computed, computed)
    assert all(torch.equal(value, state[name]) for name, value in computed.state_dict().items())
