"""Every format gives the module's outputs in its own runtime, or leaves no file behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from autoslim import build_model, extract_network, rewrite_network, trace_channels
from autoslim.errors import ConfigError, DataError, ModelError, UnknownNameError
from autoslim.export import FORMATS, Format, Options, ServedNetwork, export_network, fold_batchnorm_
from autoslim.tasks import TASKS

IMAGES = torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(0))
COLOUR = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def lived_in(model: nn.Module) -> nn.Module:
    """BatchNorm statistics as after a training, so that folding them shows."""
    draw = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, *module.parameters()):
                tensor.detach().add_(0.3 * torch.randn(tensor.shape, generator=draw))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=draw))
    return model.eval()


@pytest.fixture(scope="module")
def slim() -> nn.Module:
    model = build_model("zoo:resnet_digits?width=8")
    graph = trace_channels(model, IMAGES[:1])
    return lived_in(extract_network(model, graph, graph.random_widths(3)))


@pytest.mark.parametrize("to", list(FORMATS))
@pytest.mark.parametrize("options", [Options(batch=4), Options(batch="dynamic", fold_bn=True)], ids=str)
def test_every_format_gives_the_modules_outputs(slim: nn.Module, tmp_path: Path, to: str, options: Options):
    before = {name: tensor.clone() for name, tensor in slim.state_dict().items()}
    path = tmp_path / "new" / f"network{FORMATS[to].suffix}"
    told = export_network(slim, IMAGES, path, to=to, options=options)
    assert path == told.files[0]
    assert {file.name for file in path.parent.iterdir()} == {file.name for file in told.files}
    assert told.images == (8 if options.batch == 4 and FORMATS[to].shaped else 9)
    assert told.max_difference <= 1e-5 < told.largest_output
    assert told.folded == (9 if options.fold_bn else 0)
    assert (told.opset == 18) == (to in ("onnx", "openvino"))
    assert [each["bytes"] > 0 for each in json.loads(json.dumps(told.to_json()["files"], default=str))]
    served = ServedNetwork(FORMATS[to].open(path, folded(slim) if options.fold_bn else slim), told.batch)
    torch.testing.assert_close(served(IMAGES)[0], slim(IMAGES), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in slim.state_dict().items())


def folded(model: nn.Module) -> nn.Module:
    copy = build_and_copy(model)
    fold_batchnorm_(copy, IMAGES)
    return copy


def build_and_copy(model: nn.Module) -> nn.Module:
    from autoslim.extract import copy_model

    return copy_model(model)


@pytest.mark.slow
@pytest.mark.parametrize("to", list(FORMATS))
def test_a_rewritten_network_goes_everywhere_too(to: str, tmp_path: Path):
    """Its forward pass takes `*args`, and its layers are called by a graph."""
    model = rewrite_network(build_model("timm:pvt_v2_b0", num_classes=10).eval(), COLOUR[:1])
    graph = trace_channels(model, COLOUR[:1])
    small = extract_network(model, graph, graph.uniform_widths(0.5)).eval()
    path = tmp_path / f"network{FORMATS[to].suffix}"
    assert export_network(small, COLOUR, path, to=to, options=Options(batch="dynamic")).max_difference <= 1e-5


def test_a_fixed_and_a_dynamic_onnx_file_say_so(slim: nn.Module, tmp_path: Path):
    import onnx

    for batch, expected, opset in ((4, 4, 17), ("dynamic", "batch", 18)):
        told = export_network(slim, IMAGES, tmp_path / "a.onnx", to="onnx", options=Options(batch=batch, opset=opset))
        graph = onnx.load(told.files[0])
        dim = graph.graph.input[0].type.tensor_type.shape.dim[0]
        assert (dim.dim_param or dim.dim_value) == expected
        assert graph.opset_import[0].version == opset == told.opset


def test_a_detectors_onnx_outputs_have_its_own_names(tmp_path: Path):
    import onnx

    task = TASKS["detection"]
    model = task.adapt(task.example()[0])
    path, images = tmp_path / "a.onnx", torch.rand(5, 3, 48, 48)
    export_network(model, images, path, to="onnx", options=Options(batch="dynamic"))
    outputs = {each.name: each.type.tensor_type.shape.dim[0].dim_param for each in onnx.load(path).graph.output}
    assert list(outputs) == ["bbox_regression", "cls_logits", "anchors"]
    assert [outputs[name] for name in ("bbox_regression", "cls_logits")] == ["batch", "batch"]
    assert outputs["anchors"] != "batch", "there is one set of default boxes, whatever the number of images"


# What is refused ------------------------------------------------------------------------------------------------------


def _write_another(model: nn.Module, x: torch.Tensor, path: Path, options: Options) -> None:
    path.write_text("2.0")


@pytest.mark.parametrize(("factor", "kept"), [("1.001", False), ("nan", False), ("1.00001", True), ("wide", False)])
def test_a_file_that_computes_something_else_is_not_kept(slim, tmp_path: Path, monkeypatch, factor: str, kept: bool):
    def serve(path: Path, model: nn.Module):
        assert path.read_text() == "2.0"
        return lambda images: slim(images)[:, :5] if factor == "wide" else slim(images) * float(factor)

    broken = Format(suffix=".txt", write=_write_another, open=serve)
    monkeypatch.setitem(FORMATS._items, "broken", broken)  # pyright: ignore[reportAttributeAccessIssue]
    path = tmp_path / "a.txt"
    path.write_text("an older one")
    if kept:
        export_network(slim, IMAGES, path, to="broken")
        assert path.read_text() == "2.0"
        return
    with pytest.raises(ModelError, match=r"ResNetDigits as broken: the file differs by up to .* a\.txt is not kept"):
        export_network(slim, IMAGES, path, to="broken")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "an older one"


class Counted(nn.Module):
    """Takes the batch's size for a number, which an ONNX file then holds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.reshape(len(x), -1))


def test_a_file_that_takes_one_batch_alone_is_told(tmp_path: Path):
    images = torch.randn(64, 1, 2, 2)
    with pytest.raises(ModelError, match=r"Counted as onnx: the file does not run on batches of .*x\.flatten\(1\)"):
        export_network(Counted(), images, tmp_path / "a.onnx", to="onnx", options=Options(batch="dynamic"))
    assert not (tmp_path / "a.onnx").exists()
    export_network(Counted(), images, tmp_path / "a.onnx", to="onnx", options=Options(batch=4))


def test_what_does_not_fit_is_told(slim: nn.Module, tmp_path: Path):
    with pytest.raises(UnknownNameError, match=r"Unknown export format 'onnxx'\. Closest: onnx"):
        export_network(slim, IMAGES, tmp_path / "a.onnx", to="onnxx")
    with pytest.raises(ConfigError, match=r"'a\.pb' can't be onnx; expected a name that ends in \.onnx"):
        export_network(slim, IMAGES, tmp_path / "a.pb", to="onnx")
    with pytest.raises(DataError, match="9 images to compare on; expected 10 or more with batch 10"):
        export_network(slim, IMAGES, tmp_path / "a.onnx", to="onnx", options=Options(batch=10))
    with pytest.raises(ConfigError, match=r"torch writes it with opset 18; expected 99, .*\. Write --opset 18"):
        export_network(slim, IMAGES, tmp_path / "a.onnx", to="onnx", options=Options(opset=99))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="batch is 0; expected 1 or more"):
        Options(batch=0)
    with pytest.raises(ConfigError, match="tolerance is -1; expected a number above 0"):
        Options(tolerance=-1)


# Folding --------------------------------------------------------------------------------------------------------------


class Awkward(nn.Module):
    """Of six BatchNorms one may be folded: the first. The others' convolutions are read, or called, more than once."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1, bias=at == 0) for at in range(5))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3, affine=at != 0) for at in range(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (a, b, c, d, e), (f, g, h, i, j) = self.convs, self.norms
        x = f(a(x))
        y = b(x)
        x = g(y) + y  # read twice
        x = h(c(x)) + c(x)  # called twice
        x = i(d(x).relu_())  # something in between
        return i(x) + j(e(x) * 2)


def test_only_what_directly_follows_a_convolution_is_folded(slim: nn.Module):
    model = lived_in(Awkward())
    expected = model(COLOUR)
    copy = build_and_copy(model)
    assert fold_batchnorm_(copy, COLOUR) == 1
    assert isinstance(copy.norms[0], nn.Identity)
    torch.testing.assert_close(copy(COLOUR), expected, rtol=1e-5, atol=1e-5)


def test_a_fold_is_what_the_two_layers_computed():
    model = lived_in(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).double()
    copy = build_and_copy(model)
    assert fold_batchnorm_(copy, COLOUR.double()) == 1
    torch.testing.assert_close(copy(COLOUR.double()), model(COLOUR.double()), rtol=1e-12, atol=1e-12)


# Python ---------------------------------------------------------------------------------------------------------------

ALONE = """
import sys
sys.modules["autoslim"] = None  # what is imported from here on can't be it
import torch
torch.set_num_threads(1)
names = {}
exec(open("network.py").read(), names)
network = names["Network"]()
network.load_state_dict(torch.load("network.weights.pt", weights_only=True))
images, expected = torch.load("outputs.pt", weights_only=True)
with torch.no_grad():
    torch.testing.assert_close(network.eval()(images), expected, rtol=1e-5, atol=1e-5)
try:
    import autoslim
except ImportError:
    print(sum(p.numel() for p in network.parameters()))
"""


@pytest.mark.slow  # a process each; what the file says is held fast below
@pytest.mark.parametrize(
    ("spec", "fold"),
    [
        ("zoo:resnet_digits?width=8", False),
        ("torchvision:mobilenet_v2?width_mult=0.25", True),
        ("torchvision:mobilenet_v2", False),
        ("torchvision:resnet18", False),
        ("torchvision:shufflenet_v2_x0_5", False),
        ("timm:mobilenetv2_100", True),
        ("timm:vit_tiny_patch16_224?img_size=32", False),
    ],
)
def test_a_python_file_needs_nothing_of_ours(spec: str, fold: bool, tmp_path: Path):
    images = IMAGES if spec.startswith("zoo") else COLOUR
    full = build_model(spec, num_classes=10).eval()
    graph = trace_channels(full, images[:1])
    model = lived_in(extract_network(full, graph, graph.random_widths(0)))
    export_network(model, images, tmp_path / "network.py", to="python", options=Options(fold_bn=fold))
    text = (tmp_path / "network.py").read_text()
    assert "autoslim" not in text.replace("written by `autoslim export --to python`", "")
    torch.save((images, model(images).detach()), tmp_path / "outputs.pt")
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
    if not fold:
        assert int(done.stdout) == sum(p.numel() for p in model.parameters())


def test_a_python_file_reads_as_written_by_hand(tmp_path: Path):
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
            self.block = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Identity())
            self.block_1 = nn.Linear(4, 2)
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            x = x + self.block(x) * 2
            torch._assert(x.dim() == 4, "no batch of images")
            return self.scale * self.block_1(nn.functional.relu(x).mean((2, 3)))

    export_network(Small(), COLOUR, tmp_path / "a.py", to="python")
    text = (tmp_path / "a.py").read_text()
    assert text[text.index("import torch") :] == CODE


CODE = """import torch
import torch.nn.functional as F
from torch import nn


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, kernel_size=3, stride=2, padding=1, bias=False)
        self.block_0 = nn.BatchNorm2d(num_features=4)
        self.block_1 = nn.ReLU()
        self.block_1_ = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.empty([2], dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        # block
        y = self.block_0(x)
        y = self.block_1(y)
        y = y * 2
        x = x + y
        x = F.relu(x)
        x = x.mean((2, 3))

        x = self.block_1_(x)
        x = self.scale * x
        return x
"""


def test_a_shape_stays_whole_in_a_python_file(tmp_path: Path):
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Unflatten(1, (4, 4)))
    export_network(model, COLOUR, tmp_path / "a.py", to="python")
    assert "nn.Unflatten(dim=1, unflattened_size=(4, 4))" in (tmp_path / "a.py").read_text()


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Branches(), "symbolically traced variables cannot be used as inputs to control flow"),
        (nn.Sequential(nn.Flatten(), nn.LSTM(3072, 2)), "`1` is a LSTM, which is not known here"),
    ],
)
def test_what_is_no_plain_feed_forward_says_why(model: nn.Module, reason: str, tmp_path: Path):
    with pytest.raises(ModelError) as error:
        export_network(model, COLOUR, tmp_path / "a.py", to="python")
    assert f"{type(model).__name__} can't be written as a Python file: {reason}" in str(error.value)
    assert "Expected a plain feed-forward" in str(error.value)
    assert "Try --to torch-export or --to onnx" in str(error.value)
    assert list(tmp_path.iterdir()) == []
