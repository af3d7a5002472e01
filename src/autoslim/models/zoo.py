"""`zoo:NAME`: the networks that no library ships, one file of this shelf each."""

from collections.abc import Mapping
from typing import Any

from autoslim.models._base import BUILDERS, ZOO, Builder, Factory, drop_none, locate_by_name


def _names() -> list[str]:
    return sorted(ZOO)


def _factory(config: Mapping[str, Any]) -> Factory:
    make = ZOO[config["name"]]
    return Factory(label=f"zoo:{config['name']}", make=make, source=make)


def _inputs(factory: Factory, num_classes: int | None, in_channels: int | None) -> dict[str, Any]:
    return drop_none(num_classes=num_classes, in_channels=in_channels)


BUILDERS.register("zoo", Builder(names=_names, locate=locate_by_name, factory=_factory, inputs=_inputs))
