"""Rescaling maps to [0, 1] and resizing maps and photographs."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lpa_core.shapes import Float, UInt8

__all__ = ["enlarged", "rescale", "resize", "resize_photograph"]

# A range that is only rounding error, as a fraction of a map's largest value: a constant
# map that was resized varies by about this much.
ROUNDING = 1e-5


def rescale(
    maps: Float[Tensor, "b *n"], rounding: float = ROUNDING
) -> Float[Tensor, "b *n"]:
    """Each map rescaled to [0, 1]; a map that is constant up to rounding becomes zero."""
    dims = tuple(range(1, maps.dim()))
    low, high = maps.amin(dims, keepdim=True), maps.amax(dims, keepdim=True)
    varies = high - low > rounding * torch.maximum(low.abs(), high.abs())
    return torch.where(varies, (maps - low) / torch.where(varies, high - low, 1.0), 0.0)


def resize(
    images: Float[Tensor, "b c _ _"], height: int, width: int
) -> Float[Tensor, "b c h w"]:
    """Bilinear interpolation, with antialiasing if the images shrink."""
    return F.interpolate(images, size=(height, width), mode="bilinear", antialias=True)


def resize_photograph(
    photograph: np.ndarray | Tensor, height: int, width: int
) -> UInt8[Tensor, "h w 3"]:
    """A photograph, uint8 (H, W, 3), resized."""
    x = photograph if isinstance(photograph, Tensor) else torch.tensor(photograph)
    x = x.permute(2, 0, 1)[None].float()
    resized = resize(x, height, width)[0].permute(1, 2, 0)
    return resized.round().to(torch.uint8)


def enlarged(
    one_map: np.ndarray | Tensor, height: int, width: int
) -> Float[np.ndarray, "h w"]:
    """One map (h, w) resized to a photograph, by bilinear interpolation, in float64."""
    x = torch.as_tensor(one_map).double()[None, None]
    return F.interpolate(x, size=(height, width), mode="bilinear")[0, 0].numpy()
