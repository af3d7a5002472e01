"""Stage 5, extract: widths -> a plain module of the user's own class, with smaller tensors and nothing of ours."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from autoslim._tensors import is_channels_last
from autoslim.graph import ChannelGraph, Run


def extract_network(model: nn.Module, graph: ChannelGraph, widths: Mapping[str, int]) -> nn.Module:
    """The sub-network as a module of its own: a copy whose tensors are cut to the graph's selection.

    Args:
        model: The traced network, or its supernet's `model`; left untouched.
        graph: Its channel graph.
        widths: Channels per group.

    Returns:
        A module of the same class. Its integer attributes (`Conv2d.groups`, ...) fit the new shapes; parameters that
        were shared still are; tensors keep their layout, contiguous or channels-last.

    Raises:
        WidthsError: The widths don't fit the graph.
    """
    small = copy_model(model)
    state = {**dict(small.named_parameters()), **dict(small.named_buffers())}
    cut = {name: _cut(state[name].detach(), kept) for name, kept in graph.selection(widths).items() if name in state}
    replace_tensors_(small, cut)
    set_attributes_(small, graph.attributes(widths))
    return small


def narrow_graph(graph: ChannelGraph, widths: Mapping[str, int]) -> ChannelGraph:
    """The channel graph of the network that `extract_network` gives: its own full width is `widths`.

    It is not that of a new trace: a group of one channel, say, can't be told from no group by looking.

    Raises:
        WidthsError: The widths don't fit the graph.

    >>> from autoslim import trace_channels
    >>> graph = trace_channels(nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 2, 1)), torch.ones(1, 1, 4, 4))
    >>> narrow_graph(graph, {"0": 4, "1": 2}).group("0").candidates
    (2, 4)
    """
    atoms, selection = graph.atoms(widths), graph.selection(widths)

    def narrow(run: Run) -> Run:
        if run.group < 0:
            return run
        kept = (int(atoms[run.group]) - run.atom) * run.repeat
        return replace(run, length=min(max(kept, 0), run.length))

    groups = [
        replace(group, size=width, candidates=(*(each for each in group.candidates if each < width), width))
        for group, width in ((group, widths[group.name]) for group in graph.groups)
    ]
    axes = [replace(axis, runs=tuple(run for run in map(narrow, axis.runs) if run.length)) for axis in graph.axes]
    shapes = [
        (name, tuple(len(selection.get(name, {}).get(dim, range(size))) for dim, size in enumerate(shape)))
        for name, shape in graph.parameters
    ]
    return replace(graph, groups=tuple(groups), axes=tuple(axes), parameters=tuple(shapes))


def copy_model(model: nn.Module, device: str | None = None) -> nn.Module:
    """A deep copy, on `device` if one is given ("meta": shapes without data); shared parameters stay shared.

    Tensors that a module keeps as plain attributes come along, cut off from the pass that made them.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        if device is not None:
            moved = parameter.detach().to(device, copy=True)
            memo[id(parameter)] = nn.Parameter(moved, requires_grad=parameter.requires_grad)
    for tensor in (*model.buffers(), *plain_tensors(model)):
        memo[id(tensor)] = tensor.detach().to(device if device is not None else tensor.device, copy=True)
    return copy.deepcopy(model, memo)


def plain_tensors(model: nn.Module) -> list[torch.Tensor]:
    """Tensors that modules keep as attributes, or in lists and dicts, and that are neither parameters nor buffers."""
    own = ("_parameters", "_buffers", "_modules")
    held = [value for m in model.modules() for name, value in vars(m).items() if name not in own]
    leaves = tree_leaves([value for value in held if isinstance(value, (torch.Tensor, list, tuple, dict))])
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, nn.Parameter)]


def _cut(tensor: torch.Tensor, kept: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """What is kept, dense, in the layout of the tensor that comes in."""
    last = is_channels_last(tensor)
    for dim, indices in kept.items():
        tensor = tensor.index_select(dim, indices.to(tensor.device))
    return tensor.clone(memory_format=torch.channels_last) if last else tensor.contiguous()


def replace_tensors_(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Puts new values, of any shape, in place of parameters and buffers; what was shared stays shared."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    by_name: dict[str, torch.Tensor] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None:
                    by_name[f"{prefix}.{name}" if prefix else name] = tensor
                    places.setdefault(id(tensor), []).append((module, name))
    for name, tensor in tensors.items():
        old = by_name[name]
        new = nn.Parameter(tensor, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else tensor
        for module, attribute in places[id(old)]:
            setattr(module, attribute, new)


def set_attributes_(model: nn.Module, values: Mapping[str, Mapping[str, Any]]) -> None:
    """Sets {module: {attribute: value}}; a list, as JSON gives it, becomes what the attribute was, a tuple say."""
    for path, attributes in values.items():
        module = model.get_submodule(path)
        for name, value in attributes.items():
            old = getattr(module, name)
            setattr(module, name, type(old)(value) if isinstance(value, (list, tuple)) else value)


def correct_scale_(small: nn.Module, full: nn.Module) -> nn.Module:
    """Gives weights of convolutions and linear layers, freshly drawn and then cut, the scale of their smaller fan-in.

    Most initialisers draw with a variance of one over the fan-in, and a cut leaves that of the full-width layer. Where
    one draws otherwise (fan-out, a fixed deviation) the scale is larger than its own would be; BatchNorm undoes that.
    """
    scaled = set[int]()
    with torch.no_grad():
        for name, module in small.named_modules():
            own = dict(module.named_parameters(recurse=False)) if isinstance(module, (_ConvNd, nn.Linear)) else {}
            weight = own.get("weight")  # a parametrized or pruned layer computes it from others
            if weight is not None and weight.requires_grad and id(weight) not in scaled:
                wide = full.get_parameter(f"{name}.weight" if name else "weight")
                weight.mul_((wide[0].numel() / weight[0].numel()) ** 0.5)
                scaled.add(id(weight))
    return small
