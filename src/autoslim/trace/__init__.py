"""Stage 1, trace: a model and example inputs -> ChannelGraph.

The model is copied to the meta device (shapes without data) and run once in eval and once in train mode. Every ATen
operator is interpreted on channel labels (`ops/`), the labels are solved once at the end (`_solve`), and the graph is
held against the model's own code with random sub-networks (`_probe`). What can't be slimmed is frozen with a reason.
"""

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from autoslim._registry import unknown_name
from autoslim.errors import ModelError
from autoslim.graph import ChannelGraph
from autoslim.trace._probe import probe
from autoslim.trace._run import record
from autoslim.trace._solve import solve


def trace_channels(
    model: nn.Module,
    example_inputs: "torch.Tensor | tuple[Any, ...]",
    *,
    grouped: "Mapping[str, str] | None" = None,
) -> ChannelGraph:
    """Finds every channel group of a network. The model is left untouched.

    Args:
        model: Any module with a forward pass that runs on the inputs, in its widest form.
        example_inputs: One tensor or a tuple of arguments, e.g. images [1, 3, 224, 224]. Costs are counted for them.
        grouped: How grouped convolutions lose channels: {module path or glob: "groups" (whole groups are dropped) or
            "slots" (the same slots go in every group)}. Unless given: slots up to 4 groups, else whole groups.

    Returns:
        The graph: groups (frozen ones with their reason), the axes they slice, and closed forms of the costs.

    Raises:
        ModelError: The model fails on these inputs in its own forward pass, has no parameters, or is of a kind that
            can't be cut (scripted, compiled, quantised, lazy).
        UnknownNameError: `grouped` names no grouped convolution.

    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
    >>> graph = trace_channels(model, torch.ones(1, 3, 8, 8))
    >>> [(group.name, group.size, group.candidates) for group in graph.groups if group.frozen is None]
    [('0', 16, (4, 8, 12, 16))]
    """
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    _check_model(model)
    trace = record(model, inputs, grouped=_check_policies(grouped or {}))
    _check_met(grouped or {}, trace.ledger.policies)
    shapes = [tuple(x.shape) for x in tree_leaves(inputs) if isinstance(x, torch.Tensor)]
    graph, codes = solve(trace, model, shapes, trace.notes)
    return probe(graph, codes, trace, inputs)


def _check_model(model: nn.Module) -> None:
    """Raises ModelError for modules that hide their code or their weights."""
    name = type(model).__name__
    if next(model.parameters(), None) is None:
        raise ModelError(f"{name} has no parameters; expected a network. Give the model to be slimmed.")
    for path, module in model.named_modules():
        where = f"`{path}` ({type(module).__name__})" if path else name
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"{where} is scripted: its code can't be followed. Expected the module it was made from.")
        if hasattr(module, "_orig_mod"):
            raise ModelError(f"{where} is compiled; expected a plain module. Give its `_orig_mod`; compile afterwards.")
        if ".quantized" in type(module).__module__:
            raise ModelError(f"{where} is quantised: its weights are packed. Slim the float network, quantise it then.")
        own = (*module._parameters.values(), *module._buffers.values())
        if any(tensor is not None and is_lazy(tensor) for tensor in own):
            raise ModelError(
                f"{where} is lazy: it has no weights yet. Run the model once on its inputs, then trace it."
            )


def _check_policies(grouped: Mapping[str, str]) -> Mapping[str, str]:
    for pattern, policy in grouped.items():
        if policy not in ("slots", "groups"):
            raise ModelError(
                f"trace_channels: grouped[{pattern!r}] is {policy!r}; expected 'slots' (the same slots go in every "
                "group) or 'groups' (whole groups go). Use one of the two."
            )
    return grouped


def _check_met(grouped: Mapping[str, str], policies: Mapping[tuple[str, int], str]) -> None:
    """Refuses a pattern that matches no grouped convolution, or a policy that one can't follow."""
    met = {module: policy for (module, _), policy in policies.items() if policy != "whole"}
    if grouped and not met:
        raise ModelError(
            f"trace_channels: grouped is {dict(grouped)}, but no convolution has groups; expected one. Leave it out."
        )
    for pattern in grouped:
        if not any(fnmatch(module, pattern) for module in met):
            raise unknown_name("grouped convolution", pattern, sorted(met), hint="Give a module's path, or a glob.")
    for module, policy in met.items():
        asked = [each for pattern, each in grouped.items() if fnmatch(module, pattern)]  # the last one counts
        if asked and asked[-1] != policy:
            raise ModelError(
                f"trace_channels: grouped gives `{module}` {asked[-1]!r}, but it is a transposed convolution; expected "
                f"'groups': it has no slots to drop alike. Add {module!r}: 'groups' as the last."
            )
