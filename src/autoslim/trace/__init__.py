"""Stage 1, trace: a model and example inputs -> ChannelGraph.

The model is copied to the meta device (shapes without data) and run once in eval and once in train mode. Every ATen
operator is interpreted on channel labels (`ops/`), the labels are solved once at the end (`_solve`), and the graph is
held against the model's own code with random sub-networks (`_probe`). What can't be slimmed is frozen with a reason.
"""

from typing import Any

import torch
from torch import nn

from autoslim.errors import ModelError
from autoslim.graph import ChannelGraph
from autoslim.trace._probe import probe
from autoslim.trace._run import record
from autoslim.trace._solve import solve


def trace_channels(model: nn.Module, example_inputs: "torch.Tensor | tuple[Any, ...]") -> ChannelGraph:
    """Finds every channel group of a network. The model is left untouched.

    Args:
        model: Any module with a forward pass that runs on the inputs, in its widest form.
        example_inputs: One tensor or a tuple of arguments, e.g. images [1, 3, 224, 224]. Costs are counted for them.

    Returns:
        The graph: groups (frozen ones with their reason), the axes they slice, and closed forms of the costs.

    Raises:
        ModelError: The model fails on these inputs in its own forward pass, or has no parameters.

    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
    >>> graph = trace_channels(model, torch.ones(1, 3, 8, 8))
    >>> [(group.name, group.size, group.candidates) for group in graph.groups if group.frozen is None]
    [('0', 16, (4, 8, 12, 16))]
    """
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if next(model.parameters(), None) is None:
        raise ModelError(f"{type(model).__name__} has no parameters; expected a network. Give the model to be slimmed.")
    ledger, notes, device = record(model, inputs)
    shapes = [tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor)]
    modes = (False,) if notes else (False, True)  # a note says that train mode does not run
    return probe(solve(ledger, model, shapes, notes), model, inputs, device=device, modes=modes)
