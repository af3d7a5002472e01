"""What an operator's rule is made of: labels in, labels out, and a ledger for what the channels have in common.

Every slot of a parameter's or buffer's dimension gets an integer *label*. A traced tensor carries, for some of its
dimensions, the vector of labels along it: which parameter slots its channels come from. A rule says how labels pass
through one operator; slots that must be kept or dropped together are *tied*, slots that can't be dropped are *pinned*
with a reason. Nothing is solved here: the ledger is read once, after the last forward pass.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autoslim._registry import Registry

Vector = torch.Tensor  # int64 [size of a dimension]: the label of each slot
Labels = dict[int, Vector]  # dimension -> labels along it; a dimension that is not listed is whole


@dataclass
class Ledger:
    """What the rules have written down.

    Attributes:
        size: Number of labels given out.
        blocks: (tensor name, dimension, first label, size) of every labelled dimension.
        ties: Pairs of vectors whose labels are one and the same, elementwise.
        pins: Vectors that must stay whole, and why.
        notes: Vectors whose channels may go, but not without a change in meaning, and which.
        made: Output channels of convolutions and linear layers, with the module, in the order they ran.
        read: Input channels of convolutions and linear layers.
        macs: (operator, module, scale, factors) of every matrix product; a factor is an int or a vector.
        outputs: The same for the elements put out by convolutions, linear layers and average pools.
        pooled: The same for the elements taken in by average pools.
        counting: Whether costs are recorded (they are in one of the two traced modes only).
    """

    size: int = 0
    blocks: list[tuple[str, int, int, int]] = field(default_factory=list)
    ties: list[tuple[Vector, Vector]] = field(default_factory=list)
    pins: list[tuple[Vector, str]] = field(default_factory=list)
    notes: list[tuple[Vector, str]] = field(default_factory=list)
    made: list[tuple[Vector, str]] = field(default_factory=list)
    read: list[Vector] = field(default_factory=list)
    macs: list[tuple[str, str, int, tuple["int | Vector", ...]]] = field(default_factory=list)
    outputs: list[tuple[str, str, int, tuple["int | Vector", ...]]] = field(default_factory=list)
    pooled: list[tuple[str, str, int, tuple["int | Vector", ...]]] = field(default_factory=list)
    counting: bool = True
    _labels: dict[int, tuple[torch.Tensor, Labels]] = field(default_factory=dict)

    def new(self, size: int) -> Vector:
        """Fresh labels, shape [size]."""
        self.size += size
        return torch.arange(self.size - size, self.size)

    def add_tensor(self, name: str, tensor: torch.Tensor) -> None:
        """Labels every dimension of a parameter or buffer that has more than one slot."""
        labels: Labels = {}
        for dim, size in enumerate(tensor.shape):
            if size > 1:
                self.blocks.append((name, dim, self.size, size))
                labels[dim] = self.new(size)
        self.set_labels(tensor, labels)

    def labels(self, tensor: object) -> Labels:
        """The labels a tensor carries; none for a tensor that no parameter's channels flow into."""
        return self._labels[id(tensor)][1] if id(tensor) in self._labels else {}

    def set_labels(self, tensor: torch.Tensor, labels: Labels) -> None:
        # The tensor is kept alive beside its labels: its id stays its own.
        self._labels[id(tensor)] = (tensor, {dim: v for dim, v in labels.items() if tensor.shape[dim] > 1})


@dataclass(frozen=True)
class Call:
    """One operator as it ran: its arguments, its output, and where in the model it stands."""

    ledger: Ledger
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    module: str
    where: str  # 'module (Type), file.py:12', for reasons

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by position or name: ATen schemas allow either."""
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, default)

    def labels(self, tensor: object) -> Labels:
        return self.ledger.labels(tensor)

    def tie(self, first: Vector, second: Vector) -> None:
        """These slots go together, elementwise (shapes broadcast)."""
        first, second = torch.broadcast_tensors(first, second)
        self.ledger.ties.append((first.reshape(-1), second.reshape(-1)))

    def pin(self, vector: Vector | None, reason: str) -> None:
        """These slots must stay."""
        if vector is not None:
            self.ledger.pins.append((vector.reshape(-1), f"{reason} in {self.where}"))

    def match(self, *vectors: Vector | None) -> Vector | None:
        """One dimension seen by several tensors: ties its labels; if one of them is whole, pins the others.

        Returns:
            The labels of the dimension, or None where nobody has any.
        """
        present = [vector for vector in vectors if vector is not None]
        for vector in present[1:]:
            self.tie(present[0], vector)
        if present and len(present) < len(vectors):
            self.pin(present[0], f"meets a tensor of fixed size ({self.func.overloadpacket})")
        return present[0] if present else None

    def macs(self, kind: str, scale: int, *factors: "int | Vector") -> None:
        if self.ledger.counting:
            self.ledger.macs.append((kind, self.module, scale, factors))

    def outputs(self, kind: str, tensor: torch.Tensor, labels: Labels) -> None:
        """Counts the elements of `tensor` into the paper's activations."""
        if self.ledger.counting:
            self.ledger.outputs.append((kind, self.module, *_elements(tensor, labels)))

    def average_pool(self, tensor: torch.Tensor, labels: Labels) -> None:
        """Counts an average pool's output into the paper's activations, and what it takes in into its operations."""
        self.outputs("avg_pool", tensor, labels)
        if self.ledger.counting:
            entry = _elements(self.args[0], self.labels(self.args[0]))
            self.ledger.pooled.append(("avg_pool", self.module, *entry))


def _elements(tensor: torch.Tensor, labels: Labels) -> tuple[int, tuple[Vector, ...]]:
    """The number of elements as a scale and the labels of the dimensions that have any."""
    whole = [size for dim, size in enumerate(tensor.shape) if dim not in labels]
    return math.prod(whole), tuple(labels.values())


@dataclass(frozen=True)
class Attribute:
    """A module's integer that counts channels: slots kept on `tensor`'s `dim`, x `scale`, // `unit`."""

    name: str
    tensor: str
    dim: int
    scale: int = 1
    unit: int = 1


@dataclass(frozen=True)
class Rule:
    """All that is known of one operator family.

    Attributes:
        ops: ATen operators, as "aten.convolution".
        run: How labels pass through: a call to the labels of each output tensor.
        example: A small module that runs the operator and an input for it; the contract tests trace it.
        attributes: The integer attributes of a module that follow its weight's shape.
    """

    ops: tuple[str, ...]
    run: Callable[[Call], Sequence[Labels]]
    example: Callable[[], tuple[nn.Module, torch.Tensor]]
    attributes: Callable[[nn.Module], tuple[Attribute, ...]] = lambda module: ()


RULES: Registry[Rule] = Registry("operator rule")
_BY_OP: dict[str, Rule] = {}


def register(name: str, rule: Rule) -> None:
    """Puts a rule on the shelf; an operator that two rules claim is a programming error."""
    RULES.register(name, rule)
    for op in rule.ops:
        if op in _BY_OP:
            raise ValueError(f"{op} is claimed by two operator rules, {name!r} is the second")
        _BY_OP[op] = rule


def find_rule(func: Any) -> Rule | None:
    """The rule for an ATen overload; pointwise operators that torch tags as such need not be listed."""
    rule = _BY_OP.get(str(func.overloadpacket))
    return RULES["pointwise"] if rule is None and torch.Tag.pointwise in func.tags else rule


def find_attributes(module: nn.Module) -> tuple[Attribute, ...]:
    """The integer attributes of `module` that follow its channels, from whichever rule knows its type."""
    return tuple(attribute for rule in RULES.values() for attribute in rule.attributes(module))
