"""torch.compile for the network on a GPU: when it pays off, and a fallback if it fails."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lpa_core.data import TrainLoader
from lpa_core.training.precision import autocast

__all__ = ["compiled", "compiled_if_it_pays", "pays"]

# One H200, full-width vgg-att2-concat-pc, torch 2.11, before steps were replayed as CUDA
# graphs: compiling for four image sizes took 105 s and reduced ten epochs of 50,000 images
# from about 105 s to about 73 s. The gain on top of a CUDA graph is not measured yet.
COMPILING = 105 / 4  # seconds per image size
GAIN = (105 - 73) / (10 * 50_000)  # seconds per image


def pays(device: torch.device, images: int, sizes: int) -> bool:
    """Whether compiling saves more time than it takes.

    Args:
        images: how many images the run still trains on; each epoch counts them again.
        sizes: the number of different image sizes.
    """
    return device.type == "cuda" and images * GAIN > sizes * COMPILING


def compiled_if_it_pays(
    network: nn.Module,
    loader: TrainLoader,
    sizes: Sequence[int],
    precision: str,
    compile: bool | None,
) -> nn.Module:
    """The module that a step calls: the network, compiled if requested or if it pays off.

    Args:
        sizes: image sizes of the remaining epochs.
        compile: None lets `pays` decide.
    """
    device = loader.labels.device
    if compile is None:
        images = len(sizes) * len(loader) * loader.batch_size
        compile = pays(device, images, len(set(sizes)))
    if not (compile and sizes):
        return network
    batches = [next(loader.epoch(0, 0, size))[0] for size in set(sizes)]
    return compiled(network.train(), batches, lambda: autocast(precision, device))


def compiled(network: nn.Module, batches: Iterable[Tensor], context) -> nn.Module:
    """The compiled network, or the network itself if compiling fails.

    The step is recorded as a CUDA graph in either case. Graphs have fixed shapes, so
    `dynamic=False` compiles once per image size; the fast recipe has four. All sizes are
    compiled here, on `batches`, so that every failure happens here.

    Args:
        network: in training mode; its parameters, its buffers and their names do not
            change.
        batches: images (B, 3, h, w) of every size that training will use.
        context: the forward pass runs within `context()`.

    Returns:
        The module to call instead of the network; the network itself, after a warning
        with the reason, if compiling failed (no Triton, no compiler, …).
    """
    torch.compiler.reset()  # graphs of other networks count towards a limit
    fast: Any = torch.compile(network, dynamic=False)
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        for images in batches:
            with context():
                logits = fast(images)
            logits.float().sum().backward()
            network.zero_grad()
        return fast
    except Exception as error:  # Triton, a compiler and a driver raise different types
        # "backend='inductor' raised:", and what it raised in the second line.
        reason = " ".join(str(error).strip().splitlines()[:2])
        warnings.warn(
            f"torch.compile failed, continuing without: {type(error).__name__}: {reason}",
            stacklevel=2,
        )
        return network
    finally:
        network.zero_grad()
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
