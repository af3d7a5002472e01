"""How long the networks of a comparison take to answer: measured together, in turns, as they would serve."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from autoslim.extract import extract_network
from autoslim.pipeline import Job
from autoslim.run_folder import read_json, write_json
from autoslim.runtimes import find_runtime, measure_networks
from autoslim.widths import Widths


def measure_latencies(job: Job, networks: Sequence[Widths], file: Path) -> list[float]:
    """Milliseconds of each network; measured once, and anew for all of them where one has come along.

    In turns, so that what slows the machine for a while slows all; weights do not matter and are fresh.
    """
    keys = [json.dumps(dict(widths), sort_keys=True) for widths in networks]
    told = read_json(file, kind="Latencies")["milliseconds"] if file.exists() else {}
    if not set(keys) <= set(told):
        config, unique = job.config, dict(zip(keys, networks, strict=True))
        full = job.networks.build().to(memory_format=torch.contiguous_format)  # as networks are loaded to serve
        small: list[nn.Module] = [extract_network(full, job.graph, widths) for widths in unique.values()]
        x = torch.zeros(config.runtime_batch, *job.data.input_shape)
        runtime, setting = find_runtime(config.runtime), {"threads": config.runtime_threads}
        measured = measure_networks(runtime, small, x, precision=config.runtime_precision, **setting)
        told = {key: each.median for key, each in zip(unique, measured, strict=True)}
        noisy = sum(each.noisy for each in measured)
        on = f"{runtime.version()}, {config.runtime_threads} thread(s), batch {config.runtime_batch}"
        job.shown.line(f"latency   {len(told)} networks on {on}" + (f"; {noisy} of them noisy" if noisy else ""))
        kept = {"_type": "Latencies", "_version": 1, "on": on, "noisy": noisy, "milliseconds": told}
        write_json(file, kept)
    return [told[key] for key in keys]
