"""A readable PyTorch file: each layer with its literal arguments, the forward pass as code; its weights beside it.

torch.fx gives the order of a plain feed-forward network. What it can't follow, or what is no layer of torch's, is told.
"""

import keyword
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from autoslim.errors import ModelError
from autoslim.export._base import FORMATS, Format, Options, Served
from autoslim.export._layers import CONTAINERS, KNOWN, PASSED, say_layer
from autoslim.export._lines import say_forward

_WEIGHTS = ".weights.pt"  # not the name that a state dict of its own has
_HEAD = '''"""{name}: {params:,} parameters, input [N, {shape}], written by `autoslim export --to python`.

    network = Network()
    network.load_state_dict(torch.load("{weights}", weights_only=True))
    network.eval()
"""

import torch
{functional}from torch import nn


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
'''


_OWN = "network."


class _One(nn.Module):
    """The network as it is called: with one input, and whatever else it takes by default."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> object:
        return self.network(x)


class _Tracer(fx.Tracer):
    """Follows the user's own modules and containers; torch's layers are leaves, and must be known ones."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) in KNOWN or type(m).__name__ in PASSED:
            return True
        if m.__module__.startswith("torch.nn.") and not isinstance(m, CONTAINERS):
            raise ValueError(
                f"`{module_qualified_name.removeprefix(_OWN)}` is a {type(m).__name__}, which is not known here"
            )
        return False


def _write(model: nn.Module, x: torch.Tensor, path: Path, options: Options) -> None:
    try:
        graph = _Tracer().trace(_One(model))
        for node in graph.nodes:
            if node.op in ("call_module", "get_attr"):
                node.target = str(node.target).removeprefix(_OWN)
        tensors = _own_tensors(model, graph)
        names = _attribute_names([*_layers_of(graph), *tensors])
        forward = say_forward(graph, names, _skipped(model, graph))
    except Exception as error:  # what a forward pass does to fx's stand-ins may raise anything
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{type(model).__name__} can't be written as a Python file: {first}. Expected a plain feed-forward of "
            "torch's own layers and functions, without branches that depend on values. Try --to torch-export or "
            "--to onnx."
        ) from error
    layers = {target: model.get_submodule(target) for target in _layers_of(graph)}
    layers = {target: layer for target, layer in layers.items() if type(layer).__name__ not in PASSED}
    lines = [f"        self.{names[target]} = {say_layer(layer)}" for target, layer in layers.items()]
    lines += [f"        {_say_tensor(names[target], tensor)}" for target, tensor in tensors.items()]
    shape = ", ".join(str(side) for side in x.shape[1:])
    params = sum(parameter.numel() for parameter in model.parameters())
    functional = "import torch.nn.functional as F\n" * ("F." in forward)
    weights = path.with_suffix(_WEIGHTS)
    head = _HEAD.format(
        name=type(model).__name__, params=params, shape=shape, weights=weights.name, functional=functional
    )
    path.write_text(head + "\n".join(lines) + "\n\n" + forward, encoding="utf-8")
    values = {f"{names[at]}.{key}": value for at, layer in layers.items() for key, value in layer.state_dict().items()}
    values |= {names[target]: tensor.detach() for target, tensor in tensors.items()}
    torch.save({name: value.contiguous() for name, value in values.items()}, weights)


def _open(path: Path, _: nn.Module) -> Served:
    names: dict[str, Any] = {"__name__": path.stem}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    network: nn.Module = names["Network"]()
    network.load_state_dict(torch.load(path.with_suffix(_WEIGHTS), weights_only=True))
    return network.eval()


def _layers_of(graph: fx.Graph) -> list[str]:
    """The paths of the layers that are called, each once, in their order."""
    return list(dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "call_module"))


def _skipped(model: nn.Module, graph: fx.Graph) -> set[str]:
    """Those that give in eval mode what they are given."""
    return {path for path in _layers_of(graph) if type(model.get_submodule(path)).__name__ in PASSED}


def _own_tensors(model: nn.Module, graph: fx.Graph) -> dict[str, torch.Tensor]:
    """Parameters and buffers that the forward pass names itself."""
    found: dict[str, torch.Tensor] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            parent, _, name = str(node.target).rpartition(".")
            found[str(node.target)] = getattr(model.get_submodule(parent), name)
    return found


def _attribute_names(paths: list[str]) -> dict[str, str]:
    """Each path as an attribute's name, no two alike: "features.0.1" -> "features_0_1"."""
    names: dict[str, str] = {}
    taken = set(dir(nn.Module())) | set(keyword.kwlist)
    for path in paths:
        name = path.replace(".", "_")
        name = f"layer_{name}" if name[0].isdigit() else name
        while name in taken:
            name += "_"
        taken.add(name)
        names[path] = name
    return names


def _say_tensor(name: str, tensor: torch.Tensor) -> str:
    empty = f"torch.empty({list(tensor.shape)}, dtype={tensor.dtype})"
    if isinstance(tensor, nn.Parameter):
        return f"self.{name} = nn.Parameter({empty})"
    return f'self.register_buffer("{name}", {empty})'


FORMATS.register("python", Format(suffix=".py", write=_write, open=_open, shaped=False))
