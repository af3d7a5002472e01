"""What an operator's declaration says: whether it is a view, what it writes to, what it gives back."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch.utils._pytree import tree_leaves


def leaves_of(out: Any) -> list[Any]:
    """What an operator returns, one after the other: tensors, numbers, or lists of tensors."""
    return [out] if isinstance(out, torch.Tensor) else tree_leaves(out)


def shaped(func: Any, leaves: list[Any]) -> Any:
    """The inverse of `leaves_of`."""
    returns = func._schema.returns
    if len(returns) == len(leaves):
        return leaves[0] if len(leaves) == 1 else tuple(leaves)
    return leaves  # a single list of tensors


@cache
def is_view(func: Any) -> bool:
    """Whether an operator computes nothing, but gives its argument's memory in another form."""
    returns = func._schema.returns
    return bool(returns) and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)


@cache
def _gives_back(func: Any) -> bool:
    return any(one.alias_info is not None and one.alias_info.is_write for one in func._schema.returns)


def _given(func: Any, args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
    """Each argument's declaration and value."""
    for at, argument in enumerate(func._schema.arguments):
        if at < len(args):
            yield argument, args[at]
        elif argument.name in kwargs:
            yield argument, kwargs[argument.name]


def written_by(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The arguments that an operator writes to."""
    declared = [value for one, value in _given(func, args, kwargs) if one.alias_info and one.alias_info.is_write]
    return [leaf for leaf in tree_leaves(declared) if isinstance(leaf, torch.Tensor)]


def returned(func: Any, args: Any, kwargs: Any, out: Any) -> Any:
    """The outputs, where an operator that writes to an argument gives that very argument back."""
    if not _gives_back(func):
        return out
    returns = func._schema.returns
    names = {
        next(iter(one.alias_info.before_set)): value
        for one, value in _given(func, args, kwargs)
        if one.alias_info is not None and one.alias_info.is_write
    }
    outs = [
        value if one.alias_info is None else names[next(iter(one.alias_info.before_set))]
        for one, value in zip(returns, (out,) if len(returns) == 1 else out, strict=True)
    ]
    return outs[0] if len(outs) == 1 else tuple(outs)
