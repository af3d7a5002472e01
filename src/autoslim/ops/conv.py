"""Convolution: plain, depthwise, grouped, transposed."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from autoslim.ops._base import Attribute, Call, Labels, Rule, Vector, register

_SLOT_GROUPS = 4  # up to so many groups keep the same slots in each; more, and whole groups are dropped


def _keeps_slots(groups: int, channels_per_group: int) -> bool:
    return 1 < groups <= _SLOT_GROUPS and channels_per_group > 1


def _run(call: Call) -> Sequence[Labels]:
    x, weight, bias = call.arg(0, "input"), call.arg(1, "weight"), call.arg(2, "bias")
    transposed, groups = call.arg(6, "transposed"), call.arg(8, "groups")
    labels = call.labels(x)
    for dim, vector in labels.items():
        if dim != 1:
            call.pin(vector, f"dimension {dim} of a convolution's input")
    come, rows, columns = labels.get(1), call.labels(weight).get(0), call.labels(weight).get(1)
    spatial = (x if transposed else call.out).shape[2:]
    scale = call.out.shape[0] * math.prod(spatial) * math.prod(weight.shape[2:])
    sizes = [weight.shape[dim] if v is None else v for dim, v in enumerate((rows, columns))]
    call.macs("conv", scale, *sizes)
    if transposed:
        rows, columns = columns, rows
    if groups == 1:
        _read(call, call.match(come, columns) if x.shape[1] > 1 else None)
        goes = rows
    elif transposed or not _keeps_slots(groups, weight.shape[1]):
        goes = _drop_groups(
            call, come, rows if not transposed else columns, columns if not transposed else rows, groups
        )
    else:
        goes = _keep_slots(call, come, rows, columns, groups)
    if bias is not None and call.out.shape[1] > 1:
        goes = call.match(goes, call.labels(bias).get(0))
    out: Labels = {} if goes is None else {1: goes}
    if goes is not None:
        call.ledger.made.append((goes, call.module))
    call.outputs("conv", call.out, out)
    return [out]


def _read(call: Call, vector: Vector | None) -> None:
    if vector is not None:
        call.ledger.read.append(vector)


def _drop_groups(call: Call, come: Vector | None, by_group: Vector | None, within: Vector | None, groups: int):
    """Atom = a whole group: all its inputs and outputs stay or go together (a depthwise kernel is a group of one)."""
    call.pin(within, "the slots within a dropped group")
    if by_group is None or (come is None and call.args[0].shape[1] > 1):
        call.pin(come, "a grouped convolution with a fixed weight")
        call.pin(by_group, "a grouped convolution of a fixed input")
        return (
            None
            if by_group is None
            else by_group.view(groups, -1)[:, :1].expand(-1, _outputs(call) // groups).reshape(-1)
        )
    heads = by_group.view(groups, -1)
    call.tie(heads, heads[:, :1])
    if come is not None:
        call.tie(come.view(groups, -1), heads[:, :1])
        _read(call, come)
    return heads[:, :1].expand(-1, _outputs(call) // groups).reshape(-1)


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


def _outputs(call: Call) -> int:
    return call.out.shape[1]


def _attributes(module: nn.Module) -> tuple[Attribute, ...]:
    if not isinstance(module, _ConvNd):
        return ()
    come, goes = ("out_channels", "in_channels") if module.transposed else ("in_channels", "out_channels")
    if module.groups == 1:
        return Attribute(goes, "weight", 0), Attribute(come, "weight", 1)
    rows, columns = module.weight.shape[:2]
    if module.transposed or not _keeps_slots(module.groups, columns):
        per_group = rows // module.groups
        return (
            Attribute(goes, "weight", 0),
            Attribute(come, "weight", 0, scale=columns, unit=per_group),
            Attribute("groups", "weight", 0, unit=per_group),
        )
    return Attribute(goes, "weight", 0), Attribute(come, "weight", 1, scale=module.groups)


def _example() -> tuple[nn.Module, torch.Tensor]:
    convs = [nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 24, 1, groups=2)]
    convs += [nn.Conv2d(24, 24, 3, groups=6, padding=1), nn.ConvTranspose2d(24, 8, 2, stride=2), nn.Conv2d(8, 4, 1)]
    return nn.Sequential(*convs), torch.randn(1, 3, 9, 9)


register("conv", Rule(("aten.convolution", "aten._convolution"), _run, _example, _attributes))
