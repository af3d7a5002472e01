"""What SECURITY.md says that loading a folder can't do, tried with folders that try to."""

import ast
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

import autoslim
from autoslim import trace_channels
from autoslim.errors import ModelError, RunFolderError, UnknownNameError
from autoslim.models import build_model, describe_model
from autoslim.saved import save_network

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "network"
    spec = "zoo:resnet_digits?width=8"
    model = build_model(spec)
    graph = trace_channels(model, torch.zeros(1, 1, 8, 8))
    widths = graph.max_widths()
    save_network(
        folder, model, builder=describe_model(spec), attributes=graph.attributes(widths), widths=widths,
        preparation={"input": [1, 1, 8, 8]}, metrics={},
    )  # fmt: skip
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "network")


def write(folder: Path, model: dict[str, object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model": model}))


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_pickles_are_not_read(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert autoslim.load(folder)
    for data in (pickle.dumps(Bomb()), b""):
        (folder / "model.safetensors").write_bytes(data)
        with pytest.raises(RunFolderError, match="can't be read"):
            autoslim.load(folder)
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ({"builder": "timm", "name": "hf-hub:someone/something", "arguments": {}}, UnknownNameError),
        ({"builder": "timm", "name": "resnet18", "arguments": {"pretrained": True}}, ModelError),
        ({"builder": "timm", "name": "resnet18", "arguments": {"checkpoint_path": "x.pt"}}, ModelError),
        ({"builder": "torchvision", "name": "resnet18", "arguments": {"weights": "DEFAULT"}}, ModelError),
        ({"builder": "os", "name": "system", "arguments": {"command": "true"}}, UnknownNameError),
        ({"builder": "zoo", "name": "resnet_digits", "arguments": {"width": {"literal": "print(1)"}}}, ModelError),
    ],
)
def test_a_folder_chooses_among_builders_and_nothing_else(folder, model, error):
    write(folder, model)
    with pytest.raises(error):
        autoslim.load(folder)


def test_a_file_that_is_not_the_recorded_one_is_not_run(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    code = Path("code.py")
    code.write_text("from pathlib import Path\nPath('exploded').touch()\ndef make(): ...\n")
    config = {
        "builder": "file",
        "name": "code.py:make",
        "arguments": {},
        "path": str(code.resolve()),
        "factory": "make",
    }
    write(folder, {**config, "sha256": "0" * 64})
    with pytest.raises(ModelError, match="sha256"):
        autoslim.load(folder)
    assert not Path("exploded").exists()


def test_the_library_unpickles_nothing():
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and "load" in called.attr:
                safe = any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
                assert safe or called.value.id not in ("torch", "pickle", "dill", "joblib"), f"{path}:{node.lineno}"
