"""Replaces the integers of a recorded graph by expressions of sizes."""

import operator
from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx

from autoslim.errors import ModelError
from autoslim.rewrite._counts import Formula, Path, Size, leaves
from autoslim.rewrite._sizes import Expression, Finder, Scenes, Values, sizes_of

# Where functions that are told the shape of their output have it among their arguments.
_SHAPES = {
    **dict.fromkeys(["view", "reshape", "expand", "broadcast_to", "new_zeros", "new_ones", "new_empty", "new_full"], 1),
    **dict.fromkeys(["zeros", "ones", "empty", "full", "rand", "randn"], 0),
    "unflatten": 2,
}
_CONVS = ("conv1d", "conv2d", "conv3d")


def derive_integers_(scenes: Scenes) -> fx.Graph:
    """Rewrites the graph of the first run so that it runs at any batch and any widths.

    Returns:
        The same graph, changed.

    Raises:
        ModelError: An integer depends on the batch, and on no size in a way that can be seen.
    """
    graph = scenes.runs[0]
    runs = [list(run.nodes) for run in scenes.runs]
    stored = scenes.attach()
    finder, writer = Finder(stored), _Writer(graph)
    for index, node in enumerate(runs[0]):
        if node.op in ("call_function", "call_method", "call_module"):
            _rewrite_(node, [run[index] for run in runs], scenes, finder, writer)
        finder.see(node)
    for node in stored:
        if not node.users:
            graph.erase_node(node)
    graph.lint()
    return graph


def _rewrite_(node: fx.Node, seen: list[fx.Node], scenes: Scenes, finder: Finder, writer: "_Writer") -> None:
    told = [dict(leaves((each.args, each.kwargs))) for each in seen]
    wanted = {
        path: scenes.literal([other[path] for other in told]) for path, leaf in told[0].items() if type(leaf) is int
    }
    told_sizes = {path: values for path, values in _wanted(node, scenes).items() if path in wanted}
    wanted |= told_sizes
    new: dict[Path, Any] = {}
    counted: Mapping[Path, Formula | Size] = node.meta.get("counted", {})
    for path, leaf in told[0].items():
        if isinstance(leaf, bool) and any(other[path] != leaf for other in told):
            if told[1][path] == leaf or any(other[path] != leaf for other in told[2:]):
                raise ModelError(
                    f"{node.meta['module'] or 'the network'}: {leaf!r} of {_name(node)} depends on the images' size; "
                    "expected the mode alone, or nothing. The network can't be rewritten; trace it as it is."
                )
            new[path] = writer.training(node, inverted=leaf)
    for path, values in wanted.items():
        if path in counted and path not in told_sizes:
            continue  # below: what the code computes is exact, what fits all scenes may do so by chance
        if _varies(values):
            found = _find(values, node, finder, scenes)
            if found is not None:
                new[path] = writer.write(found, node)
            elif path in counted:
                new[path] = writer.compute(counted[path], node)
            elif _may_infer(node, path, told[0]):
                new[path] = -1
            elif values[0] != values[1]:
                raise ModelError(
                    f"{node.meta['module'] or 'the network'}: the integer {told[0][path]} of {_name(node)} depends on "
                    "the batch in a way that can't be seen; expected a size, or a ratio of sizes. The network can't be "
                    "rewritten; trace it as it is."
                )
    for path, formula in counted.items():
        if path not in new and (formula.channels or _varies(wanted.get(path, ()))):
            new[path] = writer.compute(formula, node)
    new |= _conv_groups(node, writer)
    new |= _last_part(node, [path for path in wanted if path not in new and _varies(wanted[path])], new, writer)
    if new:
        node.args, node.kwargs = _replaced((node.args, node.kwargs), (), new)


def _find(values: Values, node: fx.Node, finder: Finder, scenes: Scenes) -> Expression | None:
    """An expression for every scene, or else for all but the other image size (the third run)."""
    near = node.all_input_nodes
    found = finder.find(values, near)
    if found is None and len(scenes.runs) > 2 and _varies(same_images := (*values[:2], None, *values[3:])):
        found = finder.find(same_images, near)
    return found


def _varies(values: Values) -> bool:
    return len({value for value in values if value is not None}) > 1


def _may_infer(node: fx.Node, path: Path, told: Mapping[Path, Any]) -> bool:
    """Whether -1 can stand at `path`: in the shape of a view that has no other one."""
    return _name(node) in ("view", "reshape") and -1 not in [leaf for leaf in told.values() if type(leaf) is int]


# Which integers are sizes ---------------------------------------------------------------------------------------------


def _wanted(node: fx.Node, scenes: Scenes) -> dict[Path, Values]:
    """The integers of a call that are sizes of its tensors, with their values in every scene."""
    name, sizes = _name(node), sizes_of(node)
    if name in _SHAPES and sizes:
        return _output_shape(node, _SHAPES[name], sizes)
    if name in ("layer_norm", "rms_norm"):
        shape = sizes_of(node.args[0])[-len(node.args[1]) :]  # pyright: ignore[reportArgumentType]
        return {(0, 1, index): size for index, size in enumerate(shape)}
    if name in ("split", "split_with_sizes"):
        return _split(node)
    if name == "narrow":
        return _narrow(node, scenes)
    if name == "getitem" and sizes_of(node.args[0]):
        return dict(_slices(node, scenes))
    return {}


def _output_shape(node: fx.Node, first: int, sizes: list[tuple[int, ...]]) -> dict[Path, Values]:
    skipped = _dim(node, 1, node.args[0]) if _name(node) == "unflatten" else 0
    for name in ("size", "shape"):
        if name in node.kwargs:
            return {(1, name, index): size for index, size in enumerate(sizes[skipped:])}
    if len(node.args) <= first:
        return {}
    if isinstance(node.args[first], (list, tuple)):
        paths: list[Path] = [(0, first, index) for index in range(len(node.args[first]))]  # pyright: ignore
    else:
        paths = [(0, index) for index in range(first, len(node.args))]
    # An integer that is no size (-1, a number of parts that is inferred) stays what it is.
    told = dict(leaves((node.args, node.kwargs)))
    pairs = zip(paths, sizes[skipped:], strict=False)
    return {path: size for path, size in pairs if told.get(path) == size[0]}


def _split(node: fx.Node) -> dict[Path, Values]:
    x, told, *_ = (*node.args, None)
    dim = _dim(node, 2, x)
    parts: dict[int, Values] = {}
    for user in node.users:
        if user.target is operator.getitem:
            _, index = user.args
            parts[int(index)] = sizes_of(user)[dim]  # pyright: ignore[reportArgumentType]
    if isinstance(told, int):
        return {(0, 1): parts[0]} if 0 in parts else {}
    return {(0, 1, index): size for index, size in parts.items()}


def _narrow(node: fx.Node, scenes: Scenes) -> dict[Path, Values]:
    x, dim, start = node.args[0], _dim(node, 1, node.args[0]), node.args[2]
    if not isinstance(start, int) or not isinstance(x, fx.Node) or start < 0:
        return {}
    return {(0, 2): _position(x, dim, start, (0, 2), scenes), (0, 3): sizes_of(node)[dim]}


def _slices(node: fx.Node, scenes: Scenes) -> Iterator[tuple[Path, Values]]:
    x, index = node.args
    items = index if isinstance(index, tuple) else (index,)
    consumed = sum(item is not None and item is not Ellipsis for item in items)
    dim = 0
    for place, item in enumerate(items):
        if item is Ellipsis:
            dim += len(sizes_of(x)) - consumed
        elif item is not None:
            if isinstance(item, slice) and isinstance(x, fx.Node):
                for name in ("start", "stop"):
                    bound = getattr(item, name)
                    size = sizes_of(x)[dim][0]
                    if isinstance(bound, int) and 0 < bound <= size:
                        path: Path = (0, 1, place, name) if isinstance(index, tuple) else (0, 1, name)
                        yield path, _position(x, dim, bound, path, scenes)
            dim += 1


def _position(x: fx.Node, dim: int, bound: int, path: Path, scenes: Scenes) -> Values:
    """A place on a dimension: as many slots as are kept before it. Runs of other sizes may have it elsewhere."""
    runs = len(scenes.runs)
    same = [bound if size == sizes_of(x)[dim][0] else None for size in sizes_of(x)[dim][:runs]]
    return (*same, *scenes.count(x, dim, bound))


def _conv_groups(node: fx.Node, writer: "_Writer") -> dict[Path, Any]:
    """A functional convolution's `groups`: input channels over those of one kernel."""
    place: Path = (0, 6)
    told = dict(leaves((node.args, node.kwargs)))
    if _name(node) not in _CONVS or told.get(place, 1) == 1:
        return {}
    x, weight = node.args[:2]
    if not isinstance(x, fx.Node) or not isinstance(weight, fx.Node):
        return {}
    with writer.graph.inserting_before(node):
        return {place: writer.graph.call_function(operator.floordiv, (writer.size(x, 1), writer.size(weight, 1)))}


def _last_part(node: fx.Node, missing: list[Path], new: Mapping[Path, Any], writer: "_Writer") -> dict[Path, Any]:
    """The one part of a split whose size no other tensor has: what the other parts leave."""
    if _name(node) not in ("split", "split_with_sizes") or len(missing) != 1 or len(missing[0]) != 3:
        return {}
    *_, index = missing[0]
    x, sizes = node.args[:2]
    rest = writer.size(x, _dim(node, 2, x))  # pyright: ignore[reportArgumentType]
    with writer.graph.inserting_before(node):
        for other, size in enumerate(sizes):  # pyright: ignore[reportArgumentType]
            if other != index:
                rest = writer.graph.call_function(operator.sub, (rest, new.get((0, 1, other), size)))
    return {missing[0]: rest}


def _name(node: fx.Node) -> str:
    if node.op == "call_module":  # its path says nothing
        return ""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _dim(node: fx.Node, index: int, x: Any) -> int:
    """A `dim` argument, counted from the front."""
    dim: Any = node.args[index] if len(node.args) > index else node.kwargs.get("dim", 0)
    return dim % len(sizes_of(x))


# The graph's own side -------------------------------------------------------------------------------------------------


class _Writer:
    """Writes expressions into a graph; each size is taken once, right after its tensor is made."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self._sizes: dict[tuple[fx.Node, int], fx.Node] = {}
        self._last_input = [node for node in graph.nodes if node.op == "placeholder"][-1]

    def size(self, node: fx.Node, dim: int) -> fx.Node:
        if (node, dim) not in self._sizes:
            with self.graph.inserting_after(self._last_input if node.op == "placeholder" else node):
                self._sizes[node, dim] = self.graph.call_method("size", (node, dim))
        return self._sizes[node, dim]

    def write(self, expression: Expression, user: fx.Node) -> fx.Node:
        first, *others = [self.size(node, dim) for node, dim in expression.sizes]
        with self.graph.inserting_before(user):
            for other in others:
                first = self.graph.call_function(operator.mul, (first, other))
            if expression.times > 1:
                first = self.graph.call_function(operator.mul, (first, expression.times))
            if expression.over > 1:
                first = self.graph.call_function(operator.floordiv, (first, expression.over))
        return first

    def compute(self, formula: Formula | Size | int | float, user: fx.Node) -> Any:
        """What the network's own code computes from sizes."""
        if isinstance(formula, Size):
            return self.size(formula.node, formula.dim)
        if not isinstance(formula, Formula):
            return formula
        sides = self.compute(formula.left, user), self.compute(formula.right, user)
        with self.graph.inserting_before(user):
            return self.graph.call_function(formula.apply, sides)

    def training(self, node: fx.Node, *, inverted: bool) -> fx.Node:
        """The mode of the module whose code calls: what differs between a run in eval and one in train mode."""
        module = node.meta["module"]
        with self.graph.inserting_before(node):
            mode = self.graph.get_attr(f"{module}.training" if module else "training")
            return self.graph.call_function(operator.not_, (mode,)) if inverted else mode


def _replaced(value: Any, path: Path, new: Mapping[Path, Any]) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_replaced(part, (*path, index), new) for index, part in enumerate(value))
    if isinstance(value, Mapping):
        return {name: _replaced(part, (*path, str(name)), new) for name, part in value.items()}
    if isinstance(value, slice):
        return slice(*(_replaced(getattr(value, n), (*path, n), new) for n in ("start", "stop", "step")))
    return new.get(path, value)


def same_nodes(first: fx.Graph, second: fx.Graph) -> str | None:
    """Where two runs differ in more than integers and the mode, in words; None if they do not."""
    one, two = list(first.nodes), list(second.nodes)
    for a, b in zip(one, two, strict=False):
        left, right = dict(leaves((a.args, a.kwargs))), dict(leaves((b.args, b.kwargs)))
        if (a.op, a.name, a.target) != (b.op, b.name, b.target) or list(left) != list(right):
            return f"{_name(a)} in one, {_name(b)} in the other, in {a.meta.get('module') or 'the network'}"
        for path, leaf in left.items():
            other = right[path]
            same = leaf.name == other.name if isinstance(leaf, fx.Node) else leaf == other
            if not same and not (type(leaf) is type(other) and isinstance(leaf, int)):
                return f"{leaf} and {other} as arguments of {_name(a)}, in {a.meta.get('module') or 'the network'}"
    return None if len(one) == len(two) else f"{len(one)} steps in one, {len(two)} in the other"
