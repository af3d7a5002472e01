"""A model's name in, the network out; and its description, which a saved network is rebuilt from.

`torchvision:NAME`, `timm:NAME` and `zoo:NAME` name a network of a library, `path/to/file.py:FACTORY` one of the user's
own. Arguments follow as a query: `zoo:mobilenet_small?width_mult=0.5`. Weights are never downloaded.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from autoslim.errors import ModelError
from autoslim.models._base import BUILDERS, Factory, find_required, make_network
from autoslim.models._spec import pack_value, parse_spec, unpack_value

_CLASSES = 10  # where no data says how many


def build_model(spec: str, *, num_classes: int | None = None, in_channels: int | None = None) -> nn.Module:
    """Builds a network, with fresh weights.

    Args:
        spec: `torchvision:NAME`, `timm:NAME`, `zoo:NAME` or `path/to/file.py:FACTORY`, and the builder's arguments:
            `?name=value&name=value`, each a Python literal or else a string. They win over the two below.
        num_classes: Classes of the output; None leaves the builder's own. A file's factory that does not know it
            goes without.
        in_channels: Channels of the input images; likewise.

    Raises:
        UnknownNameError: No such network; the message lists the closest names.
        ModelError: The arguments do not fit, or the file is missing, fails, or makes no network.

    >>> build_model("zoo:resnet_digits?width=8", num_classes=4).head
    Linear(in_features=32, out_features=4, bias=True)
    """
    return rebuild_model(describe_model(spec, num_classes=num_classes, in_channels=in_channels))


def build_without_data(spec: str, *, in_channels: int) -> tuple[nn.Module, dict[str, int]]:
    """Builds a network to be looked at, where no data says how many classes there are.

    Args:
        spec: As for `build_model`, which raises the same.
        in_channels: Channels of the example images, for a factory that can't be called without them.

    Returns:
        The network, and the arguments that nobody gave: its factory has no default of its own for them.

    >>> build_without_data("zoo:resnet_digits", in_channels=1)[1]
    {}
    """
    config = describe_model(spec)
    factory, arguments = _read_config(config)
    known = BUILDERS[config["builder"]].inputs(factory, _CLASSES, in_channels)
    added = {name: known[name] for name in find_required(factory.source) if name in known and name not in arguments}
    return rebuild_model({**config, "arguments": {**arguments, **added}}), added


def describe_model(spec: str, *, num_classes: int | None = None, in_channels: int | None = None) -> dict[str, Any]:
    """What `build_model` would build from the same arguments, as JSON. Takes and raises the same; builds nothing.

    Returns:
        "builder" (torchvision, timm, zoo or file), "name" and "arguments". For a file also its absolute "path", the
        "factory" in it, and the "sha256" of its bytes; other files that it imports are not part of that. An argument
        that JSON can't hold, a tuple say, is {"literal": its text}.

    >>> describe_model("zoo:resnet_digits?width=8", num_classes=4)
    {'builder': 'zoo', 'name': 'resnet_digits', 'arguments': {'num_classes': 4, 'width': 8}}
    """
    parsed = parse_spec(spec)
    builder = BUILDERS[parsed.builder]
    where = builder.locate(parsed.name)
    written = {name: pack_value(text) for name, text in parsed.texts.items()}
    inputs = builder.inputs(builder.factory(where), num_classes, in_channels)
    return {"builder": parsed.builder, "name": where["name"], "arguments": {**inputs, **written}, **where}


def rebuild_model(config: Mapping[str, Any]) -> nn.Module:
    """Builds the network that `describe_model` described, with fresh weights.

    Args:
        config: The description, as it was or as read back from JSON.

    Raises:
        ModelError: The description is not whole, its file is missing or no longer the same, or building fails.
        UnknownNameError: The library no longer has this network.

    >>> rebuild_model(describe_model("zoo:resnet_digits", num_classes=4)).head
    Linear(in_features=64, out_features=4, bias=True)
    """
    factory, arguments = _read_config(config)
    return make_network(factory, {name: unpack_value(value) for name, value in arguments.items()})


def _read_config(config: Mapping[str, Any]) -> tuple[Factory, Mapping[str, Any]]:
    _require(config, ("builder", "arguments"))
    builder = BUILDERS[config["builder"]]
    _require(config, builder.keys)
    if not isinstance(config["arguments"], Mapping):
        raise ModelError(
            f"Model description: `arguments` is {config['arguments']!r}; expected names to values. "
            "Take what `describe_model` gave."
        )
    return builder.factory(config), config["arguments"]


def _require(config: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    missing = [key for key in keys if key not in config]
    if missing:
        raise ModelError(
            f"Model description {dict(config)!r}: no `{missing[0]}`; expected `builder`, `arguments` and "
            f"{', '.join(f'`{key}`' for key in keys)}. Take what `describe_model` gave."
        )
