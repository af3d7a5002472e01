"""`zoo:autoslim_...` and `zoo:amc_...`: networks whose channel numbers were published, as widths of a wider network.

The lists in `official.json` were published by the authors of AutoSlim (thirteen) and of AMC (two; He et al., 2018).
Each is read by its meaning: the number at a position is that of the output channels of one convolution of the network
it is a narrowing of. What the list does not name (depthwise convolutions, BatchNorm, the next layer's input) follows
from the channel groups. Skips are those of that network, also where a list happens to make two other shapes equal.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import nn

from autoslim._registry import Registry
from autoslim.errors import ModelError
from autoslim.extract import correct_scale_, extract_network
from autoslim.graph import ChannelGraph
from autoslim.models._base import BUILDERS, ZOO, make_network
from autoslim.models._spec import parse_spec, parse_value
from autoslim.trace import trace_channels
from autoslim.widths import Widths


def _resnet50_layers() -> list[str]:
    layers = ["conv1"]
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        layers.append(f"layer{stage}.0.downsample.0")
        layers += [f"layer{stage}.{block}.conv{number}" for block in range(blocks) for number in (1, 2, 3)]
    return layers


# The convolution whose output channels each position of a list counts.
_LAYERS: Mapping[str, Sequence[str]] = {
    "mobilenet_v1": ["stem.0", *(f"blocks.{block}.pointwise.0" for block in range(13))],
    "mobilenet_v2": [
        *("features.0.0", "features.1.conv.1"),
        *(f"features.{block}.conv.{part}" for block in range(2, 18) for part in ("0.0", "2")),
        "features.18.0",
    ],
    "mnasnet": [
        *("stem.0", "blocks.0.layers.3"),
        *(f"blocks.{block}.layers.{part}" for block in range(1, 17) for part in (0, 6)),
        "head.0",
    ],
    "resnet50": _resnet50_layers(),
}


@dataclass(frozen=True)
class ChannelList:
    """`channels` as published, without the number of classes; what they mean is `family`'s; widths of `base`."""

    family: str
    base: str
    channels: tuple[int, ...]


OFFICIAL: Registry[ChannelList] = Registry("official network")


def official_widths(name: str) -> tuple[str, Widths]:
    """An official network as what it is: a network to narrow, and its widths.

    Args:
        name: One of `OFFICIAL`, e.g. "autoslim_mobilenet_v2_305m".

    Returns:
        The wide network's name for `build_model`, and the widths for its channel graph at 1000 classes.

    Raises:
        UnknownNameError: No such network; the message lists the closest.

    >>> spec, widths = official_widths("autoslim_mobilenet_v1_150m")
    >>> spec, widths["stem.0"], widths["blocks.12.pointwise.0"]
    ('zoo:mobilenet_v1?width_mult=1.5', 16, 744)
    """
    listed = OFFICIAL[name]
    return listed.base, read_list(name, trace_base(listed.base), _LAYERS[listed.family], listed.channels)


def build_official(name: str, num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
    """The network itself, freshly initialised: an instance of the wide network's class with smaller layers.

    Args:
        name: One of `OFFICIAL`.
        num_classes: Logits.
        in_channels: Channels of the images.

    Raises:
        ModelError: A number of classes or channels below 1, or one that the wide network does not take.
    """
    listed = OFFICIAL[name]
    wide = _build(listed.base, num_classes, in_channels)
    graph = trace_base(listed.base, num_classes, in_channels)
    small = extract_network(wide, graph, read_list(name, graph, _LAYERS[listed.family], listed.channels))
    return correct_scale_(small, wide)


def trace_base(spec: str, num_classes: int = 1000, in_channels: int = 3) -> ChannelGraph:
    """The channel graph of a network of a library or the zoo, for one 224x224 image; kept, as it can't change."""
    return _trace(spec, num_classes, in_channels)


@lru_cache(maxsize=32)
def _trace(spec: str, num_classes: int, in_channels: int) -> ChannelGraph:
    return trace_channels(_build(spec, num_classes, in_channels), torch.zeros(1, in_channels, 224, 224))


def read_list(name: str, graph: ChannelGraph, layers: Sequence[str], channels: Sequence[int]) -> Widths:
    """The widths that give each of `layers` its number of output channels; groups that can't change stay whole.

    Raises:
        ModelError: The list has another length than `layers`, gives two numbers to one group, or none to a free one.
    """
    if len(channels) != len(layers):
        raise ModelError(
            f"Channel list `{name}`: {len(channels)} numbers; expected {len(layers)}, one for each of "
            f"{layers[0]} to {layers[-1]}. Leave out the number of classes, and nothing else."
        )
    group_of = {axis.tensor: graph.groups[axis.runs[0].group].name for axis in graph.axes if axis.dim == 0}
    given: dict[str, tuple[int, str]] = {}
    for layer, width in zip(layers, channels, strict=True):
        known, first = given.setdefault(group_of[f"{layer}.weight"], (width, layer))
        if known != width:
            raise ModelError(
                f"Channel list `{name}`: {width} channels for `{layer}`, but {known} for `{first}`; expected the same, "
                "for the two are added or filtered together. Correct one of them."
            )
    whole = {group.name: group.size for group in graph.groups if group.frozen is not None}
    if left := [group.name for group in graph.groups if group.name not in {**given, **whole}]:
        raise ModelError(
            f"Channel list `{name}`: no number for `{left[0]}`; expected one for every group of layers that can "
            "change. Name a layer of that group too."
        )
    return Widths({group.name: given.get(group.name, (group.size,))[0] for group in graph.groups})


def _build(spec: str, num_classes: int, in_channels: int) -> nn.Module:
    parsed = parse_spec(spec)
    builder = BUILDERS[parsed.builder]
    factory = builder.factory(builder.locate(parsed.name))
    arguments = {name: parse_value(text) for name, text in parsed.texts.items()}
    return make_network(factory, {**builder.inputs(factory, num_classes, in_channels), **arguments})


_FILE = Path(__file__).with_name("official.json")
for _name, _entry in json.loads(_FILE.read_text(encoding="utf-8"))["networks"].items():
    OFFICIAL.register(_name, ChannelList(_entry["family"], _entry["base"], tuple(_entry["channels"])))
    ZOO.register(_name, partial(build_official, _name))
