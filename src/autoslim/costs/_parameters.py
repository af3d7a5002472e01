"""The number of parameters as terms: what params and memory have in common."""

from autoslim.graph import ChannelGraph, Count, Term, count_slots


def parameter_terms(graph: ChannelGraph) -> tuple[Term, ...]:
    """One term per parameter: the product of the slots kept on each of its dimensions."""
    axes = {(axis.tensor, axis.dim): axis for axis in graph.axes}
    terms: list[Term] = []
    for name, shape in graph.parameters:
        scale = 1
        factors: list[Count] = []
        for dim, size in enumerate(shape):
            axis = axes.get((name, dim))
            if axis is None:
                scale *= size
            else:
                factors.append(count_slots(axis.owner, graph.groups))
        terms.append(Term("parameter", name.rpartition(".")[0], scale, tuple(factors)))
    return tuple(terms)
