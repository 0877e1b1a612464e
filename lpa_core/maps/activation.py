"""Activation-based maps: where a layer is active, for any reason (figures 3, 4, 7).

Zagoruyko & Komodakis 2016, "Paying More Attention to Attention". They need no parameters
and no training, and exist for every layer of every network.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lpa_core.networks import Network
from lpa_core.networks.hooks import forward_hooks
from lpa_core.shapes import Float

__all__ = ["activation_map", "activation_maps", "find_layer"]


def activation_map(
    activations: Float[Tensor, "b c h w"], power: float = 2
) -> Float[Tensor, "b h w"]:
    """The sum over channels of absolute activations to a power (their F_sum^p, p = 2).

    Raises:
        ValueError: the power is not above zero.
    """
    if not power > 0:
        raise ValueError(f"power {power!r}: give a number above 0 (the paper's is 2)")
    return activations.abs().pow(power).sum(dim=1)


@torch.no_grad()
def activation_maps(
    network: Network,
    images: Float[Tensor, "b 3 h w"],
    layers: Sequence[str],
) -> dict[str, Float[Tensor, "b _ _"]]:
    """The activation-based map of each named layer, {"layer10": (B, h, w), …}.

    Args:
        network: in evaluation mode.
        images: normalised, as the network takes them.
        layers: names of layers with a spatial output, e.g. "layer10".

    Raises:
        ValueError: the network has no such layer, or its output has no positions.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        outputs[name] = output.detach().clone()  # an in-place ReLU may follow

    with forward_hooks({name: find_layer(network, name) for name in layers}, keep):
        network(images)
    for name, output in outputs.items():
        if output.dim() != 4:
            raise ValueError(
                f"the output of {name!r} has shape {tuple(output.shape)}: name a layer "
                "with a spatial output (B, C, H, W)"
            )
    return {name: activation_map(outputs[name]) for name in layers}


def find_layer(network: nn.Module, name: str) -> nn.Module:
    """The module with a name, in full ("trunk.layer10") or by its last part ("layer10").

    If parts of a network's head have the same name, the outermost module is returned.

    Raises:
        ValueError: there is none, or several at the same depth.
    """
    modules = {path: module for path, module in network.named_modules() if path}
    if name in modules:
        return modules[name]
    found = [path for path in modules if path.rpartition(".")[2] == name]
    depth = min((path.count(".") for path in found), default=0)
    found = [path for path in found if path.count(".") == depth]
    if len(found) == 1:
        return modules[found[0]]
    if found:
        raise ValueError(f"{name!r} is ambiguous: choose one of {', '.join(found)}")
    layers = [path for path in modules if "layer" in path.rpartition(".")[2]] or modules
    raise ValueError(f"this network has no layer {name!r}; it has {', '.join(layers)}")
