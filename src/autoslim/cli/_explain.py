"""What `autoslim trace` says of a graph: what each group is worth, who reads whom, and why some are frozen."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from autoslim.costs import make_cost
from autoslim.graph import ChannelGraph, Group, Term

_NAMED = 3  # layers that are spelled out per group


def group_shares(graph: ChannelGraph) -> list[dict[str, str | float]]:
    """For each group, {"group": its name, "macs": share, "params": share}, in the network's order.

    A share is what would go if all of the group's channels went, of the whole network's cost. What lies between two
    groups goes with either, so that the shares add up to more than 1.
    """
    shares: list[dict[str, str | float]] = [{"group": group.name} for group in graph.groups]
    for name in ("macs", "params"):
        terms = make_cost(name, graph).terms(graph, "standard")
        atoms = graph.atoms(graph.max_widths())
        whole = sum(term(atoms) for term in terms)
        lost: Counter[int] = Counter()
        for term in terms:
            for index in _groups_of(term):
                without = atoms.copy()
                without[index] = 0
                lost[index] += term(atoms) - term(without)
        for index, share in enumerate(shares):
            share[name] = lost[index] / whole if whole else 0.0
    return shares


def group_edges(graph: ChannelGraph) -> list[tuple[str, str]]:
    """(a, b) where a convolution or matrix product reads channels of group a and makes channels of group b."""
    made: defaultdict[tuple[str, str], list[Term]] = defaultdict(list)
    for term in graph.outputs:
        made[term.module, term.kind].append(term)
    edges: dict[tuple[str, str], None] = {}
    for term in graph.macs:  # an operator counts its products and its outputs one after the other: both in one order
        made_here = made[term.module, term.kind]
        for target in _groups_of(made_here.pop(0)) if made_here else ():
            for source, times in _groups_of(term).items():
                if source != target or times > 1:
                    edges[graph.groups[source].name, graph.groups[target].name] = None
    return list(edges)


def _groups_of(term: Term) -> Counter[int]:
    """The groups a term depends on, each with the number of its factors that do."""
    return Counter(index for factor in term.factors for index, _ in factor.per_atom)


def dot_text(graph: ChannelGraph) -> str:
    """The groups as a Graphviz graph: a node for each, grey if frozen, and the edges of `group_edges`."""
    lines = ["digraph channels {", '  node [shape=box, fontname="sans-serif"];']
    for group in graph.groups:
        label = "\n".join([f"{group.name}: {group.size} channels", *_some(group.layers)])
        frozen = f", style=filled, fillcolor=lightgrey, tooltip={_quote(group.frozen)}" if group.frozen else ""
        lines.append(f"  {_quote(group.name)} [label={_quote(label)}{frozen}];")
    lines += [f"  {_quote(source)} -> {_quote(target)};" for source, target in group_edges(graph)]
    return "\n".join([*lines, "}"])


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # Graphviz escapes a quote and a line break as JSON does


def say_layers(group: Group) -> str:
    """The first layers of a group and the number of all."""
    return ", ".join(_some(group.layers))


def _some(layers: Sequence[str]) -> list[str]:
    more = len(layers) - _NAMED
    return [*layers[:_NAMED], *([f"and {more} more"] if more > 0 else [])]


def collect(graph: ChannelGraph, text: Callable[[Group], str | None]) -> dict[str, list[str]]:
    """Every text that groups have (their reason to be frozen, their note), once, with the groups' names."""
    found: dict[str, list[str]] = {}
    for group in graph.groups:
        if said := text(group):
            found.setdefault(said, []).append(group.name)
    return found
