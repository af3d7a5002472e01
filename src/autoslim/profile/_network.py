"""The profile of one network: its costs, what each layer has of them, and its latency here."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from autoslim.costs import make_cost
from autoslim.extract import extract_network
from autoslim.runtimes import Latency, find_runtime, measure_networks
from autoslim.trace import trace_channels
from autoslim.widths import Widths

_CHANNELS = ("out_channels", "out_features", "num_features")


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """One module with parameters of its own or MACs. `channels`: what it puts out, None for other than usual layers."""

    layer: str
    kind: str
    channels: int | None
    params: int
    macs: int
    share: float
    """Of the network's MACs, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A network's costs for the traced input; latency in milliseconds for one image, None if not asked.

    `memory` is the paper's: elements of parameters and of what convolutions, linear layers and average pools put out;
    `peak_memory` is bytes: weights, input, and the largest set of tensors alive at once.
    """

    params: int
    memory: int
    peak_memory: int
    macs: int
    latency_ms: Latency | None
    layers: tuple[LayerProfile, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def profile_network(
    model: nn.Module,
    x: torch.Tensor,
    *,
    widths: Widths | None = None,
    latency: bool = True,
    runtime: str = "torch",
    threads: int = 1,
    precision: str = "fp32",
) -> Profile:
    """Traces a network and tells its costs.

    Args:
        model: Left untouched.
        x: Images [N, C, H, W]; costs are counted for all of them, latency is measured on the first.
        widths: Of a sub-network, which is then extracted and profiled instead.
        latency: Whether to measure it.
        runtime: What measures it: a runtime's name, as `find_runtime` takes it.
        threads: Of the runtime.
        precision: Of the runtime.

    Raises:
        ConfigError: The runtime has no such precision, or no thread.
        RuntimeFailedError: It can't run the network.
        ModelError: The model fails on these images.
        WidthsError: The widths don't fit the network.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 2))
    >>> profile = profile_network(model, torch.zeros(1, 3, 4, 4), widths=Widths({"0": 4, "2": 2}), latency=False)
    >>> profile.params, profile.macs, [layer.channels for layer in profile.layers]
    (146, 464, [4, 2])
    """
    graph = trace_channels(model, x)
    widths = graph.max_widths() if widths is None else widths
    atoms = graph.atoms(widths)
    small = extract_network(model, graph, widths)
    macs = Counter[str]()
    for term in graph.macs:
        macs[term.module] += term(atoms)
    layers: list[LayerProfile] = []
    counted: set[int] = set()
    for name, module in small.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in counted]  # shared ones once, where first
        counted.update(map(id, own))
        if own or macs[name]:
            layers.append(
                LayerProfile(
                    layer=name,
                    kind=type(module).__name__,
                    channels=_channels(module),
                    params=sum(p.numel() for p in own),
                    macs=macs[name],
                    share=macs[name] / max(macs.total(), 1),
                )
            )
    costs = {name: int(make_cost(name, graph)(widths)) for name in ("params", "memory", "peak_memory", "macs")}
    setting: dict[str, Any] = {"threads": threads, "precision": precision}
    measured = measure_networks(find_runtime(runtime), [small], x[:1], **setting)[0] if latency else None
    return Profile(**costs, latency_ms=measured, layers=tuple(layers))


def _channels(module: nn.Module) -> int | None:
    return next((value for name in _CHANNELS if isinstance(value := getattr(module, name, None), int)), None)
