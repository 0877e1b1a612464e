"""Six photographs that come with scikit-image and scikit-learn, to look at maps on."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lpa_core.shapes import UInt8

__all__ = ["load_photographs"]


def load_photographs(size: int = 32) -> tuple[list[str], UInt8[Tensor, "n s s 3"]]:
    """Their names, and the photographs cropped to squares of `size` pixels a side.

    Raises:
        ValueError: size is below 1.
    """
    from skimage import data
    from sklearn.datasets import load_sample_images

    if size < 1:
        raise ValueError(f"size {size}: give at least 1 pixel a side")
    temple, flower = load_sample_images().images
    photographs = {  # name: photograph, top, left, side of the square
        "cat": (data.chelsea(), 0, 75, 300),
        "astronaut": (data.astronaut(), 0, 60, 400),
        "coffee": (data.coffee(), 0, 100, 400),
        "rocket": (data.rocket(), 0, 130, 427),
        "temple": (temple, 0, 100, 427),
        "flower": (flower, 0, 130, 427),
    }
    shrunk = [shrink(*crop, size) for crop in photographs.values()]
    return list(photographs), torch.stack(shrunk)


def shrink(photograph, top: int, left: int, side: int, size: int) -> Tensor:
    """A square of a photograph (H, W, 3), made `size` pixels a side; uint8 (S, S, 3)."""
    square = torch.from_numpy(photograph[top : top + side, left : left + side].copy())
    small = F.interpolate(
        square.permute(2, 0, 1)[None].float(), (size, size), mode="bilinear", antialias=True
    )
    return small[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)
