"""The doctor: what works is told as such, what is broken or missing is found, and the exit code says which."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import pytest
import torch

from autoslim import doctor
from autoslim.cli import main
from autoslim.doctor import Check, Diagnosis, check_devices, check_packages, check_pipeline, check_runtimes
from autoslim.errors import RuntimeFailedError
from autoslim.runtimes import RUNTIMES


def by_name(checks: Any) -> dict[str, Check]:
    return {check.name: check for check in checks}


class Metadata:
    """The packages of an environment that is made up."""

    def __init__(self, versions: Mapping[str, str], requires: list[str], extras: list[str]) -> None:
        self.versions, self.wanted, self.extras = versions, requires, extras

    def version(self, name: str) -> str:
        if name not in self.versions:
            raise metadata.PackageNotFoundError(name)
        return self.versions[name]

    def requires(self, name: str) -> list[str]:
        self.version(name)
        return self.wanted

    def metadata(self, name: str) -> Any:
        told = {"Version": self.version(name)}
        return type("About", (), {"__getitem__": told.__getitem__, "get_all": lambda *_: self.extras})()


REQUIRES = [
    "torch>=2.8",
    "timm>=1.0",
    "rich>=13",
    'winreg>=1; sys_platform == "win32"',
    'onnx>=1.17; extra == "onnx"',
    'onnxruntime>=1.20; extra == "onnx"',
    'pytest>=8; extra == "dev"',
    'slim[onnx]; extra == "dev"',
]


@pytest.fixture
def environment(monkeypatch):
    versions = {"slim": "1.2", "torch": "2.5.1", "timm": "1.0.31", "onnx": "1.18", "pytest": "9.0"}
    made_up = Metadata(versions, REQUIRES, ["onnx", "dev"])
    for name in ("version", "requires", "metadata"):
        monkeypatch.setattr(doctor.metadata, name, getattr(made_up, name))


@pytest.mark.usefixtures("environment")
def test_packages_are_compared_with_what_is_required():
    found = by_name(check_packages("slim"))
    assert list(found) == ["slim", "torch", "timm", "rich", "onnx", "dev"]
    assert (found["slim"].state, found["slim"].told) == ("works", "1.2")
    assert (found["torch"].state, found["torch"].told) == ("fails", "2.5.1, expected >=2.8")
    assert (found["timm"].state, found["rich"].state) == ("works", "missing")
    assert found["rich"].advice == 'pip install "rich>=13"'
    for extra in ("onnx", "dev"):  # dev is made of onnx and pytest
        assert (found[extra].state, found[extra].needed) == ("missing", False)
        assert found[extra].told == "lacks onnxruntime>=1.20"
        assert found[extra].advice == 'pip install "onnxruntime>=1.20"'
    absent = by_name(check_packages("slam"))["slam"]
    assert (absent.state, absent.advice) == ("missing", "pip install -e . in the clone")


def test_the_processor_works_and_one_that_calculates_wrongly_is_found(monkeypatch):
    assert by_name(check_devices())["cpu"].state == "works"
    right, asked = doctor._gradients, list[str]()

    def wrong(device: torch.device, **options: Any) -> list[torch.Tensor]:
        asked.append(str(device))
        return [gradient * (1 + 0.1 * (len(asked) > 1)) for gradient in right(device, **options)]

    monkeypatch.setattr(doctor, "_gradients", wrong)
    found = by_name(check_devices())["cpu"]
    assert found.state == "fails"
    assert "off those of the processor" in found.told


def test_an_accelerator_that_is_there_and_broken_is_needed(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    found = by_name(check_devices())
    assert (found["cpu"].state, found["xpu:0"].state, found["xpu:0"].needed) == ("works", "fails", True)


def test_runtimes_are_tried(monkeypatch):
    def measure(runtime: Any, *_: Any, **__: Any) -> Any:
        if runtime.name == "openvino":
            raise RuntimeFailedError('No. Install it with pip install "a>=1" "b>=2", or "not".') from ImportError()
        if runtime.name == "torch.compile":
            raise RuntimeError("no compiler\nmore")
        return real(runtime, *_, **__)

    real = doctor.measure_networks
    monkeypatch.setattr(doctor, "measure_networks", measure)
    found = by_name(check_runtimes())
    assert list(found) == list(RUNTIMES)
    assert found["torch"].state == "works"
    assert (found["openvino"].state, found["openvino"].told) == ("missing", "not installed")
    assert found["openvino"].advice == 'pip install "a>=1" "b>=2"'
    assert (found["torch.compile"].state, found["torch.compile"].told) == ("fails", "RuntimeError: no compiler")
    assert found["command"].state == "missing"
    assert [name for name, check in found.items() if check.needed] == ["torch"]


def test_more_threads_than_cores_are_told(monkeypatch):
    monkeypatch.setattr(doctor, "_usable_cores", lambda: 1.5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    threads = by_name(doctor.check_settings())["threads"]
    assert (threads.state, threads.advice) == ("fails", "export OMP_NUM_THREADS=1")


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its allocator is asked")
@pytest.mark.parametrize(("start", "kept"), [("set_process()", True), ("None", False)])
def test_the_allocator_is_tried(start, kept):
    code = f"from autoslim._process import set_process; {start}; from autoslim.doctor import _page_faults as found; "
    done = subprocess.run([sys.executable, "-c", f"{code}assert (found() < 0.5) is {kept}"], timeout=120)
    assert done.returncode == 0


def test_the_pipeline_runs_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.tempfile, "tempdir", str(tmp_path))
    found = by_name(check_pipeline())
    assert list(found) == ["trace", "train", "search", "retrain", "extract", "onnx", "all"]
    assert {check.state for check in found.values()} == {"works"}
    assert "of the MACs" in found["extract"].told
    assert [path for path in tmp_path.iterdir() if "inductor" not in path.name] == []


def test_a_pipeline_that_breaks_is_told(monkeypatch):
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(doctor, "run", broken)
    (found,) = check_pipeline()
    assert (found.state, found.told) == ("fails", "OSError: No space left on device")


@pytest.mark.parametrize(("state", "needed", "code"), [("works", True, 0), ("fails", False, 0), ("missing", True, 1)])
def test_the_command_tells_all_and_its_exit_code_the_verdict(state, needed, code, monkeypatch, capsys):
    found = Diagnosis("a machine", (Check("package", "torch", state, "[told]", needed=needed, advice="do it"),))
    monkeypatch.setattr("autoslim.cli.doctor.diagnose", lambda **_: found)
    assert main(["doctor", "--json"]) == code
    told = json.loads(capsys.readouterr().out)
    assert (told["well"], told["checks"][0]["state"]) == (code == 0, state)
    assert main(["doctor"]) == code
    out = " ".join(capsys.readouterr().out.split())
    assert "[told]. do it" in out
    assert ("needs what does not work here: torch" in out) == (code == 1)


def test_without_the_self_test_the_rest_is_tried(monkeypatch):
    for name in ("check_packages", "check_devices", "check_runtimes", "check_settings"):
        monkeypatch.setattr(doctor, name, lambda name=name: iter([Check("setting", name, "works", "")]))
    monkeypatch.setattr(doctor, "check_pipeline", lambda: iter([Check("pipeline", "all", "works", "")]))
    assert len(doctor.diagnose(self_test=False).checks) == 4
    assert doctor.diagnose().checks[-1].kind == "pipeline"
