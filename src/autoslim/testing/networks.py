"""The one equality a channel graph stands on: in place == extracted == masked, and cost == counted."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from autoslim._tensors import output_tensors
from autoslim.extract import copy_model, extract_network
from autoslim.graph import ChannelGraph
from autoslim.supernet import Supernet
from autoslim.widths import Widths


def randomise_(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Random values for all that is initialised to a constant, in float64: zeros and ones hide wrong ties."""
    generator = torch.Generator().manual_seed(seed)
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            if (parameter.numel() > 1 and parameter.std() < 1e-3) or parameter.dim() <= 1:
                parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype) + 0.5)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype) + 0.5)
    return model


def mask_network(model: nn.Module, graph: ChannelGraph, widths: Widths) -> nn.Module:
    """The full-width network in which nobody reads a removed channel: those columns of the weights are zero.

    Made without slicing, so that it can hold slicing to account. Valid where no operator mixes channels but
    convolutions and linear layers.
    """
    masked = copy_model(model)
    chosen = graph.selection(widths)
    with torch.no_grad():
        for name, module in masked.named_modules():
            if isinstance(module, (_ConvNd, nn.Linear)):
                dim = 0 if isinstance(module, _ConvTransposeNd) else 1
                kept = chosen.get(f"{name}.weight" if name else "weight", {}).get(dim)
                if kept is not None:
                    keep = torch.zeros(module.weight.shape[dim], dtype=module.weight.dtype)
                    keep[kept] = 1
                    shape = [-1 if d == dim else 1 for d in range(module.weight.dim())]
                    module.weight.mul_(keep.view(shape))
    return masked


def any_widths(graph: ChannelGraph, seed: int) -> Widths:
    """Any whole number of atoms in each group: candidates bind the search only."""
    generator = torch.Generator().manual_seed(seed)
    return Widths({
        g.name: g.size if g.frozen else g.atom * int(torch.randint(1, g.atoms + 1, (), generator=generator))
        for g in graph.groups
    })  # fmt: skip


def outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    """Every tensor the model gives for these inputs."""
    with torch.no_grad():
        return output_tensors(model(*inputs))


def counted_macs(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    """Multiply-accumulates by torch's own counter, which is told of the attention kernel it does not know."""
    attention: dict[Any, Any] = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _count_attention}
    with FlopCounterMode(display=False, custom_mapping=attention) as counter, torch.no_grad():
        model(*inputs)
    return counter.get_total_flops() // 2


def _count_attention(query: Any, key: Any, value: Any, *rest: Any, out_val: Any = None, **options: Any) -> int:
    return sdpa_flop_count(query, key, value)


def check_subnetwork(
    model: nn.Module, graph: ChannelGraph, widths: Widths, inputs: tuple[Any, ...], *, masked: bool = True
) -> None:
    """Asserts in place == extracted (and == masked), cost == counted, for a float64 model in eval mode.

    Args:
        model: The full network, after `randomise_`.
        graph: Its graph.
        widths: The sub-network.
        inputs: float64 inputs.
        masked: Also compare with the masked full network; False where a statistic over channels changes the meaning.
    """
    small = extract_network(model, graph, widths)
    net = Supernet(model, graph)
    with net.at(widths):
        in_place = outputs(net, inputs)
    for ours, theirs in zip(in_place, outputs(small, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    if masked:
        for ours, theirs in zip(in_place, outputs(mask_network(model, graph, widths), inputs), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    atoms = graph.atoms(widths)
    assert sum(term(atoms) for term in graph.macs) == counted_macs(small, inputs)
    shapes = {name: tuple(p.shape) for name, p in small.named_parameters()}
    for name, dims in graph.selection(widths).items():
        if name in shapes:
            assert all(shapes[name][dim] == len(kept) for dim, kept in dims.items())
