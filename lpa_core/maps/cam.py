"""Grad-CAM on a network without attention (Selvaraju et al. 2017), by the library grad-cam.

The channels of a layer are weighted with the mean gradient of the predicted class's logit
and summed. Negative values, which are evidence against the class, become zero.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lpa_core.maps.activation import find_layer
from lpa_core.networks import Network
from lpa_core.networks.hooks import forward_hooks
from lpa_core.shapes import Float, Int

__all__ = ["grad_cam", "last_spatial_layer"]


def grad_cam(
    network: Network,
    images: Float[Tensor, "b 3 h w"],
    layer: str | None = None,
    classes: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, "b h w"]:
    """Maps of the images' size, each from 0 to 1; all zero without evidence for the class.

    Args:
        network: in evaluation mode.
        images: normalised, as the network takes them.
        layer: the layer with the weighted output; None takes the last convolution with a
            spatial output.
        classes: the classes to explain, one per image; None takes the predicted ones.

    Raises:
        ImportError: the library is not installed.
        ValueError: the network has no such layer.
    """
    library, target_of = library_parts()
    target = find_layer(network, layer or last_spatial_layer(network))
    if classes is None:
        with torch.no_grad():
            logits: Tensor = network(images)
        classes = logits.argmax(dim=1)
    with torch.enable_grad(), library(network, [target]) as explain:
        targets = [target_of(label) for label in classes.tolist()]
        # The library's types ask for modules, but its own targets are not modules.
        maps = explain(images, targets)  # pyright: ignore[reportArgumentType]
    network.zero_grad(set_to_none=True)  # the library leaves gradients behind
    return torch.from_numpy(maps)


def library_parts():
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise ImportError(
            "Grad-CAM needs the package grad-cam, which is not installed: "
            f"pip install grad-cam ({error})"
        ) from error
    return GradCAM, ClassifierOutputTarget


@torch.no_grad()
def last_spatial_layer(network: Network) -> str:
    """The block of the last convolution that has more than one position.

    For the VGG that is layer 13, with a map of 2x2 at 32x32 pixels and 3x3 at 80x80.

    Raises:
        ValueError: the network has no such convolution.
    """
    found: list[str] = []

    def note(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        if output.shape[-2] * output.shape[-1] > 1:
            found.append(name)

    convolutions = {
        name: module
        for name, module in network.named_modules()
        # a convolution to a single channel scores positions for attention
        if isinstance(module, nn.Conv2d) and module.out_channels > 1
    }
    device, size = next(network.parameters()).device, network.image_size
    with forward_hooks(convolutions, note):
        network(torch.zeros(1, 3, size, size, device=device))
    if not found:
        raise ValueError("this network has no convolution with more than one position")
    block = found[-1].rpartition(".")[0]
    # The block's output (after the activation) is weighted, not that of the convolution.
    return block if "layer" in block.rpartition(".")[2] else found[-1]
