"""Stage 2, supernet: one set of full-width parameters that runs at any widths, in place.

A sub-network is the graph's index selection, standing in the places of the full tensors for the time of a context: for
the forward pass, and for a backward pass that runs layers again (activation checkpointing). The model's class, its code
and its parameters stay what they are. At full width nothing is selected and the model runs as it is, bit for bit.
"""

from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoslim._tensors import is_channels_last
from autoslim.graph import ChannelGraph
from autoslim.widths import Widths

_PLANS = 512  # widths whose index selection is kept: the candidates of several search steps


@dataclass(frozen=True)
class _Cut:
    """One dimension of a tensor: the first `length` slots (a view), or the `indices` where they are not the first."""

    dim: int
    length: int
    indices: torch.Tensor | None

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.indices is None:
            return tensor.narrow(self.dim, 0, self.length)
        return tensor.index_select(self.dim, self.indices)


@dataclass(frozen=True)
class _Plan:
    """All that changes at some widths: tensors by name, module attributes by module."""

    cuts: Mapping[str, tuple[_Cut, ...]]
    attributes: tuple[tuple[nn.Module, str, Any], ...]


class Supernet(nn.Module):
    """All sub-networks of a network in one set of weights.

    Args:
        model: The network at full width. It is held, not copied: training the supernet trains it.
        graph: Its channel graph, from `trace_channels`.

    >>> from autoslim import trace_channels
    >>> model, x = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1)), torch.ones(1, 3, 8, 8)
    >>> net = Supernet(model, trace_channels(model, x))
    >>> with net.at(net.graph.min_widths()):
    ...     net(x).shape
    torch.Size([1, 4, 6, 6])
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph) -> None:
        super().__init__()
        self.model = model
        self.graph = graph
        self._plans: OrderedDict[Widths, _Plan] = OrderedDict()
        self._active: Mapping[str, torch.Tensor] = {}  # what stands in for full tensors now
        self._full: dict[str, list[torch.Tensor]] = {}  # and for which, in each of their places
        self._places = _places(model)
        self._modules_at = dict(model.named_modules(remove_duplicate=False))
        self._shapes = {name: x.shape for name, x in (*model.named_parameters(), *model.named_buffers())}
        self._parameter_names = [name for name, _ in model.named_parameters()]
        self._buffer_names = [name for name, _ in model.named_buffers()]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._plans.clear()  # their indices lie on the device that the model leaves
        return super()._apply(fn, recurse)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    @contextmanager
    def at(
        self, widths: Mapping[str, int], *, buffers: Mapping[str, torch.Tensor] | None = None
    ) -> Generator[None, None, None]:
        """Runs the sub-network of these widths inside the context; gradients reach its slots of the full parameters.

        What a sub-network writes into its buffers (running statistics) never reaches the full network's. At full
        width without `buffers` the model runs on its own, and does write them.

        Args:
            widths: Channels per group.
            buffers: Buffers to run on instead of copies of the supernet's; from `buffers_at`. They are written to.

        Raises:
            WidthsError: The widths don't fit the graph.
        """
        plan = self._plan(widths)
        if not plan.cuts and buffers is None and not self._active:
            yield
            return
        parameters = {
            name: _apply(plan.cuts[name], self._tensor(name)) for name in self._parameter_names if name in plan.cuts
        }
        copies = self.buffers_at(widths) if buffers is None and plan.cuts else buffers or {}
        with self._activate({**parameters, **copies}, plan):
            yield

    @contextmanager
    def leaves_at(self, widths: Mapping[str, int]) -> Generator[None, None, None]:
        """Like `at`, for training loops: runs on compact leaf copies, adds their gradients to the full ones on leaving.

        Autograd's own slices would fill a full-size gradient with zeros in every pass and lose the channels-last
        layout; compact copies avoid both (docs/architecture.md, stage 2). Run the backward pass inside the context.
        """
        plan = self._plan(widths)
        if not plan.cuts:
            with self.at(widths):
                yield
            return
        full = {name: self._tensor(name) for name in self._parameter_names if name in plan.cuts}
        leaves = {name: _copy(plan.cuts[name], p.detach()).requires_grad_(p.requires_grad) for name, p in full.items()}
        with self._activate({**leaves, **self.buffers_at(widths)}, plan):
            yield
        for name, leaf in leaves.items():
            if leaf.grad is not None:
                _add_(full[name], plan.cuts[name], leaf.grad)

    def buffers_at(self, widths: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """Copies of all buffers, cut to these widths."""
        cuts = self._plan(widths).cuts
        return {name: _copy(cuts.get(name, ()), self._tensor(name)) for name in self._buffer_names}

    def _tensor(self, name: str) -> torch.Tensor:
        """A full parameter or buffer as it is now; found without a walk through all modules, which takes long."""
        if name in self._full:
            return self._full[name][0]
        store, own = self._places[name][0]
        return store[own]

    @contextmanager
    def _activate(self, tensors: Mapping[str, torch.Tensor], plan: _Plan) -> Generator[None, None, None]:
        """Puts tensors in the places of full ones, and takes away what a context around this one has put."""
        before = self._active
        olds = [(module, name, getattr(module, name)) for module, name, _ in plan.attributes]
        try:
            self._stand_in(tensors)
            for module, name, value in plan.attributes:
                setattr(module, name, value)
            yield
        finally:
            self._stand_in(before)
            for module, name, value in olds:
                setattr(module, name, value)

    def _stand_in(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """These and no others stand for full tensors from now on."""
        for name, full in self._full.items():
            for (store, own), tensor in zip(self._places[name], full, strict=True):
                store[own] = tensor
        self._active, self._full = tensors, {}
        for name, tensor in tensors.items():
            self._full[name] = [store[own] for store, own in self._places[name]]
            for store, own in self._places[name]:
                store[own] = tensor

    def _plan(self, widths: Mapping[str, int]) -> _Plan:
        widths = Widths(widths)
        plan = self._plans.get(widths)
        if plan is None:
            plan = self._plans[widths] = self._make_plan(widths)
            if len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        return plan

    @property
    def _device(self) -> torch.device | None:
        return next((tensor.device for tensor in self.model.parameters()), None)

    def _make_plan(self, widths: Widths) -> _Plan:
        cuts: dict[str, tuple[_Cut, ...]] = {}
        known: dict[int, tuple[int, torch.Tensor | None]] = {}  # many axes share their indices
        for name, dims in self.graph.selection(widths).items():
            chosen: list[_Cut] = []
            for dim, kept in dims.items():
                if id(kept) not in known:
                    known[id(kept)] = len(kept), None if _is_prefix(kept) else kept.to(self._device)
                length, indices = known[id(kept)]
                if length < self._shapes[name][dim]:
                    chosen.append(_Cut(dim, length, indices))
            if chosen:
                cuts[name] = tuple(chosen)
        attributes: list[tuple[nn.Module, str, Any]] = []
        for path, values in self.graph.attributes(widths).items():
            attributes += [(self._modules_at[path], name, value) for name, value in values.items()]
        return _Plan(cuts, tuple(attributes))


def _places(model: nn.Module) -> dict[str, list[tuple[dict[str, Any], str]]]:
    """For the first name of each tensor, where it stands: in the dict of a module, by its own name there."""
    places: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for own, tensor in store.items():
                if tensor is not None:
                    places.setdefault(id(tensor), []).append((store, own))
    return {name: places[id(tensor)] for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def _is_prefix(kept: torch.Tensor) -> bool:
    return len(kept) == 0 or int(kept[-1]) == len(kept) - 1


def _apply(cuts: tuple[_Cut, ...], tensor: torch.Tensor) -> torch.Tensor:
    for cut in cuts:
        tensor = cut.take(tensor)
    return tensor


def _copy(cuts: tuple[_Cut, ...], tensor: torch.Tensor) -> torch.Tensor:
    """A dense copy of what the cuts leave, in the layout of the full tensor: channels-last stays channels-last."""
    last = is_channels_last(tensor)
    return _apply(cuts, tensor).clone(memory_format=torch.channels_last if last else torch.contiguous_format)


def _add_(parameter: torch.Tensor, cuts: tuple[_Cut, ...], gradient: torch.Tensor) -> None:
    """Adds a compact gradient into the slots of the full-size one."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    target = parameter.grad
    gather = [cut for cut in cuts if cut.indices is not None]
    for cut in cuts:
        if cut.indices is None:
            target = target.narrow(cut.dim, 0, cut.length)
    if not gather:
        target.add_(gradient)
    elif len(gather) == 1:
        target.index_add_(gather[0].dim, gather[0].indices, gradient)  # pyright: ignore[reportArgumentType]
    else:
        full = [torch.arange(size, device=target.device) for size in target.shape]
        for cut in gather:
            full[cut.dim] = cut.indices  # pyright: ignore[reportArgumentType, reportCallIssue]
        target.index_put_(tuple(torch.meshgrid(*full, indexing="ij")), gradient, accumulate=True)
