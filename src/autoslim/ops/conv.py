"""Convolution: plain, depthwise, grouped, transposed."""

import math
from collections.abc import Sequence
from fnmatch import fnmatch

import torch
from torch import nn

from autoslim.ops._base import Call, Labels, Rule, Vector, register

_SLOT_GROUPS = 4  # up to so many groups keep the same slots in each; more, and whole groups are dropped


def _run(call: Call) -> Sequence[Labels]:
    x, weight, bias = call.arg(0, "input"), call.arg(1, "weight"), call.arg(2, "bias")
    transposed, groups = call.arg(6, "transposed"), call.arg(8, "groups")
    labels = call.labels(x)
    along = {dim: vector for dim, vector in labels.items() if dim > 1 and x.shape[dim] == call.out.shape[dim]}
    for dim, vector in labels.items():
        if dim in along:
            call.note(vector, "a convolution along channels")
        elif dim != 1:
            call.pin(vector, f"dimension {dim} of a convolution's input")
    come, rows, columns = labels.get(1), call.labels(weight).get(0), call.labels(weight).get(1)
    _count_macs(call, x if transposed else call.out, weight, (rows, columns), along)
    if transposed:
        rows, columns = columns, rows
    heads, policy = None, _policy(call, groups, weight.shape[1], transposed=transposed)
    if policy == "whole":
        _read(call, call.match(come, columns) if x.shape[1] > 1 else None)
        goes = rows
    elif policy == "slots":
        goes = _keep_slots(call, come, rows, columns, groups)
    else:
        by_group, within = (columns, rows) if transposed else (rows, columns)
        goes, heads = _drop_groups(call, come, by_group, within, groups)
    if bias is not None and call.out.shape[1] > 1:
        goes = call.match(goes, call.labels(bias).get(0))
    out = along if goes is None else {1: goes, **along}
    if goes is not None:
        call.ledger.made.append((goes, call.module))
    call.outputs("conv", call.out, out)
    call.names(in_channels=come, out_channels=goes, groups=heads)
    call.integers([groups], [heads])
    return [out]


def _count_macs(
    call: Call, mapped: torch.Tensor, weight: torch.Tensor, sides: tuple[Vector | None, ...], along: Labels
) -> None:
    whole = [size for dim, size in enumerate(mapped.shape) if dim != 1 and dim not in along]
    sizes = [weight.shape[dim] if vector is None else vector for dim, vector in enumerate(sides)]
    call.macs("conv", math.prod(whole) * math.prod(weight.shape[2:]), *sizes, *along.values())


def _policy(call: Call, groups: int, channels_per_group: int, *, transposed: bool) -> str:
    """How a convolution loses channels: "whole" (it has no groups), "slots" or "groups".

    Decided at full width, once for each convolution that a module runs: its own, or functional ones in turn. A narrower
    one that has a single group left is still one that loses groups.
    """
    policy = "slots" if groups <= _SLOT_GROUPS and channels_per_group > 1 else "groups"
    for pattern, asked in call.ledger.grouped.items():
        policy = asked if fnmatch(call.module, pattern) else policy
    policy = "whole" if groups == 1 else "groups" if transposed else policy
    which = call.module, call.ledger.ran[call.module]
    call.ledger.ran[call.module] += 1
    return call.ledger.policies.setdefault(which, policy)


def _read(call: Call, vector: Vector | None) -> None:
    if vector is not None:
        call.ledger.read.append(vector)


def _drop_groups(
    call: Call, come: Vector | None, by_group: Vector | None, within: Vector | None, groups: int
) -> tuple[Vector | None, Vector | None]:
    """Atom = a whole group: all its inputs and outputs stay or go together (a depthwise kernel is a group of one).

    Returns:
        The labels of the output's channels, and one label per group.
    """
    call.pin(within, "the slots within a dropped group")
    if by_group is None or (come is None and call.args[0].shape[1] > 1):
        call.pin(come, "a grouped convolution with a fixed weight")
        call.pin(by_group, "a grouped convolution of a fixed input")
        return None, None
    slots = by_group.view(groups, -1)
    heads = slots[:, 0]
    call.tie(slots, heads[:, None])
    if come is not None:
        call.tie(come.view(groups, -1), heads[:, None])
        _read(call, come)
    return heads.repeat_interleave(call.out.shape[1] // groups), heads


def _keep_slots(call: Call, come: Vector | None, rows: Vector | None, columns: Vector | None, groups: int):
    """Atom = the same slot in every group: the number of groups stays."""
    if come is not None:
        slots = come.view(groups, -1)
        call.tie(slots, slots[:1])
        _read(call, call.match(slots[0], columns))
    else:
        call.pin(columns, "a grouped convolution of a fixed input")
    if rows is None:
        return None
    kernels = rows.view(groups, -1)
    call.tie(kernels, kernels[:1])
    return kernels[:1].expand(groups, -1).reshape(-1)


def _example() -> tuple[nn.Module, torch.Tensor]:
    convs = [nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 24, 1, groups=2)]
    convs += [nn.Conv2d(24, 24, 3, groups=6, padding=1), nn.ConvTranspose2d(24, 8, 2, stride=2), nn.Conv2d(8, 4, 1)]
    return nn.Sequential(*convs), torch.randn(1, 3, 9, 9)


register("conv", Rule(("aten.convolution", "aten._convolution"), _run, _example))
