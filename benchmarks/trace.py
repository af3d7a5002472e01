"""Tracing: how many networks, how exactly, how fast, with Torch-Pruning on the same networks beside it.

    python benchmarks/trace.py [--set held-out|development|torchvision] [--only NAME ...] [--json] [--out FILE]

Each network is measured in a worker process with one thread, which is started anew if it dies or hangs. With `--out`,
every network is written to FILE's sibling .jsonl as it is done, and a run that was killed goes on from there. "Exact"
is: the sub-networks extracted at two random draws, at half width and at the lowest candidates run in eval and in train
mode, with the MACs torch counts and the parameters there are. "Equal": their outputs are those of the full network
with the removed channels masked, in float64 with constants randomised, to 1e-9. Torch-Pruning prunes half of all it can
by magnitude, as its own examples do; whether what it gives equals the masked network is not looked at. It comes with
`pip install -c constraints.txt -e '.[bench]'`; without it, only ours is measured.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections import Counter
from importlib import metadata, util
from pathlib import Path
from typing import Any

from measure import SECONDS, Outcome, serve
from networks import read_networks

_HARD_LIMIT = 4 * SECONDS["graph"] + SECONDS["ours"] + SECONDS["torch_pruning"]  # one in C code hears no alarm
_PACKAGES = ("autoslim", "torch", "torchvision", "timm", "torch-pruning")


class Worker:
    """A process that measures networks; killed and made anew when one takes too long or takes it down."""

    def __init__(self) -> None:
        self.process: Any = None

    def measure(self, name: str, *, theirs: bool, seconds: float) -> Outcome:
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.asks, asked = context.Pipe()
            self.process = context.Process(target=serve, args=(asked,), daemon=True)
            self.process.start()
            asked.close()
        outcome: Outcome = {"name": name}
        end = time.monotonic() + seconds
        try:
            self.asks.send((name, theirs))
            while self.asks.poll(max(end - time.monotonic(), 0)):
                section = self.asks.recv()
                if section is None:
                    return outcome
                outcome.update(section)
            error = f"Killed: not done after {seconds:g} s"
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join(10)
            error = f"Died: exit code {self.process.exitcode}"
        self.close()
        outcome.update({"torch_pruning": {"error": error}} if "ours" in outcome else {"error": error})
        return outcome

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=("held-out", "development", "torchvision"), default="held-out")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="networks of the set, e.g. timm:resnet18")
    parser.add_argument("--json", action="store_true", help="print all that was measured, not the table")
    parser.add_argument("--out", type=Path, help="JSON file to write; a killed run goes on from its .jsonl")
    parser.add_argument("--limit", type=float, default=_HARD_LIMIT, help="seconds a network may take in all")
    args = parser.parse_args()
    names = read_networks(args.set)
    if unknown := sorted(set(args.only or ()) - set(names)):
        parser.error(f"{unknown[0]} is not in the set {args.set!r}; networks.json lists what is")
    only = f" --only {' '.join(args.only)}" if args.only else ""
    header = {
        "command": f"python benchmarks/trace.py --set {args.set}{only}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread used, Python {platform.python_version()}",
        "versions": {package: metadata.version(package) for package in _PACKAGES if is_installed(package)},
    }
    networks = measure_all(header, args.only or names, args.out and args.out.with_suffix(".jsonl"), args.limit)
    summary = summarise(networks)
    result = json.dumps({**header, "summary": summary, "networks": networks}, indent=1)
    if args.out:
        args.out.write_text(result + "\n")
        args.out.with_suffix(".jsonl").unlink()
    print(result if args.json else "\n".join(f"{key:58} {value}" for key, value in summary.items()))


def is_installed(package: str) -> bool:
    return util.find_spec(package.replace("-", "_")) is not None


def measure_all(header: Outcome, names: list[str], log: "Path | None", seconds: float) -> list[Outcome]:
    """Every network's outcome, those already in `log` taken from there. A log of another command is refused."""
    done: dict[str, Outcome] = {}
    if log is not None:
        text = log.read_text() if log.exists() else ""
        whole = [line for line in text.splitlines() if line.endswith("}")] or [
            json.dumps(header)
        ]  # the last may be torn
        log.write_text("".join(f"{line}\n" for line in whole))
        first, *lines = map(json.loads, whole)
        if any(first[key] != header[key] for key in ("command", "versions")):
            sys.exit(f"{log} was begun by `{first['command']}` with {first['versions']}. Delete it, or change --out.")
        done = {line["name"]: line for line in lines}
    worker = Worker()
    try:
        for name in names:
            if name not in done:
                done[name] = worker.measure(name, theirs=is_installed("torch-pruning"), seconds=seconds)
                if log is not None:
                    with log.open("a") as file:
                        file.write(json.dumps(done[name]) + "\n")
            print(f"{len(done)}/{len(names)} {name}", file=sys.stderr, flush=True)
    finally:
        worker.close()
    return [done[name] for name in names]


# The summary ----------------------------------------------------------------------------------------------------------


def summarise(networks: list[Outcome]) -> dict[str, Any]:
    """Counts and medians over all networks; one that failed counts as failed, and has no times and no shares."""
    ours = [n["ours"] for n in networks if "draws" in n.get("ours", {})]
    theirs = [n["torch_pruning"] for n in networks if "runs" in n.get("torch_pruning", {})]
    plain = [n for n in networks if "draws" in n.get("ours", {}) and not n["groups"]["noted"]]
    times = [n["times"] for n in networks if "total" in n.get("times", {})]
    compared = [t for t in times if "torch_pruning" in t]
    both = [t["total"] / t["torch_pruning"] for t in compared]
    halves = [out["half_share"] for out in ours if out["draws"]["half"]["runs"]]
    return {
        "networks": len(networks),
        "traced": sum("groups" in n for n in networks),
        "exact: run, train, MACs and parameters": sum(map(is_exact, networks)),
        "sub-networks run in place as extracted": sum(holds(out, "in_place") for out in ours),
        "without a statistic over channels": len(plain),
        "  of them equal to the masked network": sum(holds(n["ours"], "masked") for n in plain),
        "  of them with masking that shows nowhere (proves nothing)": sum(
            not any(draw.get("masking_shows") for draw in n["ours"]["draws"].values()) for n in plain
        ),
        "with a statistic, said so in the graph": len(ours) - len(plain),
        "  of them equal all the same": sum(holds(out, "masked") for out in ours)
        - sum(holds(n["ours"], "masked") for n in plain),
        "MACs at the lowest candidates, median share": median(out["narrowest_share"] for out in ours),
        "MACs at one atom per group, median share": median(out["one_atom_share"] for out in ours),
        "MACs at half width, median share": median(halves),
        "groups that are free, of all": f"{count(networks, 'free')} of {count(networks, 'all')}",
        "trace, median seconds": median(t["trace"] for t in times),
        "trace, most seconds": max((t["trace"] for t in times), default=None),
        "probe, median seconds": median(t["probe"] for t in times),
        "probe, most seconds": max((t["probe"] for t in times), default=None),
        "trace and probe, median in forward passes": median(t["total"] / t["forward"] for t in times),
        "Torch-Pruning: graphs built": len(compared),
        "Torch-Pruning: graph, median seconds": median(t["torch_pruning"] for t in compared),
        "Torch-Pruning: graph, most seconds": max((t["torch_pruning"] for t in compared), default=None),
        "Torch-Pruning: graph, median in forward passes": median(t["torch_pruning"] / t["forward"] for t in compared),
        "trace and probe over Torch-Pruning's graph, median": median(both),
        "Torch-Pruning: run at half width": sum(out["runs"] for out in theirs),
        "Torch-Pruning: train at half width": sum(out["runs"] and out["trains"] for out in theirs),
        "Torch-Pruning: MACs at half width, median share": median(out["half_share"] for out in theirs if out["runs"]),
        "failures": dict(failures(networks)),
        "Torch-Pruning: errors": dict(Counter(error.split(":")[0] for error in errors_of(networks, "torch_pruning"))),
    }


def is_exact(network: Outcome) -> bool:
    ours = network.get("ours", {})
    return bool(ours.get("full_exact")) and all(holds(ours, key) for key in ("runs", "trains", "macs", "params"))


def holds(ours: Outcome, key: str) -> bool:
    """Whether all sub-networks of a network have this property."""
    return all(draw.get(key, False) for draw in ours["draws"].values())


def failures(networks: list[Outcome]) -> dict[str, str]:
    """{network: what failed first} of those that are not exact, or not equal and silent about it."""
    failed: dict[str, str] = {}
    for n in networks:
        ours = n.get("ours", {})
        errors = [n.get("error"), n.get("times", {}).get("error"), ours.get("error")]
        keys: list[str] = []
        if "draws" in ours:
            promised = ("runs", "in_place", "macs", "params", "trains", *(() if n["groups"]["noted"] else ("masked",)))
            keys = [key for key in promised if not holds(ours, key)] + ["full_exact"] * (not ours["full_exact"])
        if any(errors) or keys:
            failed[n["name"]] = next(filter(None, errors), None) or ", ".join(keys)
    return failed


def errors_of(networks: list[Outcome], key: str) -> list[str]:
    return [n[key]["error"] for n in networks if "error" in n.get(key, {})]


def count(networks: list[Outcome], key: str) -> int:
    return sum(n["groups"][key] for n in networks if "groups" in n)


def median(values: Any) -> float | None:
    listed = list(values)
    return round(statistics.median(listed), 4) if listed else None


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
