"""One network of `trace.py`, measured in a process of its own: times, then coverage of ours and of Torch-Pruning.

Everything is timed in float32, in seconds of the processor's time with one thread, so that other work on the machine
counts less; what must be equal is compared in float64 with constants randomised.
"""

import itertools
import math
import random
import signal
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import autoslim.trace as stage
from autoslim import Supernet, Widths, extract_network, trace_channels
from autoslim.costs import make_cost
from autoslim.graph import ChannelGraph
from autoslim.testing.networks import counted_macs, mask_network, outputs, randomise_
from networks import NUM_CLASSES, build_network, find_size

REPEATS, LONG = 3, 5.0  # no repeats where one trace takes longer, in seconds
SECONDS = {"ours": 120, "graph": 30, "torch_pruning": 60}  # the most each may take
TOLERANCE = 1e-9  # relative to the largest output, float64
DRAWS = 2

Outcome = dict[str, Any]


def serve(asked: Connection) -> None:
    """Measures the networks that come in, and sends each section as it is done, then None."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    split_trace(first, make_images(8))  # what torch loads at the first use on meta is nobody's time
    while True:
        name, theirs = asked.recv()
        for section in measure(name, theirs=theirs):
            asked.send(section)
        asked.send(None)


def measure(name: str, *, theirs: bool) -> Iterator[Outcome]:
    """What is known of a network, piece by piece; a piece that fails is its error, `{"error": text}`."""
    started = time.perf_counter()
    try:
        model = build_network(name)
        x = make_images(size := find_size(model))
    except Exception as error:  # noqa: BLE001 - the network itself does not run here: told, and counted against us
        yield {"error": describe(error)}
        return
    parameters = sum(p.numel() for p in model.parameters())
    yield {"size": size, "parameters": parameters, "full_macs": count_macs(model, x)}
    graphs: list[ChannelGraph] = []
    other = build_network(name) if theirs else None
    yield attempt("times", lambda: time_trace(model, x, graphs, other=other), 4 * SECONDS["graph"])
    if graphs:
        yield {"groups": describe_groups(graphs[0])}
        yield attempt("ours", lambda: check_ours(randomise_(model), graphs[0], x.double()), SECONDS["ours"])
    if theirs:
        yield attempt("torch_pruning", lambda: check_torch_pruning(name, x), SECONDS["torch_pruning"])
    yield {"seconds": round(time.perf_counter() - started, 2)}


def count_macs(model: nn.Module, x: torch.Tensor) -> int:
    """By torch's counter; attention as the matrix products it is, for the counter misses torch's fused one on a CPU."""
    with sdpa_kernel(SDPBackend.MATH):
        return counted_macs(model, (x,))


def make_images(size: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


# Time limits and errors -----------------------------------------------------------------------------------------------


class OutOfTime(BaseException):
    """No Exception, so that the measured code can't swallow it."""


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise OutOfTime(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    left = signal.alarm(seconds)  # of a limit outside of this one
    try:
        yield
    finally:
        signal.alarm(left)
        signal.signal(signal.SIGALRM, before)


def attempt(key: str, work: Callable[[], Outcome], seconds: int) -> dict[str, Outcome]:
    try:
        with limit(seconds):
            return {key: work()}
    except (Exception, OutOfTime) as error:  # noqa: BLE001 - whatever the code under measurement raises is its result
        return {key: {"error": describe(error)}}


def describe(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text.splitlines()[0][:300] if text else ''}"


# Times ----------------------------------------------------------------------------------------------------------------


def time_trace(model: nn.Module, x: torch.Tensor, graphs: list[ChannelGraph], *, other: "nn.Module | None") -> Outcome:
    """Medians in seconds, ours and theirs in turn: `total` = `trace` + `probe`. The graph is left in `graphs`."""
    rounds: list[dict[str, float]] = []
    error: str | None = None
    for _ in range(REPEATS):
        graph, seconds = split_trace(model, x)
        graphs[:] = [graph]
        seconds["forward"] = time_forward(model, x)
        if other is not None and error is None:
            try:
                with limit(SECONDS["graph"]):
                    seconds["torch_pruning"] = time_dependency_graph(other, x)  # has a copy: its pass has gradients on
            except (Exception, OutOfTime) as problem:  # noqa: BLE001 - told as its result
                error = describe(problem)
        rounds.append(seconds)
        if max(seconds.values()) > LONG:
            break
    names = {name: None for each in rounds for name in each}
    medians = {name: round(statistics.median(each[name] for each in rounds if name in each), 5) for name in names}
    return {**medians, "rounds": len(rounds), **({"torch_pruning_error": error} if error else {})}


def split_trace(model: nn.Module, x: torch.Tensor) -> tuple[ChannelGraph, dict[str, float]]:
    """The graph, and what it took: `trace_channels` as a user calls it, with a clock around its probe."""
    spent: list[float] = []
    probe = stage.probe

    def clocked(*args: Any, **options: Any) -> ChannelGraph:
        started = time.process_time()
        try:
            return probe(*args, **options)
        finally:
            spent.append(time.process_time() - started)

    with mock.patch.object(stage, "probe", clocked):
        started = time.process_time()
        graph = trace_channels(model, x)
        total = time.process_time() - started
    return graph, {"total": total, "trace": total - sum(spent), "probe": sum(spent)}


def time_forward(model: nn.Module, x: torch.Tensor) -> float:
    """One pass in eval mode, with gradients off."""
    model.eval()
    started = time.process_time()
    with torch.no_grad():
        model(x)
    return time.process_time() - started


def time_dependency_graph(model: nn.Module, x: torch.Tensor) -> float:
    import torch_pruning

    started = time.process_time()
    torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)
    return time.process_time() - started


# Coverage: ours -------------------------------------------------------------------------------------------------------


def describe_groups(graph: ChannelGraph) -> Outcome:
    return {
        "all": len(graph.groups),
        "free": sum(group.frozen is None for group in graph.groups),
        "noted": sum(
            bool(g.note) and g.frozen is None for g in graph.groups
        ),  # a statistic over channels changes the meaning
        "frozen_reasons": dict(Counter(group.frozen for group in graph.groups if group.frozen is not None)),
        "remarks": list(graph.notes),
    }


def check_ours(model: nn.Module, graph: ChannelGraph, x: torch.Tensor) -> Outcome:
    """The verdicts on the narrowest, on random and on half-width sub-networks of a randomised float64 model."""
    model.eval()
    full = outputs(model, (x,))
    macs = count_macs(model, x)
    one_atom = Widths({g.name: g.atom if g.frozen is None else g.size for g in graph.groups})
    draws = {"narrowest": graph.min_widths(), **{f"random {seed}": draw_widths(graph, seed) for seed in range(DRAWS)}}
    draws["half"] = graph.uniform_widths(0.5)
    cost = make_cost("macs", graph)
    return {
        "full_exact": cost(graph.max_widths()) == macs,
        "narrowest_share": cost(graph.min_widths()) / macs,
        "one_atom_share": cost(one_atom) / macs,
        "half_share": cost(draws["half"]) / macs,
        "draws": {name: check_widths(model, graph, widths, x, full) for name, widths in draws.items()},
    }


def draw_widths(graph: ChannelGraph, seed: int) -> Widths:
    """Any whole number of atoms from the lowest candidate up: unequal, to hide no integer which fits by accident."""
    rng = random.Random(seed)
    return Widths({g.name: g.atom * rng.randint(g.candidates[0] // g.atom, g.atoms) for g in graph.groups})


def check_widths(
    model: nn.Module, graph: ChannelGraph, widths: Widths, x: torch.Tensor, full: Sequence[torch.Tensor]
) -> Outcome:
    """Each property of one sub-network by itself; what raises is False, with its error in `errors`."""
    outcome: Outcome = {}
    errors: dict[str, str] = {}

    def judge(key: str, work: Callable[[], bool]) -> None:
        try:
            outcome[key] = work()
        except Exception as error:  # noqa: BLE001 - whatever the network raises is the verdict
            outcome[key], errors[key] = False, describe(error)

    small: nn.Module | None = None
    alone: list[torch.Tensor] = []

    def runs() -> bool:
        nonlocal small, alone
        small = extract_network(model, graph, widths)
        alone = outputs(small, (x,))
        return [each.shape for each in alone] == [each.shape for each in full]

    def in_place() -> bool:
        net = Supernet(model, graph)
        with net.at(widths):
            return is_equal(differ(alone, outputs(net, (x,))))

    def masked() -> bool:
        expected = outputs(mask_network(model, graph, widths), (x,))
        outcome["difference"] = differ(alone, expected)
        outcome["masking_shows"] = not is_equal(differ(expected, full))  # else equality would prove nothing
        return is_equal(outcome["difference"])

    judge("runs", runs)
    if small is not None and outcome["runs"]:
        made = small
        judge("macs", lambda: make_cost("macs", graph)(widths) == count_macs(made, x))
        judge("params", lambda: make_cost("params", graph)(widths) == sum(p.numel() for p in made.parameters()))
        judge("in_place", in_place)
        judge("masked", masked)
        judge("trains", lambda: bool(outputs(made.train(), (torch.cat([x, x]),))))
    return {**outcome, **({"errors": errors} if errors else {})}


def differ(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float | None:
    """The largest difference over the largest value, of the worst output; None if it is no finite number."""
    pairs = list(itertools.zip_longest(ours, theirs))
    if any(a is None or b is None or a.shape != b.shape for a, b in pairs):
        return None
    worst = max((float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs), default=math.nan)
    return worst if all(bool((a - b).isfinite().all()) for a, b in pairs) and math.isfinite(worst) else None


def is_equal(difference: float | None) -> bool:
    return difference is not None and difference <= TOLERANCE


# Coverage: Torch-Pruning ----------------------------------------------------------------------------------------------


def check_torch_pruning(name: str, x: torch.Tensor) -> Outcome:
    """Half of the channels of every group it can prune, by magnitude, but the output layers': does the rest run?"""
    import torch_pruning

    model = build_network(name)
    shapes, macs = [out.shape for out in outputs(model, (x,))], count_macs(model, x)
    last = [m for m in model.modules() if NUM_CLASSES in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))]
    pruner = torch_pruning.pruner.BasePruner(
        model, x, importance=torch_pruning.importance.MagnitudeImportance(), pruning_ratio=0.5, ignored_layers=last
    )
    pruner.step()
    model.eval()
    pruned = outputs(model, (x,))
    outcome = {"runs": [out.shape for out in pruned] == shapes, "half_share": count_macs(model, x) / macs}
    trains = attempt("trains", lambda: {"ran": bool(outputs(model.train(), (torch.cat([x, x]),)))}, 30)["trains"]
    return {**outcome, "trains": "error" not in trains}
