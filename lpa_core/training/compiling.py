"""torch.compile for the training step on a GPU, and going on without it where it fails."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["compiled"]

STEPS = 3  # compiles, then records CUDA graphs, then replays them


def compiled(network: nn.Module, batches: Iterable[Tensor], context) -> nn.Module:
    """A network as training calls it: compiled, or itself where that is not to be had.

    "reduce-overhead" replays a step's kernels as CUDA graphs: small images and narrow
    networks leave a GPU waiting for its next kernel otherwise. Graphs are of fixed shapes,
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
    fast: Any = torch.compile(network, dynamic=False, mode="reduce-overhead")
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        for images in batches:
            for _ in range(STEPS):
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
