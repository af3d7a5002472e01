"""The latency of a run's networks: predicted from measurements, which its folder keeps."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from platformdirs import user_cache_path

from autoslim.costs.latency import LatencyCost, make_latency
from autoslim.pipeline._job import Job
from autoslim.progress import say_many
from autoslim.run_folder import RunFolder

LATENCY, TABLE = "latency", "latency.json"


def obtain_latency(job: Job, table: Path | None = None, *, known: bool = False) -> tuple[LatencyCost, float]:
    """The prediction of a run, and what it said of your own network at first.

    Args:
        job: A run.
        table: The file it was kept in; default that of the run. Where there is none, networks are measured.
        known: Whether it is another copy of a table that was told already.
    """
    config = job.config
    table = table or Path(config.out) / TABLE
    runtime = f"{config.runtime}, {say_many(config.runtime_threads, 'thread')}, {config.runtime_precision}"
    with job.shown.bar(f"latency on {runtime}", 0) as bar, tempfile.TemporaryDirectory() as scratch:

        def obtain(table: Path | None) -> LatencyCost:
            return make_latency(
                job.networks.build(),
                job.graph,
                torch.zeros(config.runtime_batch, *job.data.input_shape),
                runtime=config.runtime,
                threads=config.runtime_threads,
                precision=config.runtime_precision,
                cache=user_cache_path("autoslim") / "latency",
                table=table,
                on_progress=bar.reach,
            )

        copy = Path(scratch) / TABLE
        if job.ranks.first:  # one process measures, while the others wait
            cost = obtain(table if table.exists() else None)
            cost.save(copy)
            job.ranks.tell(copy.read_bytes())
        else:
            copy.write_bytes(job.ranks.tell(b""))
            cost = obtain(copy)
    own = replace(cost, measured={})(job.own)  # a limit in percent stays what it is when the prediction is corrected
    if known:
        return cost, own
    kept = "" if cost.kept is None else f", kept from {cost.kept}"
    noise = "each measured once" if cost.meter.runtime.once else f"noise {cost.noise:.1%}"
    job.shown.line(
        f"latency   {runtime}, batch {config.runtime_batch}: {own:.3g} ms, narrowest "
        f"{cost(job.graph.min_widths()):.3g} ms, predicted to {cost.error:.1%} (median; {noise}){kept}"
    )
    if cost.noisy:
        job.shown.line(
            "latency   The machine is too busy to tell: half of the times lie more than 10% apart. Close other "
            "programs, or expect networks that are slower or faster than told."
        )
    return cost, own


def keep_latency(job: Job, place: RunFolder) -> None:
    """Puts the prediction into a folder, where it is not there yet."""
    cost, table = job.costs.get(LATENCY), place.path / TABLE
    if isinstance(cost, LatencyCost) and not table.exists():
        cost.save(table)
