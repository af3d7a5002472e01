"""Stage 4 of a run: the network given, those that were found, and their uniform counterparts, each trained alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoslim.budget import Budget
from autoslim.pipeline._job import Job
from autoslim.pipeline._search import binding_metric
from autoslim.pipeline._training import retrain_network
from autoslim.run_folder import read_json
from autoslim.saved import load_tensors_, save_network
from autoslim.search import Found, hold_uniform, match_uniform
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
                beside = find_uniform(job, each)
                job.shown.line(f"uniform   {each.budget.text}: {_say(beside, measured=each.budget.measured)}")
                facts = {**beside.facts, "gap": beside.gap}
                places[f"{slug}/uniform"] = _obtain(job, f"{folder}/uniform", beside.widths, facts, networks)
    return places


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
        metrics={**facts, **job.price(widths), "losses": trained.losses, "skipped_steps": trained.skipped},
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
    """

    ratio: float
    widths: Widths
    metric: str
    gap: float
    note: str

    @property
    def facts(self) -> dict[str, Any]:
        """What files keep of it; the note only if there is one."""
        return {"ratio": self.ratio, **({"note": self.note} if self.note else {})}


def find_uniform(job: Job, found: Found) -> Beside:
    """The uniform network of the found one's cost; under a limit of latency the widest of candidates that holds.

    Under several limits the one of that cost may break another limit: then it is the widest that holds all of them.

    A count grows evenly with the channels, so that any cost can be met. A latency is a staircase, and steep beside the
    multiples of 8 that candidates are: what meets it with 17 channels is no network that anyone would take.
    """
    budget, metric, broken = found.budget, binding_metric(found, job.base), dict[str, float]()
    if budget.measured:
        ratio, widths = hold_uniform(job.space, job.costs, budget, base=job.base)
    else:
        ratio, widths = match_uniform(job.space, job.costs[metric], found.costs[metric], tolerance=_CLOSE)
        above = _excesses(job, budget, widths)
        broken = {name: excess for name, excess in above.items() if name != metric and excess > _CLOSE}
        if broken:
            ratio, widths = hold_uniform(job.space, job.costs, budget, base=job.base)
    gap = job.costs[metric](widths) / found.costs[metric] - 1
    excess = max(_excesses(job, budget, widths).values())
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
    return Beside(ratio, widths, metric, gap, note)


def _excesses(job: Job, budget: Budget, widths: Widths) -> dict[str, float]:
    """How far a network is above each limit, as a share of it."""
    return {each.metric: job.costs[each.metric](widths) / each.absolute(job.base) - 1 for each in budget.limits}


def _say(beside: Beside, *, measured: bool) -> str:
    """Its ratio, its cost beside AutoSlim's, and its note."""
    told = f"ratio {beside.ratio:.3f}, {beside.gap:+.2%} {beside.metric} of AutoSlim's{', predicted' * measured}"
    return f"{told}; {beside.note}" if beside.note else told
