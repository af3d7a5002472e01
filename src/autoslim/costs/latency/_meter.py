"""Measures sub-networks of one network on a runtime, and remembers what it measured."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autoslim.errors import RunFolderError
from autoslim.extract import extract_network
from autoslim.graph import ChannelGraph
from autoslim.run_folder import read_json, write_json
from autoslim.runtimes import Latency, Runtime, check_setting, describe_machine, time_networks
from autoslim.widths import Widths

_TYPE, _VERSION = "LatencyMeasurements", 1
_TOGETHER = 4  # networks beside the anchor: the longer a round, the more may change within it
_ROUNDS = 12


@dataclass(frozen=True)
class Row:
    """One measured sub-network.

    Attributes:
        widths: Channels, in the order of the graph's groups.
        ratio: Its time as a multiple of the anchor's in the same rounds: the median; `low` and `high` are quartiles.
        anchor: What the anchor took in those rounds, in milliseconds; 1 where a pass is asked for once.
    """

    widths: tuple[int, ...]
    ratio: float
    low: float
    high: float
    anchor: float
    repeats: int

    def latency(self, anchor: float) -> Latency:
        """In milliseconds, where the anchor takes `anchor`."""
        return Latency(self.ratio * anchor, self.low * anchor, self.high * anchor, self.repeats)


@dataclass(frozen=True, kw_only=True)
class Meter:
    """A network, what it runs on, and how.

    Every round has the half-wide network in it, the anchor, and times are told as multiples of the anchor's. So a
    machine that is slower for a minute, or tomorrow, does not make the networks of that minute slow.

    Attributes:
        model: The network, or its supernet's; weights don't matter.
        graph: Its channel graph.
        x: What it runs on, [batch, C, H, W].
        runtime: From `find_runtime`.
        threads: For the runtime.
        precision: For the runtime.
        cache: Folder for what was measured; None keeps nothing.
    """

    model: nn.Module
    graph: ChannelGraph
    x: torch.Tensor
    runtime: Runtime
    threads: int = 1
    precision: str = "fp32"
    cache: Path | None = None

    def __post_init__(self) -> None:
        check_setting(self.runtime, threads=self.threads, precision=self.precision)

    @cached_property
    def asked(self) -> dict[str, Any]:
        """What is measured, wherever that is; it needs no runtime."""
        network = json.dumps([self.graph.to_json(), repr(self.model)], sort_keys=True)
        return {
            "runtime": self.runtime.spec,
            "network": hashlib.sha256(network.encode()).hexdigest(),
            "input": list(self.x.shape),
            "threads": self.threads,
            "precision": self.precision,
        }

    @cached_property
    def setting(self) -> dict[str, Any]:
        """All that a measured time depends on, but the widths."""
        return {"machine": describe_machine(), "version": self.runtime.version(), **self.asked}

    def recall(self) -> dict[Widths, Row]:
        """What the cache holds for this setting."""
        if self._file is None or not self._file.exists():
            return {}
        try:
            data = read_json(self._file, kind=_TYPE, version=_VERSION)
        except RunFolderError as error:
            raise RunFolderError(f"The latencies that were kept are lost. Delete {self._file}. {error}") from error
        return {self._widths(row): row for row in rows_from(data["rows"], self._file)}

    def kept(self, widths: Sequence[Widths]) -> date | None:
        """The day from which the cache has all of these; None where one of them is missing."""
        known = self.recall()
        if self._file is None or not all(each in known for each in widths):
            return None
        return day_of(self._file)

    def measure(
        self,
        widths: Sequence[Widths],
        *,
        recall: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Row]:
        """Measures sub-networks, four at a time.

        Args:
            widths: Which.
            recall: Take what the cache holds, and add to it. Where a pass is asked for once that is always so.
            on_progress: Called with the number measured and that of all, after each group.
        """
        recall = recall or self.runtime.once
        known = self.recall() if recall else {}
        missing = [each for each in dict.fromkeys(widths) if each not in known]
        together = 1 if self.runtime.once else _TOGETHER
        for start in range(0, len(missing), together):
            chunk = missing[start : start + together]
            known |= dict(zip(chunk, self._measure(chunk), strict=True))
            if recall and self._file is not None:
                self._keep(self._file, known.values())
            if on_progress is not None:
                on_progress(start + len(chunk), len(missing))
        return [known[each] for each in widths]

    def _keep(self, file: Path, known: Iterable[Row]) -> None:
        """Writes the cache; where there is no place for it, what was measured serves this once, with a warning."""
        data = {"_type": _TYPE, "_version": _VERSION, "setting": self.setting, "rows": [asdict(row) for row in known]}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, data)
        except OSError as error:
            warnings.warn(f"Latencies can't be kept for the next run: {error}. Set XDG_CACHE_HOME.", stacklevel=2)

    def _measure(self, widths: Sequence[Widths]) -> list[Row]:
        chosen = widths if self.runtime.once else (self.graph.uniform_widths(0.5), *widths)
        models = [_serving(extract_network(self.model, self.graph, each)) for each in chosen]
        times = time_networks(
            self.runtime, models, self.x, threads=self.threads, precision=self.precision, repeats=_ROUNDS
        )
        anchors = np.ones((1, 1)) if self.runtime.once else times[:, :1]
        ratios = times[:, -len(widths) :] / anchors
        low, ratio, high = np.quantile(ratios, (0.25, 0.5, 0.75), axis=0).tolist()
        anchor = float(np.median(anchors))
        order = [tuple(each[group.name] for group in self.graph.groups) for each in widths]
        return [Row(order[i], ratio[i], low[i], high[i], anchor, len(times)) for i in range(len(widths))]

    @cached_property
    def _file(self) -> Path | None:
        asked = json.dumps([_VERSION, self.setting], sort_keys=True)
        name = hashlib.sha256(asked.encode()).hexdigest()[:24]
        return None if self.cache is None else self.cache / f"latency-{name}.json"

    def _widths(self, row: Row) -> Widths:
        return Widths(zip((group.name for group in self.graph.groups), row.widths, strict=True))


def day_of(file: Path) -> date:
    """The day on which a file was last written."""
    return date.fromtimestamp(file.stat().st_mtime)


def rows_from(data: Sequence[Mapping[str, Any]], file: Path) -> list[Row]:
    """Rows as JSON holds them; RunFolderError if they are none."""
    try:
        fields: list[dict[str, Any]] = [{**row, "widths": tuple(row["widths"])} for row in data]
        return [Row(**each) for each in fields]
    except (TypeError, KeyError) as error:
        raise RunFolderError(
            f"`{file.name}` in {file.parent} has a row that does not fit: {error}. Expected rows of measured widths. "
            "Delete the file to measure again."
        ) from error


def _serving(model: nn.Module) -> nn.Module:
    """As networks are loaded to serve: in eval mode and contiguous memory, whatever they were trained in."""
    return model.eval().to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
