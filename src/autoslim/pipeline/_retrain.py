"""Stage 4 of a run: the network given, those that were found, and their uniform counterparts, each trained alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoslim.budget import Budget
from autoslim.costs.latency import LatencyCost
from autoslim.pipeline._job import Job
from autoslim.pipeline._latency import LATENCY, obtain_latency
from autoslim.pipeline._search import ROUNDS, binding_metric, measure_found
from autoslim.pipeline._training import retrain_network
from autoslim.run_folder import RunFolder, read_json
from autoslim.saved import load_tensors_, save_network
from autoslim.search import Cost, Found, hold_uniform, match_uniform
from autoslim.train import Trained
from autoslim.widths import Widths

_CLOSE = 0.01  # how far a cost may be from what it is held against, and nothing is said


def retrain(job: Job, found: Sequence[Found]) -> dict[str, Path]:
    """Trains your own network, what was found for each budget, and its uniform counterpart; where each is, by slug."""
    places = dict[str, Path]()
    networks = dict[Widths, Path]()  # that are trained, and where they are
    wanted = job.config.baselines.split(",") if job.config.retrain != "none" else []
    with job.timed("retrain"):
        if "base" in wanted:
            places["base"] = _obtain(job, "models/base", job.own, {}, networks)
        for each in found:
            slug, folder = each.budget.slug, f"models/{each.budget.slug}"
            places[slug] = _obtain(job, folder, each.widths, {"budget": each.budget.text}, networks)
            if "uniform" in wanted:
                places[f"{slug}/uniform"] = _obtain_uniform(job, f"{folder}/uniform", each, networks)
    return places


def _obtain_uniform(job: Job, folder: str, found: Found, networks: dict[Widths, Path]) -> Path:
    """The uniform network beside one that was found; what was measured since does not change one that is there."""
    path = job.folder.path / folder
    if (path / "metrics.json").exists():
        return _obtain(job, folder, Widths.from_json(read_json(path / "widths.json", kind="Widths")), {}, networks)
    beside = find_uniform(job, found, job.folder)
    job.shown.line(f"uniform   {found.budget.text}: {_say(beside)}")
    return _obtain(job, folder, beside.widths, {**beside.facts, **beside.measured, "gap": beside.gap}, networks)


def _obtain(job: Job, folder: str, widths: Widths, facts: Mapping[str, Any], networks: dict[Widths, Path]) -> Path:
    """A trained network of these widths, on the disk; one that is there already is left alone."""
    path = job.folder.path / folder
    twin = networks.setdefault(widths, path)
    if (path / "metrics.json").exists():
        return path
    small, trained, checkpoints = job.start(widths), Trained([], 0), None
    if twin != path and job.config.retrain != "none":  # it would be trained to the same weights once more
        load_tensors_(twin / "model.safetensors", small)
        metrics = read_json(twin / "metrics.json", kind="Metrics")
        trained = Trained(metrics["losses"], metrics["skipped_steps"])
        job.shown.line(f"retrain   {folder}: the widths of {twin.relative_to(job.folder.path)}, trained already")
    elif job.config.retrain != "none":
        trained, checkpoints = retrain_network(job, small, folder)
    save_network(
        path,
        small,
        builder=job.builder,
        attributes=job.graph.attributes(widths),
        widths=widths,
        preparation=job.preparation,
        metrics={**job.price(widths), **facts, "losses": trained.losses, "skipped_steps": trained.skipped},
    )
    job.ranks.wait()  # what the first has written, all may read
    if checkpoints is not None:
        checkpoints.remove()
    return path


# The uniform network beside one that was found -----------------------------------------------------------------------


@dataclass(frozen=True)
class Beside:
    """A uniform network, and how fair an opponent it is.

    Attributes:
        ratio: Of all groups.
        widths: Of each.
        metric: What the budget limits most tightly.
        gap: Its cost in that metric less that of the found network, as a share of it.
        note: Where it is not at the limit, or not at the found one's cost, and why; else empty.
        measured: Its cost in that metric, where it was measured.
    """

    ratio: float
    widths: Widths
    metric: str
    gap: float
    note: str
    measured: Mapping[str, float]

    @property
    def facts(self) -> dict[str, Any]:
        """What files keep of it beside its costs; the note only if there is one."""
        return {"ratio": self.ratio, **({"note": self.note} if self.note else {})}


def find_uniform(job: Job, found: Found, place: RunFolder) -> Beside:
    """The uniform network of the found one's cost; under a limit of latency the widest of candidates that holds.

    Under several limits the one of that cost may break another limit: then it is the widest that holds all of them.

    A count grows evenly with the channels, so that any cost can be met. A latency is a staircase, and steep beside the
    multiples of 8 that candidates are: what meets it with 17 channels is no network that anyone would take. It is
    measured, as that of the found network was, until what is taken holds; `place` keeps what was measured, apart from
    the run's own prediction, by which the search goes.
    """
    budget, metric, broken, costs = found.budget, binding_metric(found, job.base), dict[str, float](), dict(job.costs)
    if budget.measured:
        ratio, widths = _hold_measured(job, budget, costs, place.path / f"uniform-{budget.slug}.json")
    else:
        ratio, widths = match_uniform(job.space, costs[metric], found.costs[metric], tolerance=_CLOSE)
        above = _excesses(job, budget, widths, costs)
        broken = {name: excess for name, excess in above.items() if name != metric and excess > _CLOSE}
        if broken:
            ratio, widths = hold_uniform(job.space, costs, budget, base=job.base)
    gap = costs[metric](widths) / found.costs[metric] - 1
    excess = max(_excesses(job, budget, widths, costs).values())
    note = ""
    if excess > _CLOSE:
        held = budget.measured or broken
        why = ": even the narrowest does not hold it" if held else ", as close as its widths come to AutoSlim's"
        note = f"{excess:.1%} above the limit{why}"
    elif broken:
        told = " and ".join(f"{name} {over:.1%}" for name, over in broken.items())
        note = f"{-gap:.1%} below AutoSlim's {metric}: at the same it would have {told} above the limit"
    elif budget.measured and excess < -_CLOSE and ratio < 1:
        note = f"{-excess:.1%} below the limit: the next wider candidates break it"
    measured = {LATENCY: costs[LATENCY](widths)} if budget.measured else {}
    return Beside(ratio, widths, metric, gap, note, measured)


def _hold_measured(job: Job, budget: Budget, costs: dict[str, Cost], table: Path) -> tuple[float, Widths]:
    """The widest uniform network that holds as measured; puts the corrected prediction into `costs`."""
    if job.ranks.tell(table.exists()):
        costs[LATENCY], _ = obtain_latency(job, table, known=True)
    ratio, widths = hold_uniform(job.space, costs, budget, base=job.base)
    for _ in range(ROUNDS):
        cost = costs[LATENCY]
        if not isinstance(cost, LatencyCost) or widths in cost.measured:
            break
        costs[LATENCY] = cost = measure_found(job, cost, {widths: [budget]}, what="uniform")
        cost.save(table)
        ratio, widths = hold_uniform(job.space, costs, budget, base=job.base)
    return ratio, widths


def _excesses(job: Job, budget: Budget, widths: Widths, costs: Mapping[str, Cost]) -> dict[str, float]:
    """How far a network is above each limit, as a share of it."""
    return {each.metric: costs[each.metric](widths) / each.absolute(job.base) - 1 for each in budget.limits}


def _say(beside: Beside) -> str:
    """Its ratio, its cost beside AutoSlim's, and its note."""
    told = f"ratio {beside.ratio:.3f}, {beside.gap:+.2%} {beside.metric} of AutoSlim's"
    return f"{told}; {beside.note}" if beside.note else told
