"""A torch.fx graph as the code of a forward pass, with as few variables as it needs."""

import builtins
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch.fx.node import _get_qualified_name

_NAMES = [*"xyzuvwabcdeghkmnpqrst", *(f"t{number}" for number in range(1, 1000))]
_INFIX: dict[Callable[..., Any], str] = {
    operator.add: "+", operator.iadd: "+", torch.add: "+", operator.sub: "-", operator.isub: "-", torch.sub: "-",
    operator.mul: "*", operator.imul: "*", torch.mul: "*", operator.truediv: "/", operator.floordiv: "//",
    operator.mod: "%", operator.pow: "**", operator.matmul: "@",
}  # fmt: skip

_USUAL = (("inplace", False),)  # what torch's own code passes on, and nobody would write


def say_forward(graph: fx.Graph, names: Mapping[str, str], skipped: set[str]) -> str:
    """The method `forward`, a line for each call, and a comment where the next block begins.

    Args:
        graph: Of a network of one input.
        names: Attribute names by path.
        skipped: Paths of layers that give what they are given.

    Raises:
        ValueError: Something else than torch's functions, or more than one input.
    """
    nodes = _needed(graph)
    inputs = [node for node in nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise ValueError(f"it reads {len(inputs)} inputs")
    same: dict[Any, Any] = {}
    for node in nodes:
        if node.op == "call_module" and str(node.target) in skipped:
            same[node] = same.get(node.args[0], node.args[0])
    said: dict[Any, str] = {node: f"self.{names[str(node.target)]}" for node in nodes if node.op == "get_attr"}
    last = {same.get(read, read): node for node in nodes if node not in same for read in node.all_input_nodes}
    free, lines, block = list(_NAMES), [f"    def forward(self, {_NAMES[0]}: torch.Tensor) -> torch.Tensor:"], ""
    said[inputs[0]] = free.pop(0)
    for node in nodes:
        if node.op in ("placeholder", "get_attr") or node in same:
            continue
        text = _say(node, names, lambda value: _literal(value, said, same))
        if node.op == "output":
            return "\n".join([*lines, f"        return {text}", ""])
        ended = [said[read] for read in {same.get(read, read) for read in node.all_input_nodes} if last[read] is node]
        free = sorted([*free, *(name for name in ended if name in _NAMES)], key=_NAMES.index)
        said[node] = free.pop(0)
        if node.op == "call_module" and (here := _block_of(str(node.target))) != block:
            block = here
            lines.append(f"        # {block}" if block else "")
        lines.append(f"        {said[node]} = {text}")
    raise ValueError("it returns nothing")


def _needed(graph: fx.Graph) -> list[Any]:
    """The nodes that the output follows from, in their order: no assertions on shapes."""
    nodes: list[Any] = list(graph.nodes)
    needed = {node for node in nodes if node.op == "output"}
    for node in reversed(nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return [node for node in nodes if node in needed]


def _block_of(path: str) -> str:
    """The block that a layer belongs to: "features.3" of "features.3.conv.0.1", "" of a layer of the network itself."""
    first, *rest = path.split(".")
    return f"{first}.{rest[0]}" if len(rest) > 1 and rest[0].isdigit() else first if rest else ""


def _say(node: fx.Node, names: Mapping[str, str], of: Callable[[Any], str]) -> str:
    args = [of(arg) for arg in node.args]
    given = [*args, *(f"{name}={of(value)}" for name, value in node.kwargs.items() if (name, value) not in _USUAL)]
    if node.op == "output":
        return args[0]
    if node.op == "call_module":
        return f"self.{names[str(node.target)]}({', '.join(given)})"
    if node.op == "call_method":
        return f"{args[0]}.{node.target}({', '.join(given[1:])})"
    function: Any = node.target
    if function in _INFIX and len(given) == 2:
        return f"{_wrap(node.args[0], args[0])} {_INFIX[function]} {_wrap(node.args[1], args[1])}"
    if function is operator.getitem:
        return f"{args[0]}[{args[1].strip('()') if isinstance(node.args[1], tuple) and node.args[1] else args[1]}]"
    if function is builtins.getattr:
        return f"{args[0]}.{node.args[1]}"
    return f"{_name_of(function)}({', '.join(given)})"


def _wrap(value: Any, text: str) -> str:
    return f"({text})" if isinstance(value, (int, float)) and value < 0 else text


def _name_of(function: Callable[..., Any]) -> str:
    """How a function of torch's is called in the file."""
    name = _get_qualified_name(function)
    for prefix, short in (("torch.nn.functional.", "F."), ("torch._C._nn.", "F.")):
        name = short + name.removeprefix(prefix) if name.startswith(prefix) else name
    where: Any = {"torch": torch, "F": torch.nn.functional}.get(name.split(".")[0])
    for part in name.split(".")[1:]:
        where = getattr(where, part, None)
    if where is not function:
        raise ValueError(f"it calls `{name}`, which is no function of torch's")
    return name


def _literal(value: Any, said: Mapping[Any, str], same: Mapping[Any, Any]) -> str:
    if isinstance(value, fx.Node):
        return said[same.get(value, value)]
    if isinstance(value, (tuple, list)):
        inner = [_literal(item, said, same) for item in value]
        if isinstance(value, tuple):
            return f"({', '.join(inner)}{',' * (len(inner) == 1)})"
        return f"[{', '.join(inner)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_literal(item, said, same)}" for key, item in value.items()) + "}"
    if isinstance(value, slice):
        start, stop, step = (_literal(part, said, same) for part in (value.start, value.stop, value.step))
        return f"slice({start}, {stop}, {step})"
    if value is None or value is Ellipsis:
        return "None" if value is None else "..."
    if isinstance(value, (bool, int, float, str, torch.dtype)):
        return repr(value)
    raise ValueError(f"it gives a function a {type(value).__name__}")
