"""The cost of a network: shapes, parameters and multiply-adds, counted layer by layer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lpa_core.networks.base import Network
from lpa_core.networks.hooks import evaluating, forward_hooks

__all__ = ["Layer", "count_parameters", "layer_table", "multiply_adds"]


@dataclass(frozen=True)
class Layer:
    """One layer of a network, for one image.

    Attributes:
        name: its name in the network.
        kind: its class.
        shape: (C, H, W) or (C,) of its output.
        parameters: the number of its trainable parameters.
        multiply_adds: of its forward pass.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def count_parameters(module: nn.Module) -> int:
    """The number of a module's trainable parameters; a shared one counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def one_image(network: Network) -> Tensor:
    parameter = next(network.parameters())
    size = network.image_size
    return torch.zeros(1, 3, size, size, device=parameter.device)


def multiply_adds(network: Network) -> int:
    """Multiply-adds of a forward pass of one image: convolutions and matrix products."""
    return counted(network, one_image(network))


def counted(module: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds of calling a module in evaluation mode."""
    counter = FlopCounterMode(display=False)
    with evaluating(module), torch.no_grad(), counter:
        module(*inputs)
    return counter.get_total_flops() // 2


def layer_table(network: Network) -> list[Layer]:
    """The layers that a paper would list, in the order in which they compute.

    These are the direct children of the network's parts: convolutions with their
    normalisation and activation, poolings, linear layers, estimators (whose output is
    the map). Their parameters and multiply-adds add up to those of the network.
    """
    listed = dict(listed_modules(network))
    calls: dict[str, tuple[tuple[Tensor, ...], Tensor]] = {}

    def note(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[name] = (inputs, output)

    # A network calls an estimator in steps, beginning with `scores`.
    hooked = {name: getattr(module, "score", module) for name, module in listed.items()}
    with evaluating(network), torch.no_grad(), forward_hooks(hooked, note):
        network(one_image(network))
    return [
        Layer(
            name=name,
            kind=type(listed[name]).__name__,
            shape=tuple(output.shape[1:]),
            parameters=count_parameters(listed[name]),
            multiply_adds=counted(listed[name], *inputs),
        )
        for name, (inputs, output) in calls.items()
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
