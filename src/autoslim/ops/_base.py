"""What an operator's rule is made of: labels in, labels out, and a ledger for what the channels have in common.

Every slot of a parameter's or buffer's dimension gets an integer *label*. A traced tensor carries, for some of its
dimensions, the vector of labels along it: which parameter slots its channels come from. A rule says how labels pass
through one operator; slots that must be kept or dropped together are *tied*, slots that can't be dropped are *pinned*
with a reason. Nothing is solved here: the ledger is read once, after the last forward pass.

A tensor of constants (zeros, padding, an expanded scalar) gets fresh labels that are neither tied nor pinned: they
become whatever they meet.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autoslim._registry import Registry

Vector = torch.Tensor  # int64 [size of a dimension]: the label of each slot
Labels = dict[int, Vector]  # dimension -> labels along it; a dimension that is not listed is whole
_MARK = "_autoslim_labels"


@dataclass
class Alive:
    """A tensor that an operator made: from the step it came to be to the step that first found it gone.

    `width` is its bytes per element if that is not up to the network's dtype (an index, a mask), else 0.
    """

    module: str
    scale: int
    factors: tuple[Vector, ...]
    start: int
    stop: int
    width: int
    batched: bool


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
        uncounted: Operators that no rule knows and that take weights: "aten.x in module (Type), file.py:12".
        named: (module, attribute, vector): the module's integer attribute is the length of the vector.
        integers: (module, values, vectors): the integer arguments of an operator that say how long vectors are.
        alive: The tensors that operators made: how long each lived.
        counting: Whether costs are recorded (they are in one of the two traced modes only).
        grouped: Module path or glob -> "slots" or "groups": how grouped convolutions shall lose channels.
        policies: (module path, which of its convolutions) -> how that one does.
        ran: Module path -> how many convolutions have run there.
        constants: The labels given to constants.
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
    uncounted: list[str] = field(default_factory=list)
    named: list[tuple[str, str, Vector]] = field(default_factory=list)
    integers: list[tuple[str, tuple[int, ...], tuple[Vector | None, ...]]] = field(default_factory=list)
    alive: list[Alive] = field(default_factory=list)
    counting: bool = True
    grouped: Mapping[str, str] = field(default_factory=dict)
    policies: dict[tuple[str, int], str] = field(default_factory=dict)
    ran: Counter[str] = field(default_factory=Counter)
    constants: list[Vector] = field(default_factory=list)

    def new(self, size: int) -> Vector:
        """Fresh labels, shape [size]."""
        self.size += size
        return torch.arange(self.size - size, self.size)

    def add_tensor(self, name: str, tensor: torch.Tensor, *, dims: int | None = None) -> None:
        """Labels the (first `dims`) dimensions of a parameter or buffer that have more than one slot."""
        labels: Labels = {}
        for dim, size in enumerate(tensor.shape[:dims]):
            if size > 1:
                self.blocks.append((name, dim, self.size, size))
                labels[dim] = self.new(size)
        self.set_labels(tensor, labels)

    def find_tensor(self, labels: Vector) -> str | None:
        """The parameter or buffer along one of whose dimensions all these labels are; None if there is none."""
        low, high = int(labels.min()), int(labels.max())
        return next((name for name, _, first, size in self.blocks if first <= low and high < first + size), None)

    def labels(self, tensor: object) -> Labels:
        """The labels a tensor carries; none for a tensor that no parameter's channels flow into."""
        ledger, labels = getattr(tensor, _MARK, (None, {}))
        return labels if ledger is self else {}

    def forget(self, tensors: Iterable[torch.Tensor]) -> None:
        """Takes the labels off tensors, so that a model that holds them can be copied."""
        for tensor in tensors:
            vars(tensor).pop(_MARK, None)

    def set_labels(self, tensor: torch.Tensor, labels: Labels) -> None:
        # On the tensor itself, so that it lives as long as the model's own code keeps it.
        setattr(tensor, _MARK, (self, {dim: v for dim, v in labels.items() if tensor.shape[dim] > 1}))


@dataclass(frozen=True)
class Call:
    """One operator as it ran: its arguments, its output, and where in the model it stands."""

    ledger: Ledger
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    module: str
    caller: nn.Module
    locate: Callable[[], str]  # 'module (Type), file.py:12', for reasons; valid while the operator's rule runs

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
            self.ledger.pins.append((vector.reshape(-1), f"{reason} in {self.locate()}"))

    def note(self, vector: Vector | None, what: str) -> None:
        """These slots may go, but then `what` is taken over those that are left: the meaning changes."""
        if vector is not None:
            self.ledger.notes.append((vector.reshape(-1), f"{what} in {self.locate()}"))

    def fresh(self, tensor: torch.Tensor, *dims: int) -> Labels:
        """New labels for a tensor of constants, on `dims` or all its dimensions."""
        every = dims or range(tensor.dim())
        labels = {dim: self.ledger.new(tensor.shape[dim]) for dim in every if tensor.shape[dim] > 1}
        self.ledger.constants.extend(labels.values())
        return labels

    def is_loose(self, vector: Vector) -> bool:
        """Whether these labels are of constants, all alike, that have met nothing yet."""
        constants = self.ledger.constants
        if not constants or not bool(torch.isin(vector, torch.cat(constants)).all()):
            return False
        bound = [*(side for tie in self.ledger.ties for side in tie), *(noted for noted, _ in self.ledger.notes)]
        return not bound or not bool(torch.isin(vector, torch.cat(bound)).any())

    def names(self, **vectors: Vector | None) -> None:
        """If the calling module has these integer attributes, they are the lengths of these vectors."""
        for name, vector in vectors.items():
            if vector is not None and vars(self.caller).get(name) == len(vector):
                self.ledger.named.append((self.module, name, vector))

    def integers(self, values: Sequence[int], vectors: Sequence[Vector | None]) -> None:
        """These integer arguments are the lengths of these vectors: attributes of the caller that hold them follow."""
        if any(vector is not None for vector in vectors):
            self.ledger.integers.append((self.module, tuple(values), tuple(vectors)))

    def holds(self, value: int) -> bool:
        """Whether the calling module has an integer attribute of that value."""
        return any(type(held) is int and held == value for held in vars(self.caller).values())

    def match(self, *vectors: Vector | None) -> Vector | None:
        """One dimension seen by several tensors: ties its labels; if one of them is whole, pins the others.

        Returns:
            The labels of the dimension, or None where it is whole.
        """
        present = [vector for vector in vectors if vector is not None]
        for vector in present[1:]:
            self.tie(present[0], vector)
        if not present:
            return None
        if len(present) < len(vectors):
            self.pin(present[0], f"meets a tensor of fixed size ({self.func.overloadpacket})")
            return None
        return present[0]

    def macs(self, kind: str, scale: int, *factors: "int | Vector") -> None:
        if self.ledger.counting:
            self.ledger.macs.append((kind, self.module, scale, factors))

    def outputs(self, kind: str, tensor: torch.Tensor, labels: Labels) -> None:
        """Counts the elements of `tensor` into the paper's activations."""
        if self.ledger.counting:
            self.ledger.outputs.append((kind, self.module, *count_elements(tensor, labels)))

    def average_pool(self, tensor: torch.Tensor, labels: Labels) -> None:
        """Counts an average pool's output into the paper's activations, and what it takes in into its operations."""
        self.outputs("avg_pool", tensor, labels)
        if self.ledger.counting:
            entry = count_elements(self.args[0], self.labels(self.args[0]))
            self.ledger.pooled.append(("avg_pool", self.module, *entry))


def count_elements(tensor: torch.Tensor, labels: Labels) -> tuple[int, tuple[Vector, ...]]:
    """The number of elements as a scale and the labels of the dimensions that have any."""
    whole = [size for dim, size in enumerate(tensor.shape) if dim not in labels]
    return math.prod(whole), tuple(labels.values())


@dataclass(frozen=True)
class Rule:
    """All that is known of one operator family.

    Attributes:
        ops: ATen operators, as "aten.convolution".
        run: How labels pass through: a call to the labels of each output tensor.
        example: A small module that runs the operator and an input for it; the contract tests trace it.
        infer: (operator, arguments) -> its output on meta tensors where torch's own way to it is slow, or None.
    """

    ops: tuple[str, ...]
    run: Callable[[Call], Sequence[Labels]]
    example: Callable[[], tuple[nn.Module, torch.Tensor]]
    infer: Callable[[Any, tuple[Any, ...]], Any] = lambda func, args: None


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
