"""What an extra asks for, and the command that installs it: one that works where autoslim is on no index."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from autoslim._extras import install_extra, requirements_of, say_install

ROOT = Path(__file__).parent.parent
REQUIRES = [
    "torch>=2.8",
    'winreg>=1; sys_platform == "never"',
    'onnx>=1.17; extra == "onnx"',
    'onnxruntime>=1.20; extra == "onnx"',
    'tool[fast]>=1; extra == "dev"',
    'autoslim[onnx]; extra == "dev"',
]


@pytest.fixture
def requires(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)


@pytest.mark.usefixtures("requires")
def test_an_extra_names_its_packages_also_those_of_another_one():
    assert [each.name for each in requirements_of()] == ["torch"]
    assert install_extra("onnx") == 'pip install "onnx>=1.17" "onnxruntime>=1.20"'
    assert install_extra("dev") == 'pip install "tool[fast]>=1" "onnx>=1.17" "onnxruntime>=1.20"'


def test_a_package_is_named_once():
    assert say_install([Requirement("onnx>=1.17"), Requirement("onnx>=1.17")]) == 'pip install "onnx>=1.17"'


def test_a_clone_that_is_not_installed_is_named_itself(monkeypatch):
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert install_extra("onnx") == "pip install -e '.[onnx]' in the clone"


def test_every_extra_that_is_named_in_the_sources_exists():
    sources = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    named = set(re.findall(r"install_extra\([\"'](\w+)[\"']\)", sources))
    assert {"detection", "png", "trackers", "bench"} <= named
    assert "autoslim[" not in sources
    for extra in named | {"onnx", "openvino"}:
        assert list(requirements_of(extra)), extra
