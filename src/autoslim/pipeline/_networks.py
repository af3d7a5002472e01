"""The networks of a run: the one given, and the one that is searched, which may be rewritten or wider."""

import traceback
from functools import reduce
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from autoslim.extract import correct_scale_, extract_network
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
from autoslim.widths import Widths


class Networks:
    """Builds both, and traces what is searched.

    What the user keeps or limits is settled on the network as given: a group that is frozen there is not widened.

    Attributes:
        model: The network that is searched: the user's own, the same rewritten, or wider; with trained weights, where
            a file of them was given, its channels sorted.
        graph: Its groups, kept and limited as the user asks.
        own: The widths at which `graph` gives the user's own network.
        layout: Of all weights, which feature maps follow: channels-last, which is faster, unless the user's code can't
            run so.
        notes: Why not, and what else is to be told of them.

    Once its supernet is `trained`, the file of weights that it started from is not read again.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        *,
        num_classes: int,
        input_shape: tuple[int, int, int],
        trained: bool = False,
    ) -> None:
        self._config, self._task, self._num_classes, self._channels = config, task, num_classes, input_shape[0]
        self._example = x = torch.zeros(1, *input_shape)
        self.layout = torch.contiguous_format
        own = self.build_own()
        self.layout, note = choose_layout(own, torch.zeros(2, *input_shape))
        self.notes = [note] if note else []
        if not config.from_weights and _seedless(own, self.build_own(seed=config.seed + 1)):
            self.notes.append(
                "has the same weights from any seed. If they are trained ones, they would be cut and scaled as if "
                "drawn: save its state dict, let the builder draw, and give --from-weights FILE."
            )
        self.model = self._rewritten(self.build_own())
        self._own_graph = self.graph = self._restrict(trace_channels(self.model, x))
        self.own = self.graph.max_widths()
        if config.widen > 1:
            self.model = self.build()
            frozen = {group.name: group.frozen for group in self.graph.groups if group.frozen is not None}
            self.graph = self._restrict(trace_channels(self.model, x).freeze(frozen))
            self.graph.check(self.own)
        if config.from_weights and not trained:
            fresh = load_weights_(self.model, config.from_weights, num_classes=num_classes)
            if fresh:
                told = f"{', '.join(fresh)}: of another number of classes in {config.from_weights}, here drawn anew"
                self.notes.append(told)
            left = sort_channels_(self.model, self.graph, filter_norms(self.model, self.graph)).left
            kept = [f"`{g.name}` ({left[g.name]})" for g in self.graph.groups if g.frozen is None and g.name in left]
            if kept:
                self.notes.append(f"channels keep their order, whatever their importance: {', '.join(kept)}")

    def _rewritten(self, model: nn.Module) -> nn.Module:
        return rewrite_network(model, self._example) if self._config.rewrite else model

    def _restrict(self, graph: ChannelGraph) -> ChannelGraph:
        graph = reduce(ChannelGraph.freeze, self._config.keep, graph)
        return reduce(lambda limited, each: limited.limit(each[0], **each[1]), self._config.limits, graph)

    def build_own(self, *, seed: int | None = None) -> nn.Module:
        """The network as the user gave it and the task runs it, freshly initialised from the run's seed, or another."""
        with torch.random.fork_rng():
            torch.manual_seed(self._config.seed if seed is None else seed)
            model = build_model(self._config.model, num_classes=self._num_classes, in_channels=self._channels)
        model = adapt_network(self._task, self._config, model)
        return model.to(memory_format=self.layout)  # pyright: ignore[reportCallIssue]

    def build(self) -> nn.Module:
        """The network that is searched, freshly initialised from the seed."""
        model = self._rewritten(self.build_own())
        if self._config.widen > 1:
            with torch.random.fork_rng():
                torch.manual_seed(self._config.seed)
                model = widen_network(model, self._own_graph, self._config.widen)
        return model.to(memory_format=self.layout)  # pyright: ignore[reportCallIssue]

    def build_slim(self, widths: Widths) -> nn.Module:
        """The network of these widths, freshly initialised: the user's own, or extracted of the searched one."""
        if widths == self.own:
            return self.build_own()
        fresh = self.build()
        return correct_scale_(extract_network(fresh, self.graph, widths), fresh)


def _seedless(model: nn.Module, other: nn.Module) -> bool:
    """Whether two builds of one network, from two seeds, have the same matrices and filters."""
    pairs = zip(model.parameters(), other.parameters(), strict=False)
    drawn = [(a, b) for a, b in pairs if not is_lazy(a) and a.ndim > 1]
    return bool(drawn) and all(torch.equal(a, b) for a, b in drawn)


def choose_layout(model: nn.Module, images: torch.Tensor) -> tuple[torch.memory_format, str]:
    """Channels-last, unless the model runs on `images` [N, C, H, W] in contiguous memory alone, and why.

    `x.view(n, -1)` is code that can't: only `flatten` and `reshape` take feature maps in any layout. Both modes are
    tried, as heads may run in training alone; where one runs in neither layout, the trace tells what broke.
    """
    for training in (False, True):
        try:
            _run(model.train(training), images, torch.channels_last)
            continue
        except Exception as raised:  # noqa: BLE001 - the user's code raises anything
            error = raised
        try:
            _run(model, images, torch.contiguous_format)
        except Exception:  # noqa: BLE001
            continue
        place, what = traceback.extract_tb(error.__traceback__)[-1], str(error).partition("\n")[0].rstrip(".")
        return torch.contiguous_format, (
            f"{Path(place.filename).name}:{place.lineno} can't run in channels-last memory ({what}), which is the "
            "faster one; all is trained in contiguous memory. Write flatten or reshape there, if it is a view."
        )
    return torch.channels_last, ""


def _run(model: nn.Module, images: torch.Tensor, layout: torch.memory_format) -> None:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # all is on the processor
        model.to(memory_format=layout)(images)  # pyright: ignore[reportCallIssue]
