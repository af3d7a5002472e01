"""The networks of a run: the one given, and the one that is searched, which may be rewritten or wider."""

from functools import reduce

import torch
from torch import nn

from autoslim.graph import ChannelGraph
from autoslim.models import build_model
from autoslim.pipeline._config import RunConfig
from autoslim.pipeline._task import adapt_network
from autoslim.pipeline._weights import load_weights_
from autoslim.rewrite import rewrite_network
from autoslim.sort import filter_norms, sort_channels_
from autoslim.tasks import Task
from autoslim.trace import trace_channels
from autoslim.widen import widen_network


class Networks:
    """Builds both, and traces what is searched.

    What the user keeps or limits is settled on the network as given: a group that is frozen there is not widened.

    Attributes:
        model: The network that is searched: the user's own, the same rewritten, or wider; with trained weights, where
            a file of them was given, its channels sorted.
        graph: Its groups, kept and limited as the user asks.
        own: The widths at which `graph` gives the user's own network.
    """

    def __init__(self, config: RunConfig, task: Task, *, num_classes: int, input_shape: tuple[int, int, int]) -> None:
        self._config, self._task, self._num_classes, self._channels = config, task, num_classes, input_shape[0]
        self._example = x = torch.zeros(1, *input_shape)
        self.model = self._rewritten(self.build_own())
        self._own_graph = self.graph = self._restrict(trace_channels(self.model, x))
        self.own = self.graph.max_widths()
        if config.widen > 1:
            self.model = self.build()
            frozen = {group.name: group.frozen for group in self.graph.groups if group.frozen is not None}
            self.graph = self._restrict(trace_channels(self.model, x).freeze(frozen))
            self.graph.check(self.own)
        if config.from_weights:
            load_weights_(self.model, config.from_weights)
            sort_channels_(self.model, self.graph, filter_norms(self.model, self.graph))

    def _rewritten(self, model: nn.Module) -> nn.Module:
        return rewrite_network(model, self._example) if self._config.rewrite else model

    def _restrict(self, graph: ChannelGraph) -> ChannelGraph:
        graph = reduce(ChannelGraph.freeze, self._config.keep, graph)
        return reduce(lambda limited, each: limited.limit(each[0], **each[1]), self._config.limits, graph)

    def build_own(self) -> nn.Module:
        """The network as the user gave it and the task runs it, freshly initialised from the seed."""
        with torch.random.fork_rng():
            torch.manual_seed(self._config.seed)
            model = build_model(self._config.model, num_classes=self._num_classes, in_channels=self._channels)
        model = adapt_network(self._task, self._config, model)
        return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def build(self) -> nn.Module:
        """The network that is searched, freshly initialised from the seed."""
        model = self._rewritten(self.build_own())
        if self._config.widen > 1:
            with torch.random.fork_rng():
                torch.manual_seed(self._config.seed)
                model = widen_network(model, self._own_graph, self._config.widen)
        return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
