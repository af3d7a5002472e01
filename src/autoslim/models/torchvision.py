"""`torchvision:NAME`: any network that torchvision lists, without its weights."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from autoslim._registry import unknown_name
from autoslim.errors import ModelError
from autoslim.models._base import BUILDERS, Builder, Factory, drop_none, locate_by_name, read_parameters

_WEIGHTS = frozenset({"weights", "weights_backbone", "pretrained", "pretrained_backbone"})
_NO_INIT = ("googlenet", "inception_v3")  # their own initialisation is slow, and warns that its default will change


def _library() -> Any:
    from torchvision import models

    return models


def _names() -> list[str]:
    return _library().list_models()


def _factory(config: Mapping[str, Any]) -> Factory:
    name: str = config["name"]
    if name not in _names():
        raise unknown_name("torchvision model", name, _names(), hint="Weights and tags are no part of a name.")
    source = _library().get_model_builder(name)
    fixed: dict[str, Any] = {"weights": None}
    if "weights_backbone" in read_parameters(source)[0]:  # detection and segmentation would download these by default
        fixed["weights_backbone"] = None
    if name.removeprefix("quantized_") in _NO_INIT:
        fixed["init_weights"] = False
    return Factory(label=f"torchvision:{name}", make=partial(source, **fixed), source=source, refused=_WEIGHTS)


def _inputs(factory: Factory, num_classes: int | None, in_channels: int | None) -> dict[str, Any]:
    if in_channels not in (None, 3):
        raise ModelError(
            f"Model `{factory.label}`: in_channels={in_channels}, but torchvision builds networks for colour images "
            "only; expected 3. Give `--input` with 3 channels, or take a network from timm or from a file of your own."
        )
    return drop_none(num_classes=num_classes)


BUILDERS.register("torchvision", Builder(names=_names, locate=locate_by_name, factory=_factory, inputs=_inputs))
