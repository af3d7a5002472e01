"""The number of parameters as terms: what params and memory have in common."""

from autoslim.costs._base import Convention
from autoslim.graph import ChannelGraph, Count, Term, count_slots


def parameter_terms(graph: ChannelGraph, convention: Convention) -> tuple[Term, ...]:
    """One term per parameter that the convention counts: the product of the slots kept on each of its dimensions."""
    axes = {(axis.tensor, axis.dim): axis for axis in graph.axes}
    counted = _paper_parameters(graph) if convention == "paper" else {name for name, _ in graph.parameters}
    terms: list[Term] = []
    for name, shape in graph.parameters:
        if name not in counted:
            continue
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


def _paper_parameters(graph: ChannelGraph) -> set[str]:
    """What the paper counts: weights of convolutions and linear layers, and the latter's biases.

    The graph knows what each module ran, not what it is. A weight is a parameter of two or more dimensions whose
    module ran a convolution or a matrix product; a linear layer's bias is one with fewer whose module ran a product.
    So BatchNorm's parameters and a convolution's bias are left out.
    """
    convolved = {term.module for term in graph.macs if term.kind == "conv"}
    multiplied = {term.module for term in graph.macs if term.kind == "matmul"}
    return {
        name
        for name, shape in graph.parameters
        if name.rpartition(".")[0] in (convolved | multiplied if len(shape) > 1 else multiplied)
    }
