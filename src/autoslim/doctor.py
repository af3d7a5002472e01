"""What works on this machine: packages, devices, runtimes, the process's settings, and the whole pipeline, each tried.

Nothing is taken from a version number that can be tried instead: a device calculates, a runtime times a network, the
pipeline runs on the digits into a folder that is removed again.
"""

import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from packaging.requirements import Requirement
from torch.nn import functional

from autoslim._extras import PACKAGE, requirements_of, say_install
from autoslim.budget import Budget
from autoslim.errors import AutoSlimError, describe_error
from autoslim.pipeline import RunConfig, run
from autoslim.progress import Shown, say_many
from autoslim.runtimes import RUNTIMES, describe_machine, export_onnx, find_runtime, measure_networks
from autoslim.saved import load
from autoslim.train import TrainConfig

_BUDGET = "macs<=50%"
_TENSOR = 1 << 26  # bytes: above the 32 MiB up to which glibc learns by itself, so that its setting shows
_PAGE = 4096

State = Literal["works", "missing", "fails"]


@dataclass(frozen=True)
class Check:
    """What was found out about one thing.

    Attributes:
        kind: "package", "extra", "device", "runtime", "setting" or "pipeline".
        name: Of the thing.
        state: "missing" is not there, "fails" is there and does not do what it should.
        told: A version, a figure, or the reason.
        needed: Whether `autoslim run` needs it.
        advice: What to do, where something can be done.
    """

    kind: str
    name: str
    state: State
    told: str
    needed: bool = True
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was tried, in order."""

    machine: str
    checks: tuple[Check, ...]

    @property
    def well(self) -> bool:
        """Whether all that `autoslim run` needs works."""
        return all(check.state == "works" for check in self.checks if check.needed)

    def to_json(self) -> dict[str, Any]:
        checks = [asdict(check) for check in self.checks]
        return {"_type": "Diagnosis", "_version": 1, "well": self.well, "machine": self.machine, "checks": checks}


def diagnose(*, self_test: bool = True, shown: Shown | None = None) -> Diagnosis:
    """Tries everything.

    Args:
        self_test: Whether the pipeline is run, too: about 20 seconds.
        shown: Where progress goes.
    """
    tries: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("packages", check_packages),
        ("devices", check_devices),
        ("runtimes", check_runtimes),
        ("settings", check_settings),
    ]
    tries += [("pipeline", check_pipeline)] * self_test
    checks: list[Check] = []
    with (shown or Shown()).bar("doctor", len(tries)) as bar:
        for name, find in tries:
            checks += find()
            bar.advance(name)
    return Diagnosis(describe_machine(), tuple(checks))


# Packages ------------------------------------------------------------------------------------------------------------


def check_packages(package: str = PACKAGE) -> Iterator[Check]:
    """The package itself, what it requires, and its extras, by its own metadata."""
    try:
        about = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        yield Check("package", package, "missing", "not installed", advice="pip install -e . in the clone")
        return
    yield Check("package", package, "works", about["Version"])
    for requirement in requirements_of(package=package):
        told, fits = _version(requirement)
        state: State = "works" if fits else "fails" if told != "not installed" else "missing"
        yield Check("package", requirement.name, state, told, advice="" if fits else say_install([requirement]))
    for extra in about.get_all("Provides-Extra") or []:
        lacking = [each for each in requirements_of(extra, package) if not _version(each)[1]]
        advice = say_install(lacking) if lacking else ""
        names = sorted({f"{each.name}{each.specifier}" for each in lacking})
        told = f"lacks {', '.join(names)}" if lacking else "all there"
        yield Check("extra", extra, "missing" if lacking else "works", told, needed=False, advice=advice)


def _version(requirement: Requirement) -> tuple[str, bool]:
    """What is installed, and whether it is what is required."""
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return "not installed", False
    fits = requirement.specifier.contains(found, prereleases=True)
    return (found if fits else f"{found}, expected {requirement.specifier}"), fits


# Devices and runtimes ------------------------------------------------------------------------------------------------


def check_devices() -> Iterator[Check]:
    """The processor and every accelerator that torch knows: gradients of each, which must be those of the first."""
    yield _try_device(torch.device("cpu"), "cpu", say_many(torch.get_num_threads(), "thread"))
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        told = f"torch {torch.__version__} sees none"
        yield Check("device", "accelerator", "missing", told, needed=False)
        return
    for index in range(torch.accelerator.device_count()):
        name = torch.cuda.get_device_name(index) if kind.type == "cuda" else kind.type
        yield _try_device(torch.device(kind.type, index), f"{kind.type}:{index}", name)


def _try_device(device: torch.device, name: str, told: str) -> Check:
    advice = "Reinstall torch for this device (pytorch.org/get-started), or hide the device from it."
    try:
        expected, found = _gradients(torch.device("cpu")), _gradients(device)
        worst = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, found, strict=True))
        halved = _gradients(device, precision=torch.bfloat16)
    except Exception as error:  # noqa: BLE001 - a broken driver raises anything; it is told
        return Check("device", name, "fails", describe_error(error), advice=advice)
    if worst > 0.01:  # TensorFloat-32, where it is on, is good to three digits
        return Check("device", name, "fails", f"gradients are {worst:.1%} off those of the processor", advice=advice)
    bfloat = all(bool(gradient.isfinite().all()) for gradient in halved)
    return Check("device", name, "works", f"{told}, float32{' and bfloat16' if bfloat else ', no bfloat16'}")


def _gradients(device: torch.device, precision: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Gradients of a small convolution and a linear layer, on the processor."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.Flatten(), torch.nn.Linear(16 * 36, 10))
        images, labels = torch.randn(8, 3, 8, 8), torch.arange(8)
    net.to(device)
    with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
        loss = functional.cross_entropy(net(images.to(device)).float(), labels.to(device))
    loss.backward()
    return [p.grad.cpu() for p in net.parameters() if p.grad is not None]


def check_runtimes() -> Iterator[Check]:
    """Every runtime of the shelf times a small network."""
    image = torch.zeros(1, 1, 8, 8)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10))
    for name, kind in RUNTIMES.items():
        if kind.hint:
            yield Check("runtime", name, "missing", f"needs a program: {name}:{kind.hint}", needed=False)
            continue
        started = time.perf_counter()
        try:
            (latency,) = measure_networks(find_runtime(name), [model], image, repeats=5)
        except Exception as error:  # noqa: BLE001 - what a runtime raises is told, whatever it is
            absent = isinstance(error.__cause__, ImportError)
            advice = re.search(r'pip install( "[^"]+")+', str(error)) if absent else None
            told = "not installed" if absent else describe_error(error)
            yield Check(
                "runtime", name, "missing" if absent else "fails", told, needed=name == "torch",
                advice=advice[0] if advice else "",
            )  # fmt: skip
        else:
            told = f"{latency.median:.2f} ms a digit, ready in {time.perf_counter() - started:.1f} s"
            yield Check("runtime", name, "works", told, needed=name == "torch")


# Settings ------------------------------------------------------------------------------------------------------------


def check_settings() -> Iterator[Check]:
    """Threads, memory and allocator of this process; none of them stops a run."""
    cores, threads = _usable_cores(), torch.get_num_threads()
    told = f"torch uses {threads}, {cores} cores may be used"
    crowded = threads > cores
    advice = f"export OMP_NUM_THREADS={max(int(cores), 1)}" if crowded else ""
    yield Check("setting", "threads", "fails" if crowded else "works", told, needed=False, advice=advice)
    faults = _page_faults()
    if faults is not None:
        kept = faults < 0.5
        told = f"memory of large tensors {'is kept' if kept else 'goes back to the system each time'}"
        advice = "" if kept else "The command `autoslim` sets it where the C library is glibc."
        yield Check("setting", "allocator", "works" if kept else "fails", told, needed=False, advice=advice)
    kernels = os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "1024 (its default)")
    yield Check("setting", "kernel cache", "works", f"oneDNN keeps {kernels} kernels", needed=False)
    shared = Path("/dev/shm")
    if shared.exists():
        stats = os.statvfs(shared)
        free = stats.f_bavail * stats.f_frsize
        few = free < 1 << 28
        advice = "Start the container with more (--shm-size 1g), or run with --workers 0." if few else ""
        told = f"{free / 2**30:.1f} GiB free for worker processes"
        yield Check("setting", "shared memory", "fails" if few else "works", told, needed=False, advice=advice)


def _usable_cores() -> float:
    """Cores that this process may use: those it is bound to, and no more than its control group's share."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return min(bound, int(quota) / int(period))  # "max" is no number: no limit
    return bound


def _page_faults() -> float | None:
    """How much of a large tensor's memory has to be asked for again when it is made anew, from 0 to 1."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    faults: list[int] = []
    for _ in range(4):  # at first the heap grows into its place
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(_TENSOR, dtype=torch.uint8)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(faults) * _PAGE / _TENSOR


# The pipeline --------------------------------------------------------------------------------------------------------


def check_pipeline() -> Iterator[Check]:
    """A whole run, as short as can be, on the digits: its stages, its product, and the product as ONNX."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        try:
            place = run(_tiny_run(Path(folder) / "run"), shown=Shown(quiet=True))
            summary = json.loads((place / "summary.json").read_text(encoding="utf-8"))
            (row,) = summary["budgets"]
            small = load(place / row["folder"])
        except Exception as error:  # noqa: BLE001 - whatever is wrong is told
            yield Check("pipeline", "run", "fails", describe_error(error), advice="Run with it: autoslim run digits")
            return
        for stage, seconds in summary["seconds"].items():
            yield Check("pipeline", stage, "works", f"{seconds:.1f} s")
        share = row["macs"] / summary["base"]["macs"]
        params = sum(parameter.numel() for parameter in small.parameters())
        held = Budget.parse(_BUDGET).holds(row, summary["base"]) and params == row["params"]
        told = f"{share:.0%} of the MACs, {params:,} parameters as told"
        yield Check("pipeline", "extract", "works" if held else "fails", told if held else f"not as told: {row}")
        try:
            file = export_onnx(small, torch.zeros(1, 1, 8, 8))
        except AutoSlimError as error:
            absent = isinstance(error.__cause__, ImportError)
            told = "onnx is not installed" if absent else describe_error(error)
            yield Check("pipeline", "onnx", "missing" if absent else "fails", told, needed=False)
        else:
            yield Check("pipeline", "onnx", "works", f"{len(file) / 1024:.0f} KiB", needed=False)
        yield Check("pipeline", "all", "works", f"{time.perf_counter() - started:.1f} s")


def _tiny_run(out: Path) -> RunConfig:
    return RunConfig(
        model="zoo:resnet_digits?width=8",
        data="digits",
        budget=(_BUDGET,),
        out=str(out),
        search_images=64,
        workers=0,
        train=TrainConfig(epochs_supernet=2, epochs_retrain=1, batch_size=256, augment="none"),
    )
