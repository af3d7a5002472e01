"""Runtimes: every one times a small network; what is missing, refused or broken is told; turns are taken."""

import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import nn

from autoslim import export_network, extract_network, trace_channels
from autoslim.errors import ConfigError, ModelError, RuntimeFailedError, UnknownNameError
from autoslim.runtimes import (
    OPSET,
    RUNTIMES,
    Latency,
    describe_machine,
    export_onnx,
    find_runtime,
    measure_networks,
    read_processor,
)

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def make_network(channels: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, channels, 3),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, groups=channels),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 4),
    ).eval()


def make_command(tmp_path: Path, program: str, *, argument: str = "{onnx}") -> str:
    script = tmp_path / "measure.py"
    script.write_text(program)
    return f"command:{shlex.quote(sys.executable)} {shlex.quote(str(script))} {argument}"


SPECS = [pytest.param(name, marks=[pytest.mark.slow] if name == "torch.compile" else []) for name in RUNTIMES]


@pytest.mark.parametrize("name", SPECS)
def test_every_runtime_times_a_network_and_leaves_it_alone(name: str, tmp_path: Path):
    spec = make_command(tmp_path, "print(3.5)") if name == "command" else name
    runtime = find_runtime(spec)
    model, threads = make_network(), torch.get_num_threads()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for precision in runtime.precisions:
        (latency,) = measure_networks(runtime, [model], IMAGE, precision=precision, repeats=3)
        assert 0 < latency.low <= latency.median <= latency.high < 1000
        assert latency.repeats == (1 if runtime.once else 3)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.get_num_threads() == threads
    assert runtime.version().startswith(name) or name == "torch.compile"
    assert runtime.spec == spec
    with pytest.raises(ConfigError, match="precision 'int3'; expected fp32"):
        measure_networks(runtime, [model], IMAGE, precision="int3")


class OneImage(nn.Module):
    """Fits a batch of one alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(1, -1)[:, : x[0].numel()]


def test_a_network_that_a_runtime_can_not_run_is_told():
    told = r"Runtime 'torch' can't run Sequential on \[2, 3, 16, 16\], fp32: .*(?:shape|size).* --runtime-batch"
    with pytest.raises(RuntimeFailedError, match=told):
        measure_networks(
            find_runtime("torch"), [nn.Sequential(OneImage(), nn.Linear(3, 2))], IMAGE.expand(2, 3, 16, 16)
        )


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
def test_a_wider_network_takes_longer(name: str):
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Conv2d(3, c, 3), nn.Conv2d(c, c, 3), nn.Conv2d(c, c, 3)) for c in (8, 128)]
    small, large = measure_networks(find_runtime(name), models, torch.zeros(1, 3, 24, 24), repeats=5)
    assert small.median < large.median


class Twice(nn.Module):
    """A class whose code many networks share."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, channels, 3), nn.Conv2d(channels, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def test_each_of_many_networks_is_compiled_once_and_runs_compiled(monkeypatch: pytest.MonkeyPatch):
    """Twelve of one class, above the eight versions of its code that are kept unless asked for more."""
    shapes, runs = list[tuple[int, ...]](), list[int]()

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        shapes.append(tuple(shape for each in inputs for shape in each.shape))
        number = len(shapes)
        return lambda *args: runs.append(number) or graph.forward(*args)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    limit = torch._dynamo.config.recompile_limit
    measure_networks(find_runtime("torch.compile"), [Twice(channels) for channels in range(1, 13)], IMAGE, repeats=1)
    assert len(shapes) == len(set(shapes)) == 12
    assert all(type(size) is int for shape in shapes for size in shape)  # none is dynamic
    assert len({runs.count(number) for number in range(1, 13)}) == 1
    assert torch._dynamo.config.recompile_limit == limit


class Vanish(nn.Module):
    """All its values are denormal numbers, or 0 where those count as 0."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append((x * 1e-20).max().item())
        return x


def test_vanishing_numbers_count_as_zero_while_measuring():
    model, tiny = Vanish(), torch.full((1,), 1e-20)
    measure_networks(find_runtime("torch"), [model], tiny, repeats=1)
    assert set(model.seen) == {0.0}
    model(tiny)
    assert model.seen[-1] > 0


def test_what_onnx_runtime_runs_is_the_extracted_network():
    import onnxruntime

    model = make_network()
    graph = trace_channels(model, IMAGE)
    for ratio in (1.0, 0.5):
        small = extract_network(model, graph, graph.uniform_widths(ratio)).eval()
        session = onnxruntime.InferenceSession(export_onnx(small, IMAGE))
        (output,) = session.run(None, {"input": IMAGE.numpy()})
        np.testing.assert_allclose(output, small(IMAGE).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_what_is_measured_is_what_is_exported(tmp_path: Path):
    """A command gets the operators that `autoslim export` writes: the same nodes, in the same version."""
    import onnx

    model = nn.Sequential(make_network(), nn.GELU())  # written otherwise in each of opsets 18 and 20
    kept = tmp_path / "measured.onnx"
    program = f'{sys.executable} -c "import shutil, sys; shutil.copy(sys.argv[1], {str(kept)!r}); print(1)" {{onnx}}'
    measure_networks(find_runtime(f"command:{program}"), [model], IMAGE)
    export_network(model, IMAGE, tmp_path / "exported.onnx", to="onnx")
    measured, exported = (onnx.load(tmp_path / f"{name}.onnx") for name in ("measured", "exported"))
    assert [node.op_type for node in measured.graph.node] == [node.op_type for node in exported.graph.node]
    assert measured.opset_import[0].version == exported.opset_import[0].version == OPSET


def test_the_documented_program_prints_milliseconds(tmp_path: Path):
    text = (Path(__file__).parent.parent / "docs" / "how-to" / "measure-elsewhere.md").read_text()
    program = text.split("<<'END'\n")[1].split("END\n")[0]
    (tmp_path / "network.onnx").write_bytes(export_onnx(make_network(), IMAGE))
    program = program.replace("/tmp/network.onnx", str(tmp_path / "network.onnx"))
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert float(told) > 0


class NotTraceable(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        raise ValueError("not like this")


def test_what_can_not_be_exported_is_told():
    with pytest.raises(
        ModelError, match=r"NotTraceable can't be exported to ONNX: .*not like this.*Expected a network"
    ):
        export_onnx(NotTraceable(), IMAGE)


# The command ----------------------------------------------------------------------------------------------------------


def test_a_command_gets_an_onnx_file_and_its_last_number_counts(tmp_path: Path):
    program = (
        "import sys, onnxruntime\nname, threads = sys.argv[1:]\n"
        "session = onnxruntime.InferenceSession(name)\n"
        "print('run 17 of p50'); print(f'{session.get_inputs()[0].shape[2]} pixels, {threads}.25ms, mean')\n"
    )
    runtime = find_runtime(make_command(tmp_path, program, argument="{onnx} {threads}"))
    assert measure_networks(runtime, [make_network()], IMAGE, threads=2) == [Latency(2.25, 2.25, 2.25, 1)]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print('no phone'); exit(3)", "it ended with status 3. Its output: no phone"),
        ("import sys; sys.exit('device offline')", "it ended with status 1. Its output: device offline"),
        ("pass", "it printed no number. Its output: none"),
        ("print('fast')", "it printed no number. Its output: fast"),
        ("print(-4)", "told -4 ms; expected a finite number above 0"),
        ("print('3,27 ms')", "its last number is written 3,27, which may be several numbers or one of other digits"),
        ("print('mean: 1,234.5 ms')", "its last number is written 1,234.5, which"),
        ("print('1.234,5')", "its last number is written 1.234,5, which"),
        ("print('1e999')", "told inf ms; expected a finite number above 0"),
    ],
)
def test_a_command_that_fails_is_told_with_its_output(tmp_path: Path, program: str, message: str):
    runtime = find_runtime(make_command(tmp_path, program))
    with pytest.raises(RuntimeFailedError) as error:
        measure_networks(runtime, [make_network()], IMAGE)
    assert message in str(error.value)
    assert "xpected" in str(error.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nowhere-to-be-found {onnx}", "it can't be started"),
        ("true", "it does not name {onnx}"),
        ("'unclosed {onnx}", "it can't be split into words"),
    ],
)
def test_a_command_that_can_not_start_is_told(argument: str, message: str):
    with pytest.raises(RuntimeFailedError, match=message):
        measure_networks(find_runtime(f"command:{argument}"), [make_network()], IMAGE)


def test_another_program_under_the_same_name_is_another_version(tmp_path: Path):
    script = tmp_path / "measure.sh"
    script.write_text("#!/bin/sh\necho 1\n")
    script.chmod(0o755)
    runtime = find_runtime(f"command:{script} {{onnx}}")
    first = runtime.version()
    assert measure_networks(runtime, [make_network()], IMAGE)[0].median == 1
    script.write_text("#!/bin/sh\necho 2\n")
    assert runtime.version() != first


@pytest.mark.parametrize("told", ["p50,3.5", "of 1,000 runs: 3.5", "1, 2, 3.5", "mean 3.5,"])
def test_commas_that_join_no_digits_change_nothing(told: str, tmp_path: Path):
    runtime = find_runtime(make_command(tmp_path, f"print({told!r})"))
    assert measure_networks(runtime, [make_network()], IMAGE)[0].median == 3.5


def test_another_script_of_the_same_interpreter_is_another_version(tmp_path: Path):
    runtime = find_runtime(make_command(tmp_path, "print(1)"))
    first = runtime.version()
    assert runtime.version() == first
    make_command(tmp_path, "print(2)")
    assert runtime.version() != first


# What is refused, and how time is told --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("onnxrt", UnknownNameError, "Unknown runtime 'onnxrt'. Closest: onnxruntime"),
        ("torch:fast", ConfigError, "Runtime 'torch:fast': expected 'torch'. Write --runtime torch."),
        ("command", ConfigError, "expected command:./measure.sh {onnx}"),
        ("command: ", ConfigError, "expected command:./measure.sh {onnx}"),
    ],
)
def test_what_names_no_runtime_is_refused(text: str, kind: type[Exception], message: str):
    with pytest.raises(kind) as error:
        find_runtime(text)
    assert message in str(error.value)


def test_no_thread_is_refused():
    with pytest.raises(ConfigError, match="threads is 0; expected 1 or more"):
        measure_networks(find_runtime("torch"), [make_network()], IMAGE, threads=0)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_missing_package_is_told_when_it_is_needed(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        RuntimeFailedError, match=rf"the package '{name}' can't be imported .* with pip install .*\"{name}>="
    ):
        measure_networks(find_runtime(name), [make_network()], IMAGE)


def test_a_session_leaves_vanishing_numbers_of_the_process_alone(tmp_path: Path):
    """In a process of its own: ONNX Runtime sets the thread of a process's first session, and no later one."""
    (tmp_path / "network.onnx").write_bytes(export_onnx(make_network(), IMAGE))
    program = (
        "import sys; from pathlib import Path; from autoslim.runtimes import open_onnx; "
        "open_onnx(Path(sys.argv[1])); print(sys.float_info.min / 2 > 0)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "network.onnx")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "True\n"


def test_noise_is_told():
    assert not Latency(10.0, 9.8, 10.7, 20).noisy
    assert Latency(10.0, 9.5, 10.6, 20).noisy
    assert str(Latency(10.0, 10.0, 10.0, 1)) == "10 ms (measured once)"
    assert str(Latency(10.0, 9.5, 10.6, 20)) == "10 ms (half of 20 runs took 9.5 to 10.6)"
    assert str(Latency(0.1963, 0.1951, 0.2, 20)) == "0.196 ms (half of 20 runs took 0.195 to 0.2)"


def test_the_machine_is_told():
    assert "cores" in describe_machine() == describe_machine()
    assert read_processor("nothing of this name") == ""
