"""What a network costs: shapes, parameters and multiply-adds, layer by layer, counted."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lpa_core.networks.base import Network

__all__ = ["Layer", "count_parameters", "layer_table", "multiply_adds"]


@dataclass(frozen=True)
class Layer:
    """One layer of a network, for one image.

    Attributes:
        name: where it stands in the network.
        kind: its class.
        shape: (C, H, W) or (C,) of its output.
        parameters: how many numbers it learns.
        multiply_adds: of its forward pass.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def count_parameters(module: nn.Module) -> int:
    """How many numbers a module learns; a shared one counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def one_image(network: Network) -> Tensor:
    parameter = next(network.parameters())
    size = network.image_size
    return torch.zeros(1, 3, size, size, device=parameter.device)


def multiply_adds(network: Network) -> int:
    """Multiply-adds of one image's forward pass: convolutions and matrix products."""
    return count_flops(network).get_total_flops() // 2


def count_flops(network: Network) -> FlopCounterMode:
    counter = FlopCounterMode(display=False)
    was_training = network.training
    network.eval()
    with counter, torch.no_grad():
        network(one_image(network))
    network.train(was_training)
    return counter


def layer_table(network: Network) -> list[Layer]:
    """The layers that a network's authors would list, in the order they compute in.

    These are the modules directly below the network's parts: convolutions with their
    normalisation and activation, poolings, linear layers, estimators.
    """
    flops = count_flops(network).get_flop_counts()
    prefix = type(network).__name__
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = []

    def note(name):
        def hook(module, inputs, output):
            out = output[0] if isinstance(output, tuple) else output
            if isinstance(out, Tensor):
                shapes[name] = tuple(out.shape[1:])

        return hook

    listed = dict(listed_modules(network))
    for name, module in listed.items():
        hooks.append(module.register_forward_hook(note(name)))
    was_training = network.training
    network.eval()
    with torch.no_grad():
        network(one_image(network))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    return [
        Layer(
            name=name,
            kind=type(listed[name]).__name__,
            shape=shape,
            parameters=count_parameters(listed[name]),
            multiply_adds=sum(flops.get(f"{prefix}.{name}", {}).values()) // 2,
        )
        for name, shape in shapes.items()
    ]


def listed_modules(network: Network):
    for part, module in network.named_children():
        children = list(module.named_children())
        if not children:
            yield part, module
        for name, child in children:
            below = list(child.named_children())
            if isinstance(child, nn.ModuleDict):
                yield from ((f"{part}.{name}.{key}", value) for key, value in below)
            else:
                yield f"{part}.{name}", child
