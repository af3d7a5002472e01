"""Latency: measured for some sub-networks on the runtime that will serve the network, predicted for all others.

Some 72 sub-networks, spread over the whole range of MACs, are measured; what each has to do, in closed form, is fitted
to what it took. After that a price is arithmetic, the same at every call. A network that was found is measured for
real (`measure`), and where prediction and measurement differ, `corrected` gives a cost that agrees there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoslim.costs._base import atoms_of
from autoslim.costs.latency._draw import draw_widths as draw_widths
from autoslim.costs.latency._fit import Fit, fit_latency
from autoslim.costs.latency._meter import Meter, Row, day_of, rows_from
from autoslim.errors import ConfigError, RunFolderError, RuntimeFailedError
from autoslim.graph import ChannelGraph
from autoslim.run_folder import read_json, write_json
from autoslim.runtimes import Latency, find_runtime
from autoslim.widths import Widths

_TYPE, _VERSION = "LatencyCost", 1
_LEAST = 4  # measured networks that a fit needs

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class LatencyCost:
    """Milliseconds of a sub-network on a runtime: `cost(widths)` and `cost.many(...)`, finite and never below 0.

    Attributes:
        meter: What measures.
        rows: The measured sub-networks that the prediction follows from.
        measured: Milliseconds that were really measured for sub-networks that a search found; see `corrected`.
        kept: The day from which the rows were kept, in a cache or a table; None where they were measured just now.
        setting: What a table that was read was measured with, on which machine; None where that is the meter's own.
    """

    meter: Meter
    rows: tuple[Row, ...]
    measured: Mapping[Widths, float] = field(default_factory=dict[Widths, float])
    kept: date | None = None
    setting: Mapping[str, Any] | None = None

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Predicted milliseconds; WidthsError if the widths don't fit the graph."""
        return float(self.many([widths])[0])

    def many(self, widths: "Sequence[Mapping[str, int]] | NDArray[np.integer]") -> NDArray[np.float64]:
        """Predicted milliseconds of many widths at once, shape [N]; N mappings, or an integer array [N, groups]."""
        atoms = atoms_of(self.meter.graph, widths)
        predicted = self.fit.predict(atoms)
        if not self.measured:
            return predicted
        places, factors = self._corrections
        corrected = predicted * np.exp(np.interp(predicted, places, factors))
        known = atoms_of(self.meter.graph, list(self.measured))
        for own, value in zip(known, self.measured.values(), strict=True):  # two may be predicted alike
            corrected[(atoms == own).all(1)] = value
        return corrected

    @property
    def error(self) -> float:
        """Median relative error on measured networks that were left out of the fit; what a user may expect."""
        return self.fit.error

    @property
    def noise(self) -> float:
        """How far the middle half of a network's rounds lies apart, relative to its median; median over networks."""
        return float(np.median([row.latency(1.0).spread for row in self.rows]))

    @property
    def noisy(self) -> bool:
        """Whether most measured networks were `Latency.noisy`: the machine was too busy to tell."""
        return float(np.mean([row.latency(1.0).noisy for row in self.rows])) > 0.5

    def measure(self, widths: Sequence[Widths], *, on_progress: Progress | None = None) -> list[Latency]:
        """Measures sub-networks for real, in milliseconds of a machine as fast as it was when the table was measured.

        A program that is asked once for each network is not asked twice.

        Raises:
            RuntimeFailedError: The table is of another machine, or of another version of the runtime.
        """
        here = self.meter.setting
        known = self.setting or here
        if other := [name for name in ("machine", "version") if known[name] != here[name]]:
            told = ", ".join(f"{name} {known[name]!r}, here {here[name]!r}" for name in other)
            raise RuntimeFailedError(
                f"The latencies known so far were measured elsewhere ({told}); expected the same, or times would be of "
                "neither. Go on there, or delete the run's `latency.json` to measure all of them here."
            )
        return [row.latency(self.anchor) for row in self.meter.measure(widths, on_progress=on_progress)]

    def corrected(self, measured: Mapping[Widths, float]) -> "LatencyCost":
        """A cost that gives sub-networks the milliseconds measured for them, and scales all others accordingly.

        The factor between measured and predicted is interpolated over the predicted latency: near a measured network
        it is that network's, beyond the fastest and slowest theirs. Earlier corrections stay.

        Raises:
            ConfigError: A latency that is no finite number above 0.
        """
        for each, value in measured.items():
            if not (np.isfinite(value) and value > 0):
                raise ConfigError(
                    f"LatencyCost.corrected: {value} ms measured for {each!r}; expected a finite number above 0. "
                    "Measure it again."
                )
        new = replace(self, measured={**self.measured, **measured})
        vars(new)["fit"] = self.fit  # of the same rows
        return new

    def save(self, path: Path) -> None:
        """Writes the measurements, whole or not at all; `make_latency(table=path)` gives the same cost from them."""
        write_json(
            path,
            {
                "_type": _TYPE,
                "_version": _VERSION,
                "setting": self.setting or self.meter.setting,
                "rows": [asdict(row) for row in self.rows],
                "measured": [{"widths": dict(widths), "ms": value} for widths, value in self.measured.items()],
            },
        )

    @cached_property
    def anchor(self) -> float:
        """What the anchor took, in milliseconds: the median over the table. Times are multiples of it."""
        return float(np.median([row.anchor for row in self.rows]))

    @cached_property
    def fit(self) -> Fit:
        """The prediction."""
        graph = self.meter.graph
        atoms = atoms_of(graph, np.array([row.widths for row in self.rows]))
        return fit_latency(graph, atoms, self.anchor * np.array([row.ratio for row in self.rows]))

    @cached_property
    def _corrections(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predicted latencies, ascending, and the logarithm of measured over predicted at each; shapes [M]."""
        predicted = self.fit.predict(atoms_of(self.meter.graph, list(self.measured)))
        places, index = np.unique(predicted, return_inverse=True)
        factors = np.log(np.array(list(self.measured.values())) / predicted)
        return places, np.bincount(index, factors) / np.bincount(index)


def make_latency(
    model: nn.Module,
    graph: ChannelGraph,
    x: torch.Tensor,
    *,
    runtime: str = "torch",
    threads: int = 1,
    precision: str = "fp32",
    samples: int | None = None,
    cache: Path | None = None,
    table: Path | None = None,
    on_progress: Progress | None = None,
) -> LatencyCost:
    """Measures sub-networks and returns the cost that predicts all others.

    Args:
        model: The network, or its supernet's `model`; left as it is.
        graph: Its channel graph.
        x: What it will run on, [batch, C, H, W].
        runtime: "torch", "torch.compile", "onnxruntime", "openvino" or "command:PROGRAM {onnx}".
        threads: That the runtime may use.
        precision: "fp32", or what else the runtime has.
        samples: Networks to measure; default what the runtime suggests (72, fewer where each takes long to prepare).
        cache: Folder that keeps what is measured, by machine, runtime and version, network, input, threads and
            precision. Measuring that was cut off goes on there.
        table: A run's own copy. If it exists, nothing is measured: the cost is the one it was saved from. Else it is
            written.
        on_progress: Called with the number of networks measured and that of all.

    Raises:
        UnknownNameError: No such runtime.
        ConfigError: A precision that the runtime lacks, or too few samples.
        RuntimeFailedError: The runtime is not installed, or can't run the network.
        RunFolderError: `table` is of another network, or can't be read.
    """
    kind = find_runtime(runtime)
    meter = Meter(model=model, graph=graph, x=x, runtime=kind, threads=threads, precision=precision, cache=cache)
    if table is not None and table.exists():
        return _load(table, meter)
    count = kind.samples if samples is None else samples
    if count < _LEAST:
        raise ConfigError(f"make_latency: samples is {count}; expected {_LEAST} or more. Leave it out for the default.")
    drawn = dict.fromkeys([graph.max_widths(), graph.min_widths(), *draw_widths(graph, count)])
    kept = meter.kept(list(drawn)[:count])
    rows = meter.measure(list(drawn)[:count], recall=True, on_progress=on_progress)
    cost = LatencyCost(meter=meter, rows=tuple(rows), kept=kept)
    if table is not None:
        cost.save(table)
    return cost


def _load(path: Path, meter: Meter) -> LatencyCost:
    """The cost that was saved; on another machine too, without the runtime: it holds what a run was searched with."""
    data = read_json(path, kind=_TYPE, version=_VERSION)
    setting: dict[str, Any] = data["setting"]
    for name, wanted in meter.asked.items():
        if setting.get(name) != wanted:
            raise RunFolderError(
                f"`{path.name}` in {path.parent} was measured with another {name} ({setting.get(name)!r}); "
                f"expected {wanted!r}. Go on with what the run was started with, or delete the file."
            )
    measured = {Widths(each["widths"]): float(each["ms"]) for each in data["measured"]}
    rows = tuple(rows_from(data["rows"], path))
    return LatencyCost(meter=meter, rows=rows, measured=measured, kept=day_of(path), setting=setting)
