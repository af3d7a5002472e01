"""Before stage 1, where a network's own integers stand in the way: the same network with its sizes from shapes.

`x.view(b, 2, self.c // 2, h, w)` breaks as soon as `x` has other channels than `self.c` says. The network is run once
per *scene* (eval and train mode, another batch, another image size), every torch function it calls is recorded
(`_record`), and each integer that is a size is replaced by the expression of sizes that fits all scenes and all widths
(`_sizes`, `_derive`); numbers that the code computes from shapes remember how (`_counts`). Layers stay the modules they
are, so train and eval mode, hooks of the trace, supernet and extraction work as before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from autoslim.errors import ModelError
from autoslim.extract import copy_model
from autoslim.graph import ChannelGraph
from autoslim.rewrite._derive import derive_integers_, same_nodes
from autoslim.rewrite._labels import LabelledRuns
from autoslim.rewrite._module import RewrittenNetwork as RewrittenNetwork
from autoslim.rewrite._record import Recorder
from autoslim.rewrite._sizes import Scenes
from autoslim.trace import trace_channels
from autoslim.trace._run import place_inputs

_DRAWS = 16  # of widths; two dimensions that have equally many channels in all of them are taken for one
_IMAGES = 3  # the train run's batch, in batches of the example


def rewrite_network(model: nn.Module, example_inputs: "torch.Tensor | tuple[Any, ...]") -> RewrittenNetwork:
    """The same network as a graph over its layers, with the sizes that its code holds derived from shapes.

    For networks whose code holds channel numbers that no narrower copy can follow: trace the rewritten network instead
    of the model, and use it in `Supernet` and `extract_network`. It computes what the model computes, at any batch, in
    eval and in train mode; its parameters and buffers are copies, at the same paths. The same model and input shapes
    give the same rewritten network. A number that is no size of an operator's and is not computed from a shape, such as
    the divisor of `y / self.dim`, keeps its value.

    Args:
        model: The network at full width; left untouched.
        example_inputs: One tensor or a tuple of arguments the model runs on, e.g. images [1, 3, 224, 224].

    Raises:
        ModelError: The network can't be written as one graph: its code takes values out of tensors, runs other steps
            in train mode than in eval mode, or fails on the inputs.

    >>> class Shuffled(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16 * 36, 4)
    ...     def forward(self, x):
    ...         return self.head(self.conv(x).view(-1, 16 * 36))
    >>> model, x = Shuffled(), torch.ones(1, 3, 8, 8)
    >>> trace_channels(model, x).group("conv").frozen is None
    False
    >>> trace_channels(rewrite_network(model, x), x).group("conv").frozen is None
    True
    """
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    try:
        scenes, buffers = _record_scenes("meta", model, inputs)
    except Exception:  # noqa: BLE001 - constants on the CPU can't meet meta tensors; a fault of the model's own returns
        scenes, buffers = _record_for_real(model, inputs)
    graph = derive_integers_(scenes)
    whole = copy_model(model)
    device = next(model.parameters()).device
    for name, tensor in buffers.items():
        value = tensor.flatten()[:1].to(device) if tensor.device.type != "meta" else torch.zeros(1, device=device)
        whole.register_buffer(name, value.to(tensor.dtype).expand(tensor.shape).clone(), persistent=False)
    return RewrittenNetwork(whole, graph)


@dataclass(frozen=True)
class Traced:
    """A network with its channel graph, and whether the network had to be rewritten for it.

    Attributes:
        model: The model itself, or the rewritten network; `graph` belongs to it.
        graph: Its channel graph.
        rewritten: Which of the two it is.
        why: What decided, in words.
    """

    model: nn.Module
    graph: ChannelGraph
    rewritten: bool
    why: str


def trace_best(model: nn.Module, example_inputs: "torch.Tensor | tuple[Any, ...]") -> Traced:
    """Traces a network, rewritten if its own code blocks groups and the rewritten one frees more.

    Args:
        model: The network at full width; left untouched.
        example_inputs: As for `trace_channels`.

    Raises:
        ModelError: The model fails on these inputs, or has no parameters.
    """
    graph = trace_channels(model, example_inputs)
    stuck = [g.name for g in graph.groups if g.frozen and _is_codes_fault(g.frozen)]
    if not stuck:
        return Traced(model, graph, False, "the model's own code follows every group that its operators leave free")
    try:
        rewritten = rewrite_network(model, example_inputs)
        other = trace_channels(rewritten, example_inputs)
    except ModelError as error:
        return Traced(model, graph, False, f"{len(stuck)} groups stay frozen, the network can't be rewritten: {error}")
    before, after = _count_free(graph), _count_free(other)
    why = f"{before} groups are free in the model's own code, {after} in the rewritten network"
    return Traced(rewritten, other, True, why) if after > before else Traced(model, graph, False, why)


def _is_codes_fault(reason: str) -> bool:
    """Whether a group is frozen for an integer in the code; so says the probe."""
    return reason.startswith(("the model's code can't follow", "the output's shape changes"))


def _count_free(graph: ChannelGraph) -> int:
    return sum(group.frozen is None for group in graph.groups)


# Recording ------------------------------------------------------------------------------------------------------------


def _record_for_real(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Scenes, dict[str, torch.Tensor]]:
    try:
        return _record_scenes("cpu", model, inputs)
    except ModelError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, torch.Tensor))
        raise ModelError(
            f"{type(model).__name__} can't be recorded on inputs of shape {shapes} and {_IMAGES} times the batch, in "
            f"eval and train mode: {type(error).__name__}: {error}. Expected a network that runs on both. "
            "Trace it as it is."
        ) from error


def _record_scenes(device: str, model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Scenes, dict[str, torch.Tensor]]:
    """Records the model in eval mode, in train mode on a larger batch, and on larger images if it takes them."""
    copied = copy_model(model, device).requires_grad_(False)
    labelled = LabelledRuns(copied)
    buffers: dict[str, torch.Tensor] = {}

    def add_buffer(name: str, tensor: torch.Tensor) -> None:
        labelled.add(name, tensor)
        buffers[name] = tensor

    def record(training: bool, given: tuple[Any, ...]) -> fx.Graph:
        recorder = Recorder(copied.train(training), labelled.labels, add_buffer)
        with recorder.recording(given):
            labelled.run(given)
        return recorder.finish()

    placed = place_inputs(inputs, device)
    runs = [record(False, placed), record(True, _map(placed, lambda x: torch.cat([x] * _IMAGES)))]
    if difference := same_nodes(runs[0], runs[1]):
        raise ModelError(
            f"{type(model).__name__} takes other steps in train mode than in eval mode ({difference}); expected one "
            "sequence of steps. The network can't be rewritten; trace it as it is."
        )
    kept = labelled.draw_kept([tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor)], _DRAWS)
    try:
        larger = record(False, _map(placed, _enlarge))
        runs += [larger] if same_nodes(runs[0], larger) is None else []
    except Exception:  # noqa: BLE001 - the model may be made for one image size; then so is the rewritten one
        pass
    stored = {name: (tuple(tensor.shape), labelled.labels(tensor)) for name, tensor in labelled.tensors.items()}
    return Scenes(runs, kept, stored), buffers


def _map(inputs: tuple[Any, ...], change: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Any, ...]:
    return tuple(change(x) if isinstance(x, torch.Tensor) and x.dim() > 1 else x for x in inputs)


def _enlarge(x: torch.Tensor) -> torch.Tensor:
    """An image 2 times as high and 3 times as wide; anything else as it is."""
    return x.repeat(1, 1, 2, 3) if x.dim() == 4 else x
