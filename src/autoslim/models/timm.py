"""`timm:NAME`: any network that timm lists, without its weights. A tag (`NAME.TAG`) only sets timm's own defaults."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from autoslim._registry import unknown_name
from autoslim.models._base import BUILDERS, Builder, Factory, drop_none, locate_by_name

_WEIGHTS = frozenset({"pretrained", "checkpoint_path"})


def _library() -> Any:
    import timm

    return timm


def _names() -> list[str]:
    return _library().list_models()


def _factory(config: Mapping[str, Any]) -> Factory:
    name: str = config["name"]
    timm = _library()
    if not timm.is_model(name):  # also keeps out "hf-hub:..." names, which timm would fetch
        raise unknown_name("timm model", name, _names())
    make = partial(timm.create_model, name, pretrained=False)
    return Factory(label=f"timm:{name}", make=make, source=timm.model_entrypoint(name.split(".")[0]), refused=_WEIGHTS)


def _inputs(factory: Factory, num_classes: int | None, in_channels: int | None) -> dict[str, Any]:
    return drop_none(num_classes=num_classes, in_chans=in_channels)


BUILDERS.register("timm", Builder(names=_names, locate=locate_by_name, factory=_factory, inputs=_inputs))
