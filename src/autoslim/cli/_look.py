"""A network that is looked at without data: by `trace` and `profile`."""

from torch import nn

from autoslim._console import make_console
from autoslim.models import build_without_data


def build_shown(spec: str, shape: tuple[int, ...]) -> nn.Module:
    """Builds it for images of [1, channels, height, width], and tells on stderr what had to be taken for granted."""
    model, added = build_without_data(spec, in_channels=shape[1])
    if "num_classes" in added:
        given = f"{spec}{'&' if '?' in spec else '?'}num_classes=N"
        told = f"num_classes {added['num_classes']}, for want of data; give {given}"
        make_console(stderr=True, soft_wrap=True).print(told)
    return model
