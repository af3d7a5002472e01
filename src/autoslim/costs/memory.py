"""The paper's memory: parameters plus what convolutions, linear layers and average pools put out, in elements."""

from autoslim.costs._base import COSTS, Convention, Cost
from autoslim.costs._parameters import parameter_terms
from autoslim.graph import ChannelGraph, Term


class Memory(Cost):
    """Elements (not bytes) of parameters and activations, for the traced input."""

    def terms(self, graph: ChannelGraph, convention: Convention) -> tuple[Term, ...]:
        return parameter_terms(graph, convention) + graph.outputs


COSTS.register("memory", Memory)
