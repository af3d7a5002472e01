"""Writes a forward pass down as an fx graph: every torch function that the model's code calls, layers as modules."""

import inspect
import math
import operator
import sys
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.node import map_aggregate
from torch.nn.modules.padding import _ConstantPadNd
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._pytree import tree_leaves, tree_map

from autoslim.errors import ModelError
from autoslim.rewrite._counts import CountedFloat, CountedInt, Size, counted, leaves, plain

_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_VALUES = frozenset(  # functions that give a tensor's values to Python
    (
        *("item", "tolist", "numpy", "equal", "allclose", "is_nonzero", "__contains__", "__array__"),
        *("__bool__", "__int__", "__float__", "__complex__", "__index__"),
    )
)
# Functions whose integers are looked for by their place: the names of each place, and what stands there if not given.
_CONV = [
    *(("input", None), ("weight", None), ("bias", None)),
    *(("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1)),
]
_PLACES: dict[str, list[tuple[str, Any]]] = {
    **dict.fromkeys(["conv1d", "conv2d", "conv3d"], _CONV),
    "narrow": [("input", None), ("dim", None), ("start", None), ("length", None)],
    "split": [("tensor", None), ("split_size_or_sections", None), ("dim", 0)],
    "split_with_sizes": [("input", None), ("split_sizes", None), ("dim", 0)],
}


def is_layer(module: nn.Module) -> bool:
    """Whether a module is called as it is: torch's own layers and their subclasses, and what depends on the mode."""
    if isinstance(module, (nn.Unflatten, _ConstantPadNd)):
        return False  # their integers may count channels
    kinds = [kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules")]
    if any(kind not in _CONTAINERS for kind in kinds):
        return True
    code = getattr(type(module).forward, "__code__", None)
    return not list(module.children()) and code is not None and "training" in code.co_names


class Recorder(TorchFunctionMode):
    """Records one forward pass of `model`.

    A node that makes a tensor carries `meta["sizes"]`, its shape, and `meta["labels"]`, {dim: labels along it}.

    Args:
        model: The network; hooks are put on its modules for the time of `recording`.
        labels: The channel labels that a tensor carries just now.
        add_buffer: Called for a new buffer of constants that the rewritten network needs: its name, the tensor.
    """

    def __init__(
        self,
        model: nn.Module,
        labels: Callable[[torch.Tensor], dict[int, torch.Tensor]],
        add_buffer: Callable[[str, torch.Tensor], None],
    ) -> None:
        super().__init__()
        self.model, self.labels, self.add_buffer = model, labels, add_buffer
        self.graph = fx.Graph()
        self.module = ""  # the innermost module whose own code is running
        self._known: dict[int, tuple[torch.Tensor, fx.Node]] = {}  # the tensor is kept: its id stays its own
        self._paths = _tensor_paths(model)
        self._inside = 0  # > 0 inside a layer
        self._trained: set[fx.Node] = set()  # what gradients flow through
        self._pads = 0
        self._returned: Any = None
        self._device: tuple[torch.device, fx.Node] | None = None

    @contextmanager
    def recording(self, inputs: tuple[Any, ...]) -> Generator[None, None, None]:
        """Records what runs inside, as a function of `inputs`."""
        names = list(inspect.signature(self.model.forward).parameters)
        spare = [f"input_{index}" for index in range(len(names), len(inputs))]
        nodes = [self.graph.placeholder(name) for name in [*names, *spare][: len(inputs)]]
        for node, value in zip(nodes, inputs, strict=True):
            self._bind(node, value)
            if self._device is None and isinstance(value, torch.Tensor):
                self._device = value.device, node
        hooks: list[Any] = []
        for name, module in self.model.named_modules():
            before, after = self._hooks(name, is_layer(module) and name != "")
            hooks.append(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
            hooks.append(module.register_forward_hook(after, with_kwargs=True))
        buffers = dict(self.model.named_buffers())
        try:
            with self, warnings.catch_warnings():
                warnings.filterwarnings("ignore", "None of the inputs have requires_grad")  # of torch's checkpoint
                yield
            for name, now in self.model.named_buffers():
                if buffers.get(name, now) is not now:
                    raise ModelError(
                        f"{type(self.model).__name__} puts another tensor in the place of its buffer `{name}`; "
                        "expected values that change in it (copy_). The network can't be rewritten; trace it as it is."
                    )
        finally:
            for hook in hooks:
                hook.remove()

    def finish(self) -> fx.Graph:
        """The graph, ended with what the model returned."""
        self.graph.output(self._argument(self._returned))
        for node in reversed(self.graph.nodes):
            if node.meta.get("part") and not node.users:
                self.graph.erase_node(node)
        return self.graph

    def _hooks(self, name: str, layer: bool) -> tuple[Any, Any]:
        outer: list[tuple[str, Any, Any]] = []

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            outer.append((self.module, args, kwargs))  # as its caller gave them: a layer's own hooks run again
            self.module = name
            self._inside += layer
            if module is self.model:
                torch.set_grad_enabled(True)  # as it is trained; the tensors here need no gradients

        def after(module: nn.Module, _args: Any, _kwargs: Any, out: Any) -> Any:
            self.module, args, kwargs = outer.pop()
            self._inside -= layer
            if module is self.model:
                torch.set_grad_enabled(False)
                self._returned = out
            if not layer or self._inside:
                return None
            return self._record("call_module", name, args, kwargs, out)

        return before, after

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._inside:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in _VALUES or (name == "__set__" and isinstance(args[1], torch.Tensor)):
            raise ModelError(
                f"{self.module or type(self.model).__name__} takes a tensor's values into Python ({name}); expected "
                "code that depends on shapes only. The network can't be rewritten; trace it as it is."
            )
        if func is F.pad and (padded := self._pad_channels(*args, **kwargs)) is not None:
            return padded
        out = func(*args, **kwargs)
        if id(args[0] if args else None) in self._known and (name == "size" or isinstance(out, torch.Size)):
            return self._count(args[0], out, *args[1:], **kwargs)
        if id(args[0] if args else None) in self._known and name in ("numel", "nelement"):
            return math.prod(self._count(args[0], out))
        if name == "chunk" and len({part.shape for part in out}) > 1:
            return self._split_unequally(out, *args, **kwargs)
        if name != "__setitem__" and not any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(out)):
            return out
        if name == "__get__":
            return self._record("call_function", getattr, (args[0], func.__self__.__name__), {}, out)
        if getattr(torch.Tensor, name, None) is func:
            if hasattr(operator, name) and name.startswith("__"):
                return self._record("call_function", getattr(operator, name), args, kwargs, out)
            return self._record("call_method", name, args, kwargs, out)
        return self._record("call_function", func, args, kwargs, out)

    def _record(self, kind: str, target: Any, args: Any, kwargs: Any, out: Any) -> Any:
        """Adds a node. Its output is always a tensor of its own: an argument that is handed back gets an alias."""
        if kind != "call_module":
            args, kwargs = _in_places(target, args, kwargs)
        node = self.graph.create_node(kind, target, self._argument(args), self._argument(kwargs))
        self._check_gradients(node)
        node.meta["module"] = self.module
        numbers = [each for each in leaves((args, kwargs)) if isinstance(each[1], (CountedInt, CountedFloat))]
        node.meta["counted"] = {path: number.formula for path, number in numbers}
        given = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}

        def own(leaf: Any) -> Any:
            return torch.ops.aten.alias.default(leaf) if id(leaf) in given else leaf

        self._inside += 1  # the aliases are not the model's doing
        out = tree_map(own, out)
        self._inside -= 1
        self._bind(node, out)
        return out

    def _check_gradients(self, node: fx.Node) -> None:
        """Refuses a step that would train in the graph, where the network's own code keeps gradients from it."""
        own = node.op == "call_module" and any(True for _ in self.model.get_submodule(str(node.target)).parameters())
        if not own and not self._trained.intersection(node.all_input_nodes):
            return
        self._trained.add(node)
        if self.model.training and not torch.is_grad_enabled() and not _checkpoints():
            raise ModelError(
                f"{self.module or type(self.model).__name__} turns gradients off for a part of its steps; expected all "
                "of them to train alike: the rewritten network would train that part, too. The network can't be "
                "rewritten; trace it as it is."
            )

    def _bind(self, node: fx.Node, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            self._known[id(value)] = (value, node)
            node.meta["sizes"] = tuple(map(plain, value.shape))
            node.meta["labels"] = dict(self.labels(value))
        elif isinstance(value, (tuple, list, dict)):
            for key, part in value.items() if isinstance(value, dict) else enumerate(value):
                if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(part)):
                    child = self.graph.call_function(operator.getitem, (node, key))
                    child.meta["part"] = True
                    if node in self._trained:
                        self._trained.add(child)
                    self._bind(child, part)

    def _argument(self, value: Any) -> Any:
        return map_aggregate(value, self._leaf)

    def _leaf(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return self._node(leaf)
        if isinstance(leaf, torch.device) and self._device is not None and leaf == self._device[0]:
            return self.graph.call_function(getattr, (self._device[1], "device"))
        return plain(leaf)

    def _count(self, x: torch.Tensor, out: Any, dim: int | None = None) -> Any:
        """Sizes that the model's code asks for: they remember whose they are."""
        node, labels = self._node(x), self.labels(x)
        node.meta.pop("part", None)  # it is in use now
        sizes = [counted(size, Size(node, d, d in labels)) for d, size in enumerate(x.shape)]
        return torch.Size(sizes) if dim is None else sizes[dim]

    def _node(self, tensor: torch.Tensor) -> fx.Node:
        if id(tensor) not in self._known:
            if id(tensor) not in self._paths:
                raise ModelError(
                    f"{self.module or type(self.model).__name__} uses a tensor of shape {tuple(tensor.shape)} that no "
                    "torch function made; expected tensors from inputs, parameters, buffers and torch functions. The "
                    "network can't be rewritten; trace it as it is."
                )
            node = self.graph.get_attr(self._paths[id(tensor)])
            self._bind(node, tensor)
            if isinstance(tensor, nn.Parameter):
                self._trained.add(node)
        return self._known[id(tensor)][1]

    def _pad_channels(self, x: torch.Tensor, pad: Any, mode: str = "constant", value: Any = None) -> Any:
        """Padded channels as a buffer of constants: it has an axis of its own, and follows the widths like any other.

        Returns:
            The padded tensor, or None where no channels are padded.
        """
        pad = [int(n) for n in pad]
        dims = [dim for dim in self.labels(x) if any(n > 0 for n in pad[2 * (x.dim() - 1 - dim) :][:2])]
        if mode != "constant" or not dims or min(pad) < 0:
            return None
        for dim in dims:
            at = 2 * (x.dim() - 1 - dim)
            before, after = pad[at : at + 2]
            pad[at : at + 2] = [0, 0]
            parts = [self._constants(before, x, dim, value), x, self._constants(after, x, dim, value)]
            x = self.__torch_function__(torch.cat, (), ([part for part in parts if part is not None], dim))
        return self.__torch_function__(F.pad, (), (x, pad, mode, value)) if any(pad) else x

    def _split_unequally(self, parts: Any, x: torch.Tensor, chunks: int, dim: int = 0) -> Any:
        """chunk() into parts of unequal size, as a split: what it leaves to the last part is another count by then."""
        sizes = [part.shape[dim] for part in parts]
        return self.__torch_function__(torch.split_with_sizes, (), (x, sizes, dim))

    def _constants(self, size: int, x: torch.Tensor, dim: int, value: Any) -> Any:
        if size == 0:
            return None
        name = f"padding_{self._pads}"
        self._pads += 1
        if not hasattr(self.model, name):
            shape = (size, *(1 for _ in range(dim + 1, x.dim())))
            tensor = torch.full(shape, float(value or 0), dtype=x.dtype, device=x.device)
            self.model.register_buffer(name, tensor, persistent=False)
            self.add_buffer(name, tensor)
        buffer = getattr(self.model, name)
        self._paths[id(buffer)] = name
        sizes = [-1 if d == dim else length for d, length in enumerate(x.shape)]
        return self.__torch_function__(torch.Tensor.expand, (), (buffer, sizes))


def _checkpoints() -> bool:
    """Whether this step is one of torch's checkpoint, which turns gradients off and runs it again for them."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back
    return False


def _in_places(target: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Arguments that were given by name in their places, where a function has such."""
    placed, named = list(args), dict(kwargs)
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    for own, default in _PLACES.get(name, [])[len(args) :]:
        if named:
            placed.append(named.pop(own, default))
    return tuple(placed), named


def _tensor_paths(model: nn.Module) -> dict[int, str]:
    """The path of every tensor that a module holds: parameters, buffers and plain attributes."""
    paths: dict[int, str] = {}
    for prefix, module in model.named_modules():
        for own in (module._parameters, module._buffers, vars(module)):
            for name, value in own.items():
                if isinstance(value, torch.Tensor):
                    paths.setdefault(id(value), f"{prefix}.{name}" if prefix else name)
    return paths
