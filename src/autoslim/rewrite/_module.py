"""The module a rewritten network is: the original's modules and tensors at their paths, run by a graph."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn


class RewrittenNetwork(nn.Module):
    """A network whose forward pass is a graph, over the modules, parameters and buffers of the original.

    Unlike `torch.fx.GraphModule` it keeps what the graph doesn't name (the state dict is the original's) and is copied
    with it. The containers of the original are there for their names; only layers are called.

    Args:
        model: The network whose modules and tensors it takes over; not to be used beside it.
        graph: Its forward pass.
    """

    _run: Callable[..., Any]

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__()
        self._parameters.update(model._parameters)
        self._buffers.update(model._buffers)
        self._non_persistent_buffers_set.update(model._non_persistent_buffers_set)
        self._modules.update(model._modules)
        self.__dict__.update({name: value for name, value in vars(model).items() if isinstance(value, torch.Tensor)})
        self.original = type(model).__name__
        self.code, self.__dict__["_run"] = _compile(graph)
        self.training = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"original={self.original}"


def _compile(graph: fx.Graph) -> tuple[str, Callable[..., Any]]:
    """The graph as Python source and as a function of (self, inputs); copies of the module share the function."""
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(compile(code.src, "<rewritten>", "exec"), names)
    return code.src.strip(), names["forward"]
