"""A slim network on disk and back, with this library and without it."""

import hashlib
import json

import pytest
import torch
from torch import nn

from autoslim import extract_network, load, trace_channels
from autoslim.errors import ModelError, RunFolderError
from autoslim.models import build_model, describe_model
from autoslim.saved import load_tensors_, save_network, save_tensors

SPEC = "zoo:mobilenet_small?width_mult=0.5"
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "models" / "macs-50"
    model = build_model(SPEC, num_classes=7)
    graph = trace_channels(model, X)
    widths = graph.random_widths(1)
    small = extract_network(model, graph, widths).eval()
    save_network(
        folder, small, builder=describe_model(SPEC, num_classes=7), attributes=graph.attributes(widths), widths=widths,
        preparation={"classes": list("abcdefg"), "input": [1, 3, 32, 32]}, metrics={"macs": 1},
    )  # fmt: skip
    return folder, small


def test_load_gives_the_same_module_back(saved):
    folder, small = saved
    again = load(folder)
    assert not again.training
    assert type(again) is type(small)
    assert torch.equal(again(X), small(X))
    for (name, module), other in zip(small.named_modules(), again.modules(), strict=True):
        for attribute in ("in_channels", "out_channels", "groups", "num_features", "in_features"):
            assert getattr(module, attribute, None) == getattr(other, attribute, None), (name, attribute)


def test_plain_torch_rebuilds_it_from_the_files(saved):
    """What `config.json` holds is enough: nothing below but torch and safetensors (and who builds the full model)."""
    from safetensors.torch import load_file

    folder, small = saved
    config = json.loads((folder / "config.json").read_text())
    model = build_model(SPEC, num_classes=len(config["classes"])).eval()
    for name, tensor in load_file(folder / "model.safetensors").items():
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        kind = torch.nn.Parameter if attribute in module._parameters else torch.Tensor.clone
        setattr(module, attribute, kind(tensor))
    for path, values in config["attributes"].items():
        for attribute, value in values.items():
            setattr(model.get_submodule(path), attribute, value)
    assert torch.equal(model(X), small(X))


def test_widths_and_metrics_lie_beside_it(saved):
    folder, _ = saved
    assert json.loads((folder / "metrics.json").read_text())["macs"] == 1
    assert json.loads((folder / "widths.json").read_text())["_type"] == "Widths"


class Lazy(nn.Module):
    """Makes a buffer in its first forward pass."""

    def __init__(self, persistent):
        super().__init__()
        self.layer, self.persistent = nn.Linear(3, 2), persistent

    def forward(self, x):
        if not hasattr(self, "grid"):
            self.register_buffer("grid", torch.arange(2.0), persistent=self.persistent)
        return self.layer(x) + self.grid


@pytest.mark.parametrize("persistent", [False, True])
def test_a_buffer_that_a_forward_pass_makes_is_no_obstacle(tmp_path, persistent):
    model, other, x = Lazy(persistent), Lazy(persistent), torch.randn(4, 3)
    model(x)
    if persistent:
        model.grid += 1
    expected = model(x)
    save_tensors(tmp_path / "model.safetensors", model)
    load_tensors_(tmp_path / "model.safetensors", other)
    assert torch.equal(other(x), expected)


def test_tensors_of_another_model_are_refused(tmp_path):
    save_tensors(tmp_path / "a.safetensors", torch.nn.Linear(2, 3))
    with pytest.raises(RunFolderError) as error:
        load_tensors_(tmp_path / "a.safetensors", torch.nn.Linear(2, 3, bias=False))
    assert "does not belong to this Linear: 'bias' is in only one of the two" in str(error.value)
    (tmp_path / "b.safetensors").write_bytes(b"\x05")
    with pytest.raises(RunFolderError, match=r"`b\.safetensors` in .* can't be read"):
        load_tensors_(tmp_path / "b.safetensors", torch.nn.Linear(2, 3))
    with pytest.raises(RunFolderError, match=r"`c\.safetensors` in .* can't be read"):
        load_tensors_(tmp_path / "c.safetensors", torch.nn.Linear(2, 3))


def test_a_folder_that_is_no_model_is_told(tmp_path):
    with pytest.raises(
        RunFolderError, match=r"`config\.json` is missing in .* Expected a folder that `autoslim run` wrote"
    ):
        load(tmp_path)


def test_files_are_as_readable_as_any_other(saved, tmp_path):
    (tmp_path / "plain").write_text("")
    mode = (tmp_path / "plain").stat().st_mode
    assert {p.stat().st_mode for p in saved[0].iterdir()} == {mode}


def test_a_changed_code_file_is_refused_and_each_way_out_that_is_told_works(tmp_path):
    file = tmp_path / "net.py"
    code = "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())\n"
    file.write_text(code)
    model = build_model(f"{file}:make").eval()
    graph = trace_channels(model, X)
    folder, builder = tmp_path / "saved", describe_model(f"{file}:make")
    save_network(
        folder, model, builder=builder, attributes=graph.attributes(graph.max_widths()), widths=graph.max_widths(),
        preparation={"input": [1, 3, 32, 32]}, metrics={},
    )  # fmt: skip
    new = code + "# the same network\n"
    file.write_text(new)
    sha256 = hashlib.sha256(new.encode()).hexdigest()
    with pytest.raises(ModelError) as error:
        load(folder)
    assert str(error.value) == (
        f"Model file `{file}`: it has changed since the network was built from it: its sha256 is {sha256}; expected "
        f"{builder['sha256']}. Put it back as it was, from version control or a copy, or write where that version lies "
        "as `path` into the description (of a saved network: under `model` in the `config.json` of its folder). If you "
        "know that the new code builds the same network, layers and forward alike, write its sha256 there. A network "
        "that is another one needs a new run."
    )
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "old.py").write_text(code)
    for change in ({"path": str(tmp_path / "old.py")}, {"sha256": sha256}):
        (folder / "config.json").write_text(json.dumps({**config, "model": {**builder, **change}}))
        assert torch.equal(load(folder)(X), model(X))
    (folder / "config.json").write_text(json.dumps(config))
    file.write_text(code)
    assert torch.equal(load(folder)(X), model(X))
