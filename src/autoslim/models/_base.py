"""What every place that networks come from has in common: how one is found, described and called."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from autoslim._registry import Registry
from autoslim.errors import AutoSlimError, ModelError


@dataclass(frozen=True, kw_only=True)
class Factory:
    """What makes one network.

    Attributes:
        label: The model's name as users write it, e.g. "timm:mobilenetv2_100"; errors begin with it.
        make: Called with the arguments. It never loads weights.
        source: The callable whose signature names the parameters; `make` may only be a wrapper around it.
        refused: Arguments that would load weights, and are therefore refused.
    """

    label: str
    make: Callable[..., object]
    source: Callable[..., object]
    refused: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Builder:
    """A place that networks come from.

    Attributes:
        names: The networks it has; none for files.
        locate: Name -> what a description says of the network besides its arguments. JSON, with the keys in `keys`.
        factory: The inverse: such a description -> the network's factory. Raises ModelError or UnknownNameError.
        inputs: (factory, num_classes, in_channels) -> the same as the arguments that the factory knows them by.
        keys: What `factory` reads from a description.
    """

    names: Callable[[], Sequence[str]]
    locate: Callable[[str], dict[str, Any]]
    factory: Callable[[Mapping[str, Any]], Factory]
    inputs: Callable[[Factory, int | None, int | None], dict[str, Any]]
    keys: tuple[str, ...] = ("name",)


BUILDERS: Registry[Builder] = Registry("model builder")
ZOO: Registry[Callable[..., nn.Module]] = Registry("zoo model")


def locate_by_name(name: str) -> dict[str, Any]:
    """`Builder.locate` of a library, where the name says it all."""
    return {"name": name}


def drop_none(**arguments: Any) -> dict[str, Any]:
    """The arguments that were given."""
    return {name: value for name, value in arguments.items() if value is not None}


def read_parameters(source: Callable[..., object]) -> tuple[list[str], bool]:
    """The parameters of `source` that can be given by name, and whether it takes any others as `**kwargs`."""
    try:
        parameters = inspect.signature(source).parameters.values()
    except (TypeError, ValueError):  # some callables of C code have no signature
        return [], True
    named = [item.name for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
    return named, any(item.kind == item.VAR_KEYWORD for item in parameters)


def find_required(source: Callable[..., object]) -> list[str]:
    """The parameters of `source` that it is never called without."""
    named, _ = read_parameters(source)
    defaults = {name: item.default for name, item in inspect.signature(source).parameters.items()} if named else {}
    return [name for name in named if defaults[name] is inspect.Parameter.empty]


def make_network(factory: Factory, arguments: Mapping[str, Any]) -> nn.Module:
    """Calls the factory.

    Raises:
        ModelError: It refuses the arguments, fails, or returns anything but a network.
    """
    said = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    called = f"Model `{factory.label}`: called with {said or 'no arguments'}, it"
    banned = sorted(factory.refused & arguments.keys())
    if banned:
        raise ModelError(
            f"Model `{factory.label}`: `{banned[0]}` loads weights; expected none, for nothing is ever downloaded. "
            "Leave it out, and load weights into the network that was built."
        )
    try:
        model = factory.make(**arguments)
    except AutoSlimError:
        raise  # says it better itself
    except Exception as error:
        raise ModelError(
            f"{called} raised {type(error).__name__}: {str(error).rstrip('.')}. By its signature it takes "
            f"{_say_parameters(factory)}. Change the arguments in the model's name (`{factory.label}?NAME=VALUE`), or "
            "correct what makes it."
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{called} returned {type(model).__name__}; expected a torch.nn.Module. Name a function or class that "
            "makes the network itself."
        )
    return model


def _say_parameters(factory: Factory) -> str:
    """The parameters by name; a builder that hands `**kwargs` to a class (both libraries' do) takes that one's too."""
    names, rest = read_parameters(factory.source)
    built = inspect.signature(factory.source).return_annotation if rest and names else None
    if isinstance(built, type):
        more, rest = read_parameters(built)
        names += [name for name in more if name not in names]
    names = [name for name in names if name not in factory.refused] + ["**kwargs"] * rest
    return ", ".join(f"`{name}`" for name in names) or "no arguments"
