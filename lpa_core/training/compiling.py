"""torch.compile for the network on a GPU: where it pays, and going on where it fails."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lpa_core.data import TrainLoader
from lpa_core.training.precision import autocast

__all__ = ["compiled", "compiled_if_it_pays", "pays"]

# One H200, full-width vgg-att2-concat-pc, torch 2.11, before steps were replayed as CUDA
# graphs: 105 s of compiling for four image sizes took ten epochs of 50,000 images from
# about 105 s to about 73 s. What is gained beyond a graph has not been measured yet.
COMPILING = 105 / 4  # seconds an image size
GAIN = (105 - 73) / (10 * 50_000)  # seconds an image


def pays(device: torch.device, images: int, sizes: int) -> bool:
    """Whether compiling gains more than it takes.

    Args:
        images: how many the run still trains on, each counted as often as it is shown.
        sizes: in how many image sizes.
    """
    return device.type == "cuda" and images * GAIN > sizes * COMPILING


def compiled_if_it_pays(
    network: nn.Module,
    loader: TrainLoader,
    sizes: Sequence[int],
    precision: str,
    compile: bool | None,
) -> nn.Module:
    """What a step calls: the network, compiled where that is asked for or pays.

    Args:
        sizes: of the images, in each epoch that is left.
        compile: None leaves it to `pays`.
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
    """A network as training calls it: compiled, or itself where that cannot be.

    The step is recorded as a CUDA graph with or without it. Graphs are of fixed shapes,
    hence `dynamic=False`: it compiles once an image size, of which the fast recipe has
    four. All of that is done here, on `batches`, so that whatever fails, fails here.

    Args:
        network: in training mode; parameters and buffers are left as they are, their
            names too.
        batches: images (B, 3, h, w) of every size that training will use.
        context: the forward pass runs within `context()`.

    Returns:
        What to call in place of the network; the network, after a warning with the
        reason, where compiling failed (no Triton, no compiler, …).
    """
    torch.compiler.reset()  # other networks' graphs count against a limit
    fast: Any = torch.compile(network, dynamic=False)
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        for images in batches:
            with context():
                logits = fast(images)
            logits.float().sum().backward()
            network.zero_grad()
        return fast
    except Exception as error:  # Triton's, a compiler's, a driver's: each has its own kind
        # "backend='inductor' raised:", and what it raised in the second line.
        reason = " ".join(str(error).strip().splitlines()[:2])
        warnings.warn(
            f"torch.compile failed, going on without: {type(error).__name__}: {reason}",
            stacklevel=2,
        )
        return network
    finally:
        network.zero_grad()
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
