"""A model folder to the hub and back, through stand-ins of huggingface_hub's functions; and without this library."""

import json
import re
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import huggingface_hub
import pytest
import torch

from autoslim import Widths, build_model, extract_network, load, push, trace_channels
from autoslim.errors import ConfigError, ModelError, RunFolderError
from autoslim.models import describe_model
from autoslim.saved import save_network

ROOT = Path(__file__).parent.parent
SPEC = "torchvision:mobilenet_v2?width_mult=0.25"
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "models" / "macs-50"
    model = build_model(SPEC, num_classes=3)
    graph = trace_channels(model, X)
    widths = graph.random_widths(1)
    small = extract_network(model, graph, widths)
    small.train()(X)  # BatchNorm statistics of some use
    small.eval()
    preparation = {"classes": list("abc"), "input": [1, 3, 32, 32], "resize": "none"}
    preparation["normalisation"] = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
    save_network(
        folder, small, builder=describe_model(SPEC, num_classes=3), attributes=graph.attributes(widths), widths=widths,
        preparation=preparation, metrics={"macs": 1234, "budget": "macs<=50%", "test_accuracy": 0.75},
    )  # fmt: skip
    return folder, small, widths


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub as a folder: {repository: files}."""
    store = tmp_path / "hub"

    def create_repo(repo_id, *, exist_ok, private):
        (store / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(*, repo_id, folder_path, commit_message):
        assert commit_message
        copytree(folder_path, store / repo_id, dirs_exist_ok=True)
        return f"hub/{repo_id}"

    def snapshot_download(repo_id, *, revision, allow_patterns):
        if not (store / repo_id).exists() or revision not in (None, "v1"):
            raise huggingface_hub.errors.LocalEntryNotFoundError("404: no such repository")
        assert set(allow_patterns) == {"config.json", "widths.json", "model.safetensors", "metrics.json"}
        return str(store / repo_id)

    for function in (create_repo, upload_folder, snapshot_download):
        monkeypatch.setattr(huggingface_hub, function.__name__, function)
    return store


def test_what_was_pushed_loads_as_it_was(saved, hub):
    folder, small, widths = saved
    assert push(folder, "me/slim") == "hub/me/slim"
    names = {"README.md", "config.json", "metrics.json", "model.safetensors", "widths.json"}
    assert {file.name for file in (hub / "me" / "slim").iterdir()} == names
    for name in ("hf-hub:me/slim", "hf-hub:me/slim@v1"):
        again = load(name)
        assert type(again) is type(small)
        torch.testing.assert_close(again(X), small(X))
    card = (hub / "me" / "slim" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "# torchvision:mobilenet_v2, slimmed" in card
    assert "under `macs<=50%`" in card
    assert "| MACs | 1,234 |" in card
    assert "| test accuracy | 75.00% |" in card
    assert 'autoslim.load("hf-hub:me/slim")' in card
    for group, width in widths.items():
        assert f"| {group} | {width} |" in card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": {"builder": "file", "path": "evil.py"}},
            "names the builder 'file', which may be code; expected one of",
        ),
        ({"model": {"builder": "pickle"}}, "names the builder 'pickle'"),
        ({"model": "os.system"}, "names the builder None"),
        ({"attributes": {"features": "forward"}}, "sets `features.` to 'forward'"),
        ({"attributes": None}, "sets `attributes.` to None"),
        ({"attributes": {"features": {"forward": "os.system"}}}, "sets `features.forward` to 'os.system'"),
        ({"attributes": {"features": {"__class__": 3}}}, "sets `features.__class__` to 3"),
    ],
)
def test_code_from_the_hub_is_refused(saved, hub, change, message, monkeypatch):
    folder, _, _ = saved
    push(folder, "me/slim")
    path = hub / "me" / "slim" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    monkeypatch.setattr("autoslim.saved.rebuild_model", lambda config: pytest.fail("it was built"))
    with pytest.raises(ModelError, match=re.escape(message)):
        load("hf-hub:me/slim")


def test_a_network_of_code_is_not_pushed(saved, hub, tmp_path):
    folder = tmp_path / "mine"
    copytree(saved[0], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model": {"builder": "file", "path": "a.py"}}))
    with pytest.raises(ModelError, match="Code does not travel by the hub: share what"):
        push(folder, "me/slim")
    assert not hub.exists()


def test_what_is_not_there_is_told(saved, hub, tmp_path):
    with pytest.raises(RunFolderError, match=r"hf-hub:me/none can't be downloaded: 404.*hf auth whoami"):
        load("hf-hub:me/none")
    for name in ("slim", "me/slim/more", "me/slim@v1", ""):
        with pytest.raises(ConfigError, match="expected user/name"):
            push(saved[0], name)
    with pytest.raises(ConfigError, match="expected user/name"):
        load("hf-hub:slim")
    folder = tmp_path / "torn"
    copytree(saved[0], folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"`model\.safetensors` is missing in"):
        push(folder, "me/slim")


def load_alone(folder: Path, x: torch.Tensor, y: torch.Tensor) -> None:
    """The block of the README, in a process where `autoslim` can't be imported and nothing can be downloaded."""
    (lines,) = re.findall(r"^```py\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len([line for line in lines.splitlines() if line]) <= 10
    torch.save((x, y.detach()), folder / "outputs.pt")
    script = (
        'import sys, torch; sys.modules["autoslim"] = torch.hub.load_state_dict_from_url = None\n'
        + lines.replace("DIR", str(folder))
        + f"x, y = torch.load({str(folder / 'outputs.pt')!r})\n"
        "y_ = model.eval()(x)\ntorch.testing.assert_close(y_['out'] if isinstance(y_, dict) else y_, y)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_readmes_lines_load_it_without_this_library(saved):
    folder, small, _ = saved
    assert small.features[0][0].out_channels < 32
    load_alone(folder, X, small(X))


def test_the_readmes_lines_download_no_backbone(tmp_path):
    spec = "torchvision:lraspp_mobilenet_v3_large"
    model = build_model(spec, num_classes=3).eval()
    save_network(
        tmp_path / "m", model, builder=describe_model(spec, num_classes=3), attributes={}, widths=Widths({}),
        preparation={}, metrics={},
    )  # fmt: skip
    load_alone(tmp_path / "m", X, model(X)["out"])
