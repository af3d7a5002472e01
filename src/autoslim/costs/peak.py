"""Peak memory: bytes of weights, and of the largest set of tensors alive at once, in the order the network runs."""

import numpy as np
from numpy.typing import NDArray

from autoslim.costs._base import COSTS, Convention, Cost
from autoslim.costs._parameters import parameter_terms
from autoslim.graph import ChannelGraph, Term


class PeakMemory(Cost):
    """Bytes that running the network (eval, no gradients) takes at its peak; an operator's own scratch is left out.

    A tensor lives as long as the model's own code held it in the trace: a block's input until its addition, say.

    Args:
        graph: The graph.
        macs_convention: As for every cost; "paper" leaves BatchNorm's parameters out.
        batch: Images at once.
        bytes_per_element: 4 for float32, 2 for half precision.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        *,
        macs_convention: Convention = "standard",
        batch: int = 1,
        bytes_per_element: int = 4,
    ) -> None:
        super().__init__(graph, macs_convention=macs_convention)
        tensors, traced = graph.activations, next((shape[0] for shape in graph.inputs if shape), 1)
        images = sum(int(np.prod(shape)) for shape in graph.inputs)
        self._fixed = images * batch / traced * bytes_per_element
        self._weights = len(parameter_terms(graph, macs_convention))
        self._bytes = np.full(len(self._scale), float(bytes_per_element))
        for index, tensor in enumerate(tensors, start=self._weights):
            self._bytes[index] = (tensor.width or bytes_per_element) * (batch / traced if tensor.batched else 1)
        # Memory can only reach a new peak where a tensor is made; [moments, tensors]: 1 where a tensor is alive then
        start, stop = (np.array([getattr(t, name) for t in tensors]) for name in ("start", "stop"))
        moments = np.unique(start)[:, None]
        self._alive = ((start <= moments) & (moments < stop)).astype(np.float64)

    def terms(self, graph: ChannelGraph, convention: Convention) -> tuple[Term, ...]:
        return (*parameter_terms(graph, convention), *(tensor.elements for tensor in graph.activations))

    def _price(self, atoms: NDArray[np.int64]) -> NDArray[np.float64]:
        taken = self._multiply(atoms) * (self._scale * self._bytes)
        peak = (taken[:, self._weights :] @ self._alive.T).max(axis=1, initial=0)
        return taken[:, : self._weights].sum(axis=1) + peak + self._fixed


COSTS.register("peak_memory", PeakMemory)
