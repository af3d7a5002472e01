"""Holds a graph against the model's own code: sub-networks must run, in place and extracted; what breaks is frozen."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from autoslim.extract import extract_network
from autoslim.graph import ChannelGraph
from autoslim.supernet import Supernet
from autoslim.trace._run import copy_model, double_batch, place_inputs
from autoslim.widths import Widths

_DRAWS = 2


def probe(
    graph: ChannelGraph, model: nn.Module, inputs: tuple[Any, ...], *, device: str, modes: Sequence[bool]
) -> ChannelGraph:
    """Freezes the groups that the model's own code can't follow, each with the error it raised.

    Random widths of all groups together are tried first; only if they fail is each group tried alone, and then the
    groups that pass alone are let in one after the other, so that a pair that breaks is told apart from its parts.
    """
    copied = copy_model(model, device)
    placed = place_inputs(inputs, device)
    wanted = _shapes(copied, placed, modes)

    def failure(trial: ChannelGraph) -> str | None:
        net = Supernet(copied, trial)
        draws = [trial.min_widths(), *(_draw(trial, seed) for seed in range(_DRAWS))]
        for widths in dict.fromkeys(draws):
            error = _fails(net, trial, widths, placed, modes, wanted)
            if error is not None:
                return error
        return None

    if failure(graph) is None:
        return graph
    free = [group.name for group in graph.groups if group.frozen is None]
    alone = {name: failure(graph.freeze(dict.fromkeys((n for n in free if n != name), ""))) for name in free}
    reasons = {name: f"the model's code can't follow: {error}" for name, error in alone.items() if error is not None}
    passed = [name for name in free if name not in reasons]
    if failure(graph.freeze(reasons)) is None:
        return graph.freeze(reasons)
    for index, name in enumerate(passed):
        out = {**dict.fromkeys(passed[index + 1 :], ""), **reasons}
        error = failure(graph.freeze(out))
        if error is not None:
            reasons[name] = f"the model's code can't follow it together with other groups: {error}"
    return graph.freeze(reasons)


def _draw(graph: ChannelGraph, seed: int) -> Widths:
    """Any whole number of atoms, unequal on purpose: equal widths would hide an integer that fits by accident."""
    generator = torch.Generator().manual_seed(seed)
    return Widths(
        {
            group.name: group.size
            if group.frozen is not None
            else group.atom * int(torch.randint(1, group.atoms + 1, (), generator=generator))
            for group in graph.groups
        }
    )


def _fails(
    net: Supernet,
    graph: ChannelGraph,
    widths: Widths,
    inputs: tuple[Any, ...],
    modes: Sequence[bool],
    wanted: list[list[tuple[int, ...]]],
) -> str | None:
    """Why the sub-network does not run to outputs of the wanted shapes, in place and extracted; None if it does."""
    try:
        small = extract_network(net.model, graph, widths)
        with net.at(widths):
            in_place = _shapes(net, inputs, modes)
        extracted = _shapes(small, inputs, modes)
    except Exception as error:  # noqa: BLE001 - whatever the model's code raises is the reason
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if in_place != wanted or extracted != wanted:
        return f"the output's shape changes from {wanted} to {extracted}"
    return None


def _shapes(model: nn.Module, inputs: tuple[Any, ...], modes: Sequence[bool]) -> list[list[tuple[int, ...]]]:
    """Output shapes in each mode: False is eval, True is train."""
    shapes: list[list[tuple[int, ...]]] = []
    for training in modes:
        model.train(training)
        with torch.no_grad():
            out = model(*(double_batch(inputs) if training else inputs))
        shapes.append([tuple(leaf.shape) for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)])
    return shapes
