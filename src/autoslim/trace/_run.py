"""Runs a copy of the model without data and lets each operator's rule write into a ledger."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from autoslim._tensors import output_tensors, storage_of
from autoslim.errors import ModelError, describe_error
from autoslim.extract import copy_model, plain_tensors
from autoslim.ops import Alive, Call, Labels, Ledger, count_elements, find_rule

_LIBRARY = tuple(os.path.dirname(path) + os.sep for path in (torch.__file__, os.path.dirname(__file__)))

# No operators of the network's own: reshape() copies or not as the sizes are, and torch detaches what others hold, too.
_COPIES = ("aten.clone", "aten._to_copy", "aten.contiguous", "aten.alias", "aten.detach", "aten.lift_fresh")
_VIEWS = ("aten._unsafe_view", "aten._reshape_alias", "aten.reshape")

Shapes = list[tuple[int, ...]]
# Operators without a rule whose second argument is their weight: an output takes as many products as a row of it has.
_WEIGHTED = ("torchvision.deform_conv2d", "aten._trilinear")
_FOREVER = 2**31 - 1  # a tensor that outlives the forward pass

Key = tuple[bool, str, str, int]  # training, module, operator, how often it ran there before


@dataclass
class Trace:
    """What was seen in a model's forward passes.

    Attributes:
        model: The copy that ran.
        ledger: What the rules wrote.
        device: Where it ran, "meta" or "cpu".
        notes: What could not be run, or not without values.
        labels: The labels of the tensors that each operator put out.
        shapes: Shapes of the network's output, per mode it runs in (False is eval, True is train).
    """

    model: nn.Module
    ledger: Ledger
    device: str
    notes: list[str] = field(default_factory=list)
    labels: dict[Key, list[Labels]] = field(default_factory=dict)
    shapes: dict[bool, Shapes] = field(default_factory=dict)


def record(model: nn.Module, inputs: tuple[Any, ...], *, grouped: Mapping[str, str]) -> Trace:
    """Runs the model in eval and in train mode and merges what the rules wrote.

    Code that runs in one mode only (auxiliary heads) is thus seen; costs are those of eval mode.

    Raises:
        ModelError: The model's own forward pass fails; its error is chained.
    """
    try:
        return _record_on("meta", model, inputs, grouped)
    except Exception as error:  # noqa: BLE001 - meta tensors have no values (.item(), shapes that depend on data)
        why = describe_error(error)
    try:  # for real: a fault of the model's own shows there again
        trace = _record_on("cpu", model, inputs, grouped)
    except ModelError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in tree_leaves(inputs) if isinstance(x, torch.Tensor))
        raise ModelError(
            f"{type(model).__name__}.forward fails on inputs of shape {shapes or 'none'}: {type(error).__name__}: "
            f"{error}. Expected inputs that the model runs on, in the order of its forward(). Give such example "
            "inputs. On the command line: --input, for instance --input 3,48,48."
        ) from error
    trace.notes.insert(0, f"traced as it ran on these very values, for it needs values ({why})")
    return trace


def _record_on(device: str, model: nn.Module, inputs: tuple[Any, ...], grouped: Mapping[str, str]) -> Trace:
    try:
        copied = copy_model(model, device)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} can't be copied, which a trace does first: {describe_error(error)}. Expected a "
            "module for copy.deepcopy. Make what can't be copied (a lock, a file, a stream) where it is used, or "
            "define __deepcopy__."
        ) from error
    trace = Trace(copied, Ledger(grouped=grouped), device)
    label_tensors(copied, trace.ledger)

    def keep(key: Key, call: Call, outs: Sequence[torch.Tensor], labels: Sequence[Labels]) -> None:
        trace.labels[key] = list(labels)

    placed = place_inputs(inputs, device)
    trace.shapes[False] = run_labelled(copied.eval(), placed, trace.ledger, keep)
    if missed := list(dict.fromkeys(trace.ledger.uncounted)):
        trace.notes.append(f"no multiply-accumulates are counted of {', '.join(missed)}")
    trace.ledger.counting = False
    try:
        trace.shapes[True] = run_labelled(copied.train(), double_batch(placed), trace.ledger, keep)
    except Exception as error:  # noqa: BLE001 - the user's forward may raise anything; it is told
        trace.notes.append(f"train mode was not traced: {describe_error(error)}")
    for training, shapes in trace.shapes.items():
        if not shapes:
            mode = "train" if training else "eval"
            trace.notes.append(f"no tensor was found in what the network puts out in {mode} mode")
    trace.ledger.forget([*copied.parameters(), *copied.buffers(), *plain_tensors(copied)])
    return trace


def label_tensors(model: nn.Module, ledger: Ledger) -> None:
    """Labels every parameter and buffer; a convolution's kernel has no channels beyond its first two dimensions."""
    kernels = {id(module.weight) for module in model.modules() if isinstance(module, _ConvNd)}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        ledger.add_tensor(name, tensor, dims=2 if id(tensor) in kernels else None)


def ignore(key: Key, call: Call, outs: Sequence[torch.Tensor], labels: Sequence[Labels]) -> None:
    """An observer that has nothing to compare with."""


def place_inputs(inputs: tuple[Any, ...], device: str) -> tuple[Any, ...]:
    """Copies of the inputs there: code may write into them."""

    def place(x: Any) -> Any:
        return x.detach().to(device, copy=True) if isinstance(x, torch.Tensor) else x

    return tree_map(place, inputs)


def double_batch(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs with at least two images: BatchNorm can't train on one value per channel."""
    return tuple(
        torch.cat([x, x]) if isinstance(x, torch.Tensor) and x.dim() > 1 and x.shape[0] == 1 else x for x in inputs
    )


Observer = Callable[[Key, Call, Sequence[torch.Tensor], Sequence[Labels]], None]


def run_labelled(model: nn.Module, inputs: tuple[Any, ...], ledger: Ledger, observe: Observer) -> Shapes:
    """One forward pass under the rules; the network's output is pinned. Returns the shapes of its tensors."""
    tracer = _Tracer(model, inputs, ledger, observe)
    try:
        with torch.no_grad(), tracer:
            out = model(*inputs)
    finally:
        tracer.close()
    tensors = output_tensors(out)
    for tensor in tensors:
        for vector in ledger.labels(tensor).values():
            ledger.pins.append((vector, "the network's output"))
    return [tuple(tensor.shape) for tensor in tensors]


class _Tracer(TorchDispatchMode):
    """Interprets every ATen operator of a forward pass on the labels of its arguments."""

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...], ledger: Ledger, observe: Observer) -> None:
        super().__init__()
        tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
        self.batch = tensors[0].shape[0] if tensors and tensors[0].dim() else 1
        self.ledger, self.observe, self.training = ledger, observe, model.training
        self.stack: list[tuple[str, nn.Module]] = [("", model)]
        self.ran: Counter[tuple[str, str]] = Counter()
        self.living: list[tuple[StorageWeakRef, Alive]] = []
        self.known = {storage_of(t) for t in (*model.parameters(), *model.buffers(), *tensors)}
        self.step = 0
        self.forwards: list[tuple[nn.Module, Any]] = []
        for name, module in model.named_modules():
            if name:
                self.forwards.append((module, vars(module).get("forward")))
                vars(module)["forward"] = self._wrap(name, module)

    def close(self) -> None:
        for module, own in self.forwards:
            if own is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = own

    def _wrap(self, name: str, module: nn.Module) -> Any:
        """The module's forward(), which its parent may call past all hooks; an error tells where it was raised."""
        inner = module.forward

        @wraps(inner)
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.stack.append((name, module))
            try:
                return inner(*args, **kwargs)
            except Exception as error:
                if not hasattr(error, "raised_in"):
                    error.raised_in = name  # pyright: ignore[reportAttributeAccessIssue]
                raise
            finally:
                self.stack.pop()

        return forward

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule, op = find_rule(func), str(func.overloadpacket)
        if self.ledger.counting:
            self._bury()
        try:
            # On meta a rule may know the shapes sooner than torch.
            out = None
            if rule is not None and args and isinstance(args[0], torch.Tensor) and args[0].is_meta:
                out = rule.infer(func, args)
            out = func(*args, **kwargs) if out is None else out
        except Exception as error:
            error.touched = tree_leaves((args, kwargs))  # pyright: ignore[reportAttributeAccessIssue]
            raise
        name, caller = self.stack[-1]
        call = Call(self.ledger, func, args, kwargs, out, name, caller, self._locate)
        outs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        try:
            labels = rule.run(call) if rule is not None else _freeze(call, "no rule for the operator")
        except Exception as error:  # noqa: BLE001 - an operator used in a way its rule does not know is frozen, and told
            labels = _freeze(call, f"{type(error).__name__} ({error}) in the rule for the operator")
        for tensor, label in zip(outs, labels, strict=False):
            self.ledger.set_labels(tensor, label)
        carried = [self.ledger.labels(tensor) for tensor in outs]
        if self.ledger.counting:
            self._bear(outs)
        if op not in _COPIES:
            op = "aten.view" if op in _VIEWS else op
            self.observe((self.training, name, op, self.ran[name, op]), call, outs, carried)
            self.ran[name, op] += 1
        return out

    def _bury(self) -> None:
        """Ends the life of tensors that nobody holds any more."""
        self.step += 1
        for ref, alive in self.living:
            if ref.expired():
                alive.stop = self.step
        self.living = [(ref, alive) for ref, alive in self.living if not ref.expired()]

    def _bear(self, outs: Sequence[torch.Tensor]) -> None:
        """Writes down the tensors that an operator has made; views and tensors written in place are known already."""
        living = {ref.cdata for ref, _ in self.living}
        for tensor in outs:
            storage = storage_of(tensor)
            if tensor.numel() and storage not in self.known and storage not in living:
                scale, factors = count_elements(tensor, self.ledger.labels(tensor))
                width = 0 if tensor.is_floating_point() else tensor.element_size()
                batched = tensor.dim() > 0 and tensor.shape[0] == self.batch
                alive = Alive(self.stack[-1][0], scale, factors, self.step, _FOREVER, width, batched)
                self.ledger.alive.append(alive)
                self.living.append((StorageWeakRef(tensor.untyped_storage()), alive))
                living.add(storage)

    def _locate(self) -> str:
        name, module = self.stack[-1]
        line = _source_line()
        kind = type(module).__name__
        return f"{name or kind}" + (f" ({kind})" if name else "") + (f", {line}" if line else "")


def _freeze(call: Call, why: str) -> Sequence[Labels]:
    """Pins all that an operator touches; its matrix products, if they can be counted, are constant."""
    from torch.utils.flop_counter import flop_registry  # imports triton: only who traces pays for it

    name = str(call.func.overloadpacket)
    for leaf in tree_leaves((call.args, call.kwargs)):
        for vector in call.labels(leaf).values():
            call.pin(vector, f"{why} {name}")
    if call.func.overloadpacket in flop_registry:
        flops = flop_registry[call.func.overloadpacket](*call.args, **call.kwargs, out_val=call.out)
        call.macs(name, flops // 2)
    elif name in _WEIGHTED:
        call.macs(name, call.out.numel() * call.args[1][0].numel())
    elif any(isinstance(leaf, nn.Parameter) and leaf.dim() > 1 for leaf in tree_leaves((call.args, call.kwargs))):
        call.ledger.uncounted.append(f"{name} in {call.locate()}")
    return [{} for leaf in tree_leaves(call.out) if isinstance(leaf, torch.Tensor)]


def _source_line() -> str:
    """The innermost line of the model's own code on the stack: "resnet.py:92"; "" where there is none."""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_filename == __file__ and code.co_name == "run_labelled":
            return ""
        if is_own_code(code.co_filename):
            return f"{os.path.basename(code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def is_own_code(file: str) -> bool:
    """Whether a source file is the model's, not torch's or ours."""
    return not file.startswith((*_LIBRARY, "<"))
