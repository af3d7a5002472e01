"""The number of all parameters, BatchNorm's included."""

from autoslim.costs._base import COSTS, Convention, Cost
from autoslim.costs._parameters import parameter_terms
from autoslim.graph import ChannelGraph, Term


class Params(Cost):
    """Parameters; equal to the sum of `numel` over the extracted network's parameters."""

    def terms(self, graph: ChannelGraph, convention: Convention) -> tuple[Term, ...]:
        return parameter_terms(graph, convention)


COSTS.register("params", Params)
