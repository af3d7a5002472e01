"""Widen: the inverse of extraction. The same network with wider groups, freshly drawn, to search from above its size.

The paper searches MobileNet v1, v2 and MNasNet from 1.5x. No new code of the model is needed for that: the graph says
how long every axis and how large every integer attribute is at any number of atoms, more than there are included.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map

from autoslim._tensors import output_tensors
from autoslim.candidates import channel_unit
from autoslim.errors import ModelError, WidthsError
from autoslim.extract import copy_model, replace_tensors_, set_attributes_
from autoslim.graph import ChannelGraph, count_slots
from autoslim.trace._run import double_batch

_UNIFORM = 2.0  # largest value over deviation: 1.73 if uniform, above 2 for 100 normal ones in 99 of 100 cases
_ZERO_MEAN = 4.0  # standard errors


def widen_network(
    model: nn.Module,
    graph: ChannelGraph,
    ratio: float = 1.5,
    *,
    example_inputs: "torch.Tensor | tuple[Any, ...] | None" = None,
) -> nn.Module:
    """The same network with every group that is not frozen `ratio` times as wide, its weights drawn anew.

    Widths are rounded to multiples of 8 where the wider group allows it (`channel_unit`), else to whole atoms. A
    weight that was drawn is drawn from what its values look like: normal or uniform, of the same mean and deviation,
    in convolutions and linear layers the deviation times sqrt(old fan-in / new fan-in). What is constant along the
    channels (a fresh BatchNorm's weight and bias, a blur's kernel) stays so, and running statistics are reset. A
    trained network is thus not continued: all its weights are drawn anew, normalisation starts at one and zero.
    `torch.manual_seed` decides what is drawn.

    Args:
        model: The traced network; left untouched.
        graph: Its channel graph; groups frozen in it keep their width.
        ratio: Above 1.
        example_inputs: What the network was traced on, where that is more than float tensors.

    Returns:
        A module of the same class. Trace it to search its widths.

    Raises:
        WidthsError: The ratio is not above 1.
        ModelError: The network's own code can't follow, a fixed tensor has no value for new channels, or the network
            does not run on such inputs.

    >>> from autoslim import trace_channels
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
    >>> widen_network(model, trace_channels(model, torch.ones(1, 3, 8, 8)), ratio=2)[0]
    Conv2d(3, 32, kernel_size=(3, 3), stride=(1, 1))
    """
    if not 1 < ratio < math.inf:
        raise WidthsError(f"widen_network: ratio {ratio}; expected a number above 1. Give for instance 1.5.")
    atoms = _wider_atoms(graph, ratio)
    wide = copy_model(model)
    _reset_norms_(wide)
    named = {**dict(wide.named_parameters()), **dict(wide.named_buffers())}
    shapes = {name: list(tensor.shape) for name, tensor in named.items()}
    for axis in graph.axes:
        if axis.tensor in shapes:
            shapes[axis.tensor][axis.dim] = count_slots(axis.owner, graph.groups)(atoms)
    corrected = {
        f"{name}.weight".lstrip(".") for name, m in wide.named_modules() if isinstance(m, (_ConvNd, nn.Linear))
    }
    with torch.no_grad():
        grown = {name: _grow(name, named[name], shape, fan_in=name in corrected) for name, shape in shapes.items()}
    replace_tensors_(wide, grown)
    for patch in graph.patches:
        set_attributes_(wide, {patch.module: {patch.attribute: patch.value(atoms)}})
    _check_runs(model, wide, graph, ratio, example_inputs)
    return wide


def _reset_norms_(model: nn.Module) -> None:
    """Running statistics start anew; a weight or bias that training has changed starts at one or zero again."""
    for module in model.modules():
        if isinstance(module, _NormBase):
            module.reset_running_stats()
        if isinstance(module, (_NormBase, nn.GroupNorm, nn.LayerNorm)) and any(map(_varies, module.parameters())):
            module.reset_parameters()


def _varies(tensor: torch.Tensor) -> bool:
    return bool((tensor != tensor.flatten()[:1]).any())


def _wider_atoms(graph: ChannelGraph, ratio: float) -> NDArray[np.int64]:
    """Atoms per group of the wider network, shape [groups]."""

    def wider(size: int, atom: int) -> int:
        unit = channel_unit(round(size * ratio), atom)
        return max(math.floor(size * ratio / unit + 0.5) * unit, size) // atom

    return np.array(
        [group.atoms if group.frozen is not None else wider(group.size, group.atom) for group in graph.groups],
        dtype=np.int64,
    )


def _grow(name: str, tensor: torch.Tensor, shape: Sequence[int], *, fan_in: bool) -> torch.Tensor:
    """A tensor of the wider shape: values that all channels share are kept, others are drawn anew."""
    first = tensor.detach()
    for dim, size in enumerate(shape):
        if size != tensor.shape[dim]:
            first = first.narrow(dim, 0, 1)
    same = first.shape == tensor.shape
    drawn = isinstance(tensor, nn.Parameter) and tensor.requires_grad and _varies(tensor)
    if torch.equal(first.expand_as(tensor), tensor) and not (same and drawn):
        return first.expand(tuple(shape)).clone()
    if not drawn:
        raise ModelError(
            f"widen_network: `{name}` is not trained and differs from channel to channel; expected one value for all "
            "channels, or a parameter that is drawn. Freeze its layer with `graph.freeze`."
        )
    return _draw_like(tensor, shape, math.sqrt(tensor[0].numel() / math.prod(shape[1:])) if fan_in else 1.0)


def _draw_like(tensor: torch.Tensor, shape: Sequence[int], scale: float) -> torch.Tensor:
    """Fresh values, uniform or normal as those of `tensor` look, with their mean and `scale` x their deviation."""
    values = tensor.detach()
    mean = values.mean()
    if mean.abs() < _ZERO_MEAN * values.std(correction=0) / math.sqrt(values.numel()):
        mean = torch.zeros_like(mean)
    deviation = (values - mean).square().mean().sqrt()
    fresh = tensor.new_empty(tuple(shape))
    if (values - mean).abs().max() <= _UNIFORM * deviation:
        fresh.uniform_(-math.sqrt(3), math.sqrt(3))
    else:
        fresh.normal_()
    return fresh * (scale * float(deviation)) + float(mean)


def _check_runs(model: nn.Module, wide: nn.Module, graph: ChannelGraph, ratio: float, example: Any) -> None:
    """Raises ModelError unless the wider network runs to outputs of the same shapes."""
    code = "Expected code that takes its channels from shapes. Freeze the layers that it reads with `graph.freeze`."
    inputs = (
        "Expected inputs such as it was traced on. If they are more than float tensors (integers, bools, scalars, "
        "lists, dictionaries), pass them as `example_inputs`."
    )
    device = "meta"
    try:
        wanted = _output_shapes(model, graph, device, example, inputs)
    except (
        ModelError
    ):  # a forward pass that needs values can't run on meta; a fault of the model's own shows there again
        device = "cpu"
        wanted = _output_shapes(model, graph, device, example, inputs)
    found = _output_shapes(wide, graph, device, example, code)
    if wanted != found:
        raise ModelError(
            f"widen_network: {type(model).__name__}, {ratio}x as wide, gives outputs of shape {found}; expected "
            f"{wanted}. Freeze the layers that decide it with `graph.freeze`."
        )


def _output_shapes(
    model: nn.Module, graph: ChannelGraph, device: str, example: Any, advice: str
) -> list[tuple[int, ...]]:
    """Output shapes in eval and in train mode (if that was traced); the layer that fails is named by the ModelError."""
    copied = copy_model(model).to(device)
    inside = _watch(copied)
    shapes: list[tuple[int, ...]] = []
    dtype = next(p.dtype for p in copied.parameters() if p.is_floating_point())

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return leaf.to(device, dtype if leaf.is_floating_point() else leaf.dtype)

    if example is None:
        example = tuple(torch.ones(shape) for shape in graph.inputs)
    given = tree_map(place, example if isinstance(example, tuple) else (example,))
    for training in (False,) if graph.notes else (False, True):
        try:
            with torch.no_grad(), torch.random.fork_rng():
                out = copied.train(training)(*(double_batch(given) if training else given))
        except Exception as error:
            name = inside[-1] if inside else ""
            layer = type(copied.get_submodule(name)).__name__
            raise ModelError(
                f"widen_network: {f'`{name}` ({layer})' if name else layer} fails on inputs {graph.inputs}, "
                f"{type(error).__name__}: {error}. {advice}"
            ) from error
        shapes += [tuple(tensor.shape) for tensor in output_tensors(out)]
    return shapes


def _watch(model: nn.Module) -> list[str]:
    """The modules that run at the moment, outermost first; one that raises stays on the list."""
    inside: list[str] = []

    def enter(name: str, module: nn.Module, args: object) -> None:
        inside.append(name)

    def leave(module: nn.Module, args: object, output: object) -> None:
        inside.pop()

    for name, module in model.named_modules():
        module.register_forward_pre_hook(partial(enter, name))
        module.register_forward_hook(leave)
    return inside
