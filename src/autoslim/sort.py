"""Sort: a trained network's channels in the order of their importance, its function unchanged.

A sub-network keeps the first atoms of each group. So any choice of channels is an order of them, and then a prefix:
whoever ranks channels, by their weights say, sorts the network once, and all widths of it keep the best.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._pytree import tree_map

from autoslim._tensors import output_tensors
from autoslim.errors import ModelError, WidthsError
from autoslim.extract import copy_model
from autoslim.graph import Axis, ChannelGraph

# Of the largest output: a sum in another order differs by far less.
_SAME = {torch.float64: 1e-9, torch.float32: 1e-4}

Orders = Mapping[int, NDArray[np.int64]]  # group -> its atoms, in their new order


@dataclass(frozen=True)
class Sorted:
    """What `sort_channels_` did.

    Attributes:
        order: Per group that was sorted, its atoms by their old numbers, in their new order.
        left: Per group that was left as it was, why.
    """

    order: Mapping[str, tuple[int, ...]]
    left: Mapping[str, str]


def sort_channels_(
    model: nn.Module,
    graph: ChannelGraph,
    importance: Mapping[str, Sequence[float] | torch.Tensor],
    *,
    example_inputs: "torch.Tensor | tuple[Any, ...] | None" = None,
) -> Sorted:
    """Sorts the channels of a network, the most important first, and leaves what it computes as it was.

    Every tensor is re-indexed with the graph's own tables, so that atoms move whole and all layers of a group alike.
    Where a network tells channels apart by their place, no order but its own is right: that is tried out, in float64
    (or float32, where the code knows no other) on random inputs, and such groups are left as they are.

    Args:
        model: The traced network, at full width; its parameters and buffers are changed in place.
        graph: Its channel graph.
        importance: Per group a number for each atom, shape [atoms]; of equals the earlier stays first. A group that is
            not named is left as it is.
        example_inputs: What the network was traced on, where that is more than float tensors. Floats are drawn at
            random in their places; integers, bools and scalars are taken as they are.

    Returns:
        The new order, and what was left and why.

    Raises:
        WidthsError: A group has no such name, or not as many atoms, or a number is not finite.
        ModelError: The network does not run on such inputs.

    >>> from autoslim import trace_channels
    >>> model, x = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1)), torch.rand(1, 1, 4, 4)
    >>> before = model(x)
    >>> sort_channels_(model, trace_channels(model, x), {"0": [0.5, 2.0, 1.0]}).order
    {'0': (1, 2, 0)}
    >>> torch.allclose(model(x), before, atol=1e-6)
    True
    """
    orders = _orders(graph, importance)
    left = {g.name: f"frozen: {g.frozen}" for g in graph.groups if g.frozen is not None}
    left |= {g.name: "no importance was given" for g in graph.groups if g.frozen is None and g.name not in importance}
    for index in [index for index in orders if not _is_even(graph, index)]:
        left[graph.groups[index].name] = "its channels have different numbers of slots on a tensor"
        del orders[index]
    for index in _misplaced(model, graph, orders, example_inputs):
        left[graph.groups[index].name] = "the network tells its channels apart by their place"
        del orders[index]
    _permute_(model, graph, orders)
    return Sorted({graph.groups[index].name: tuple(order.tolist()) for index, order in orders.items()}, left)


def sum_atoms(graph: ChannelGraph, axis: Axis, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Values of an axis's slots, shape [slots], summed over each atom: {group: float64 [atoms]}, for groups on it."""
    found: dict[str, torch.Tensor] = {}
    for index in sorted(set(axis.owner.tolist()) - {-1}):
        group, own = graph.groups[index], torch.from_numpy(axis.owner == index)
        atoms = torch.from_numpy(axis.atom)[own]
        total = torch.zeros(group.atoms, dtype=torch.float64)
        found[group.name] = total.index_add_(0, atoms, values.detach().cpu().double()[own])
    return found


def making_axes(model: nn.Module, graph: ChannelGraph) -> list[Axis]:
    """The axes along which convolutions and linear layers make channels: their weights' output dimensions."""
    wanted = {
        f"{name}.weight".lstrip("."): 1 if isinstance(module, _ConvTransposeNd) else 0
        for name, module in model.named_modules()
        if isinstance(module, (_ConvNd, nn.Linear))
    }
    return [axis for axis in graph.axes if wanted.get(axis.tensor) == axis.dim]


def filter_norms(model: nn.Module, graph: ChannelGraph) -> dict[str, torch.Tensor]:
    """The L1 norm of the filters that make each atom, over all layers that make it: an importance for `sort_channels_`.

    Li et al. 2017, "Pruning filters for efficient ConvNets": the norms of layers that share their channels are summed.
    """
    tensors = dict(model.named_parameters())
    norms: dict[str, torch.Tensor] = {}
    for axis in making_axes(model, graph):
        weight = tensors[axis.tensor].detach().transpose(0, axis.dim).flatten(1).abs().sum(1)
        for group, values in sum_atoms(graph, axis, weight).items():
            norms[group] = norms.get(group, torch.zeros_like(values)) + values
    return {group.name: norms[group.name] for group in graph.groups if group.frozen is None and group.name in norms}


# How ----------------------------------------------------------------------------------------------------------------


def _orders(
    graph: ChannelGraph, importance: Mapping[str, Sequence[float] | torch.Tensor]
) -> dict[int, NDArray[np.int64]]:
    """Per group that may move, its atoms in their new order."""
    numbers = {group.name: index for index, group in enumerate(graph.groups)}
    orders: dict[int, NDArray[np.int64]] = {}
    for name, given in importance.items():
        group = graph.group(name)
        values = torch.as_tensor(given, dtype=torch.float64).detach().cpu().numpy()
        if values.shape != (group.atoms,) or not np.isfinite(values).all():
            raise WidthsError(
                f"sort_channels_: `{name}` has an importance of shape {values.shape}; expected {group.atoms} finite "
                "numbers, one for each atom. Sum over the channels of an atom (`sum_atoms`)."
            )
        if group.frozen is None:
            orders[numbers[name]] = np.argsort(-values, kind="stable")
    return orders


def _is_even(graph: ChannelGraph, index: int) -> bool:
    """Whether all atoms of a group have equally many slots on each axis, so that one fits where another was."""
    counts = [
        np.bincount(axis.atom[axis.owner == index], minlength=graph.groups[index].atoms)
        for axis in graph.axes
        if (axis.owner == index).any()
    ]
    return all((count == count[0]).all() for count in counts)


def _misplaced(model: nn.Module, graph: ChannelGraph, orders: Orders, example: Any) -> list[int]:
    """The groups whose new order changes the outputs; looked for one by one only if all together do.

    All of them, if the orders that change nothing alone do so together.
    """
    trial, inputs, wanted = _exactly(model, graph, example)

    def changes(some: Orders) -> bool:
        ordered = copy_model(trial)
        _permute_(ordered, graph, some)
        return not _agree(_outputs(ordered, inputs), wanted)

    if not changes(orders):
        return []
    wrong = [index for index in orders if changes({index: orders[index]})]
    return list(orders) if changes({index: orders[index] for index in orders if index not in wrong}) else wrong


def _exactly(model: nn.Module, graph: ChannelGraph, example: Any) -> tuple[nn.Module, Any, list[torch.Tensor]]:
    """A copy in float64, or in float32 where its code fixes that; random inputs, and what it makes of them."""
    double = copy_model(model).double().eval()
    drawn = _draw_inputs(graph, example, next(model.parameters()).device)
    try:
        return double, *_telling(double, drawn)
    except ModelError:
        raise
    except Exception:  # noqa: BLE001 - a fault of the inputs shows there again
        single, inputs = copy_model(model).float().eval(), _map_floats(torch.Tensor.float, drawn)
    try:
        return single, *_telling(single, inputs)
    except ModelError:
        raise
    except Exception as error:
        given = "`example_inputs`" if example is not None else f"random float tensors of shape {graph.inputs}"
        raise ModelError(
            f"sort_channels_: {type(model).__name__} fails on {given}, {type(error).__name__}: {error}. "
            "Expected inputs such as it was traced on. If they are more than float tensors (integers, bools, scalars, "
            "lists, dictionaries), pass them as `example_inputs`."
        ) from error


def _telling(model: nn.Module, drawn: Any) -> tuple[Any, list[torch.Tensor]]:
    """Inputs of which the network makes numbers, and these: as drawn, else above 0, else between 0 and 1.

    A logarithm, or a root, makes numbers of some inputs alone; of outputs that are none nothing can be told.
    """
    for change in (torch.clone, torch.abs, torch.sigmoid):
        inputs = _map_floats(change, drawn)
        wanted = _outputs(model, inputs)
        if not any(bool(each.isnan().any()) or bool(each.numel() and each.isinf().all()) for each in wanted):
            return inputs, wanted
    raise ModelError(
        f"sort_channels_: {type(model).__name__} puts out NaN on random inputs, also on such between 0 and 1; expected "
        "numbers, by which to see that an order changes nothing. Mend what makes them, or leave its channels unsorted."
    )


def _draw_inputs(graph: ChannelGraph, example: Any, device: torch.device) -> Any:
    """Arguments for the network: float64 numbers in the places of an example's floats, or of one float tensor each."""
    generator = torch.Generator().manual_seed(0)

    def draw(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def place(leaf: Any) -> Any:
        return leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf

    if example is None:
        example = tuple(torch.empty(shape, device="meta") for shape in graph.inputs)
    return tree_map(place, _map_floats(draw, example if isinstance(example, tuple) else (example,)))


def _map_floats(change: Callable[[torch.Tensor], torch.Tensor], inputs: Any) -> Any:
    def map_one(leaf: Any) -> Any:
        return change(leaf) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

    return tree_map(map_one, inputs)


def _outputs(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return output_tensors(model(*tree_map(_copied, inputs)))  # code may write into its inputs


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf


def _agree(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> bool:
    return all(itertools.starmap(_same, zip(found, wanted, strict=True)))


def _same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    if ours.shape != theirs.shape or theirs.dtype not in _SAME or not theirs.numel():
        return torch.equal(ours, theirs)
    scale = float(theirs.abs().nan_to_num(posinf=0).max())
    return torch.allclose(ours, theirs, rtol=0, atol=_SAME[theirs.dtype] * max(scale, 1e-30))


def _permute_(model: nn.Module, graph: ChannelGraph, orders: Orders) -> None:
    """Puts the slots of each atom where those of another were, on every tensor alike."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for axis in graph.axes:
            if axis.tensor in tensors and (source := _source(axis, orders)) is not None:
                tensor = tensors[axis.tensor]
                tensor.copy_(tensor.index_select(axis.dim, torch.from_numpy(source).to(tensor.device)))


def _source(axis: Axis, orders: Orders) -> NDArray[np.int64] | None:
    """For each slot of an axis the one whose value it takes; None where nothing moves."""
    source = np.arange(len(axis.owner))
    for index in set(axis.owner.tolist()) & set(orders):
        slots = np.flatnonzero(axis.owner == index)
        table = slots[np.argsort(axis.atom[slots], kind="stable")].reshape(len(orders[index]), -1)  # [atoms, slots]
        source[table] = table[orders[index]]
    return None if (source == np.arange(len(source))).all() else source
