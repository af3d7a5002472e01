"""The paper's table (Yu & Huang, 2019), recomputed: each printed figure beside that of the network itself."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoslim._registry import unknown_name
from autoslim.costs import make_cost
from autoslim.models import OFFICIAL, build_model, official_widths, trace_base
from autoslim.progress import Shown
from autoslim.runtimes import Latency, find_runtime, measure_networks

_MILLION = 1_000_000
_STEP = 100_000  # parameters and memory are printed to 0.1 million
_REPEATS = 10


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A printed figure, in millions, and ours.

    Attributes:
        printed: None where the paper has none.
        computed: Rounded (half up) to the printed digit; None where there is no architecture.
        exact: The count itself.
        agrees: Whether the two are equal; None where one is missing.
    """

    printed: float | None
    computed: float | None
    exact: int | None

    @property
    def agrees(self) -> bool | None:
        return None if self.printed is None or self.computed is None else self.printed == self.computed

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "agrees": self.agrees}


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """One network of the table. `printed_ms` is the paper's latency, `latency` this machine's; `model` builds it."""

    group: str
    name: str
    model: str | None
    params: Cell
    memory: Cell
    flops: Cell
    printed_ms: float | None
    latency: Latency | None
    note: str

    def to_json(self) -> dict[str, Any]:
        measured = {"computed": None} if self.latency is None else {"computed": self.latency.median}
        spread = {} if self.latency is None else {"low": self.latency.low, "high": self.latency.high}
        return {
            **{"group": self.group, "name": self.name, "model": self.model},
            **{name: getattr(self, name).to_json() for name in ("params", "memory", "flops")},
            "latency_ms": {"printed": self.printed_ms, **measured, **spread},
            "note": self.note,
        }


@dataclass(frozen=True)
class PaperTable:
    """All rows, and what they say together."""

    rows: tuple[PaperRow, ...]

    def count(self, column: str) -> tuple[int, int]:
        """How many cells of "params", "memory" or "flops" agree to the printed digit, and how many have both sides."""
        agree = [agrees for row in self.rows if (agrees := getattr(row, column).agrees) is not None]
        return sum(agree), len(agree)

    def rank_correlation(self) -> float | None:
        """Spearman's, of printed and measured latency over all rows that have both; None below three."""
        from scipy.stats import rankdata  # a second to import

        pairs = np.array([(row.printed_ms, row.latency.median) for row in self.rows if row.printed_ms and row.latency])
        return float(np.corrcoef(rankdata(pairs, axis=0), rowvar=False)[0, 1]) if len(pairs) > 2 else None

    def to_json(self) -> dict[str, Any]:
        counts = {column: self.count(column) for column in ("params", "memory", "flops")}
        return {
            "rows": [row.to_json() for row in self.rows],
            "cells": {column: {"equal": equal, "judged": judged} for column, (equal, judged) in counts.items()},
            "latency_rank_correlation": self.rank_correlation(),
        }


def profile_paper(
    *, names: Collection[str] | None = None, latency: bool = True, shown: Shown | None = None
) -> PaperTable:
    """Builds and traces every network of the table, and prices it as the paper does (`macs_convention="paper"`).

    Args:
        names: Rows to compute, all if None. One that the paper prints twice is one row.
        latency: Whether to measure it too: about a minute for all rows.
        shown: Where progress goes; by default nowhere.

    Raises:
        UnknownNameError: No such row.
    """
    path = Path(__file__).with_name("paper.json")
    printed: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    known = [row["name"] for row in printed]
    for name in names or ():
        if name not in known:
            raise unknown_name("row of the paper's table", name, known)
    wanted = [row for row in printed if names is None or row["name"] in names]
    rows: list[PaperRow] = []
    with (shown or Shown(quiet=True)).bar("trace", len(wanted) + latency) as bar:
        for row in wanted:
            rows.append(_compute(row))
            bar.advance("and now latency" if latency and len(rows) == len(wanted) else row["name"])
        if latency:
            rows = _add_latency(rows)
    return PaperTable(tuple(rows))


def _compute(printed: dict[str, Any]) -> PaperRow:
    exact = _count(printed["model"]) if printed["model"] else {}

    def cell(column: str, step: int) -> Cell:
        count = exact.get(column)
        return Cell(printed=printed[column], computed=None if count is None else _round(count, step), exact=count)

    return PaperRow(
        group=printed["group"],
        name=printed["name"],
        model=printed["model"],
        params=cell("params", _STEP),
        memory=cell("memory", _STEP),
        flops=cell("flops", printed["flops_step"] * _MILLION),
        printed_ms=printed["latency_ms"],
        latency=None,
        note=printed["note"],
    )


def _count(model: str) -> dict[str, int]:
    name = model.removeprefix("zoo:")
    base, widths = official_widths(name) if name in OFFICIAL else (model, None)
    graph = trace_base(base)
    widths = widths or graph.max_widths()
    return {
        cost: int(make_cost(cost, graph, macs_convention="paper")(widths)) for cost in ("params", "memory", "flops")
    }


def _round(count: int, step: int) -> float:
    """Half up to a multiple of `step`, in millions."""
    return (count + step // 2) // step * step / _MILLION


def _add_latency(rows: list[PaperRow]) -> list[PaperRow]:
    built = [row.model for row in rows if row.model]
    models, x = [build_model(model) for model in built], torch.zeros(1, 3, 224, 224)
    measured = measure_networks(find_runtime("torch"), models, x, repeats=_REPEATS)
    by_model = dict(zip(built, measured, strict=True))
    return [replace(row, latency=by_model[row.model]) if row.model else row for row in rows]
