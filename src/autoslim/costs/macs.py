"""Multiply-accumulates of every convolution and matrix product, for the traced input."""

from autoslim.costs._base import COSTS, Convention, Cost
from autoslim.graph import ChannelGraph, Term


class Macs(Cost):
    """MACs (the paper's "FLOPs"); equal to half of what torch's flop counter counts on the extracted network."""

    def terms(self, graph: ChannelGraph, convention: Convention) -> tuple[Term, ...]:
        return graph.macs + graph.pooled if convention == "paper" else graph.macs


COSTS.register("macs", Macs)
