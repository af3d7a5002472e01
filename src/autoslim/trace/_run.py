"""Runs a copy of the model without data and lets each operator's rule write into a ledger."""

import copy
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from autoslim.errors import ModelError
from autoslim.ops import Call, Labels, Ledger, find_rule

_LIBRARY = tuple(os.path.dirname(path) + os.sep for path in (torch.__file__, os.path.dirname(__file__)))


def copy_model(model: nn.Module, device: str) -> nn.Module:
    """A copy on `device` ("meta": shapes without data) that keeps shared parameters shared.

    Plain tensor attributes stay where they are: a model that mixes them into its forward pass can't run on meta.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        moved = parameter.detach().to(device, copy=True)
        memo[id(parameter)] = nn.Parameter(moved, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to(device, copy=True)
    return copy.deepcopy(model, memo)


def record(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Ledger, tuple[str, ...], str]:
    """Runs the model in eval and in train mode and merges what the rules wrote.

    Code that runs in one mode only (auxiliary heads) is thus seen; costs are those of eval mode.

    Returns:
        The ledger, notes on what could not be run, and the device it ran on ("meta" or "cpu").

    Raises:
        ModelError: The model's own forward pass fails; its error is chained.
    """
    try:
        return *_record_on("meta", model, inputs), "meta"
    except Exception:  # noqa: BLE001 - meta tensors have no values (.item(), shapes that depend on data)
        pass  # run it for real: a fault of the model's own shows there again
    try:
        return *_record_on("cpu", model, inputs), "cpu"
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, torch.Tensor))
        raise ModelError(
            f"{type(model).__name__}.forward fails on inputs of shape {shapes}: {type(error).__name__}: {error}. "
            "Give example inputs the model runs on."
        ) from error


def _record_on(device: str, model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Ledger, tuple[str, ...]]:
    copied = copy_model(model, device)
    ledger = Ledger()
    for name, tensor in [*copied.named_parameters(), *copied.named_buffers()]:
        ledger.add_tensor(name, tensor)
    placed = place_inputs(inputs, device)
    _forward(copied.eval(), placed, ledger)
    ledger.counting = False
    notes: tuple[str, ...] = ()
    try:
        _forward(copied.train(), double_batch(placed), ledger)
    except Exception as error:  # noqa: BLE001 - the user's forward may raise anything; it is told
        notes = (f"train mode was not traced: {type(error).__name__}: {error}",)
    return ledger, notes


def place_inputs(inputs: tuple[Any, ...], device: str) -> tuple[Any, ...]:
    return tuple(x.to(device) if isinstance(x, torch.Tensor) else x for x in inputs)


def double_batch(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs with at least two images: BatchNorm can't train on one value per channel."""
    return tuple(
        torch.cat([x, x]) if isinstance(x, torch.Tensor) and x.dim() > 1 and x.shape[0] == 1 else x for x in inputs
    )


def _forward(model: nn.Module, inputs: tuple[Any, ...], ledger: Ledger) -> None:
    with torch.no_grad(), _Tracer(model, ledger) as tracer:
        out = model(*inputs)
    for leaf in tree_leaves(out):
        for vector in ledger.labels(leaf).values():
            ledger.pins.append((vector, "the network's output"))
    tracer.close()


class _Tracer(TorchDispatchMode):
    """Interprets every ATen operator of a forward pass on the labels of its arguments."""

    def __init__(self, model: nn.Module, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self.stack: list[tuple[str, str]] = [("", type(model).__name__)]
        self.hooks: list[Any] = []
        for name, module in model.named_modules():
            if name:
                self.hooks.append(module.register_forward_pre_hook(self._enter(name)))
                self.hooks.append(module.register_forward_hook(self._leave, always_call=True))

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _enter(self, name: str) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            self.stack.append((name, type(module).__name__))

        return enter

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Labels are read before the operator runs: one that works in place returns its own argument.
        out = func(*args, **kwargs)
        name, kind = self.stack[-1]
        line = _source_line()
        where = f"{name or kind}" + (f" ({kind})" if name else "") + (f", {line}" if line else "")
        call = Call(self.ledger, func, args, kwargs, out, name, where)
        outs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        rule = find_rule(func)
        try:
            labels = rule.run(call) if rule is not None else _freeze(call, "no rule for the operator")
        except Exception as error:  # noqa: BLE001 - an operator used in a way its rule does not know is frozen, and told
            labels = _freeze(call, f"{type(error).__name__} ({error}) in the rule for the operator")
        for tensor, label in zip(outs, labels, strict=False):
            self.ledger.set_labels(tensor, label)
        return out


def _freeze(call: Call, why: str) -> Sequence[Labels]:
    """Pins all that an operator touches; its matrix products, if torch can count them, are constant."""
    name = str(call.func.overloadpacket)
    for leaf in tree_leaves((call.args, call.kwargs)):
        if isinstance(leaf, torch.Tensor):
            for vector in call.labels(leaf).values():
                call.pin(vector, f"{why} {name}")
    if call.func.overloadpacket in flop_registry:
        flops = flop_registry[call.func.overloadpacket](*call.args, **call.kwargs, out_val=call.out)
        call.macs(name, flops // 2)
    return [{} for leaf in tree_leaves(call.out) if isinstance(leaf, torch.Tensor)]


def _source_line() -> str:
    """The innermost line of the model's own code on the stack: "resnet.py:92"; "" where there is none."""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_filename == __file__ and code.co_name == "_forward":
            return ""
        if not code.co_filename.startswith(_LIBRARY):
            return f"{os.path.basename(code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
