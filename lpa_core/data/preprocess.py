"""Normalisation of images, fitted on a training set (Jetley et al. 2018, A.1).

`mean-std` is the simple default; `yuv` is what the authors' code used for CIFAR and VGG.
Both work on float images (B, 3, H, W) in [0, 1], on the device, a batch at a time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpa_core.shapes import Float, UInt8

__all__ = ["PREPROCESSES", "YUV", "MeanStd", "Preprocess", "build_preprocess"]


class Preprocess(nn.Module):
    """Fitted once with `fit`, then called on batches. Its numbers are its buffers."""

    def fit(self, images: UInt8[Tensor, "n h w 3"]) -> "Preprocess":
        raise NotImplementedError

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        raise NotImplementedError


def in_parts(images: UInt8[Tensor, "n h w 3"], part: int = 5000):
    """Float images (B, 3, H, W) in [0, 1], some at a time, to keep memory small."""
    for start in range(0, len(images), part):
        yield images[start : start + part].permute(0, 3, 1, 2).double().div_(255)


def channel_moments(parts) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all images and positions."""
    count, total, squares = 0, 0.0, 0.0
    for x in parts:
        count += x.shape[0] * x.shape[2] * x.shape[3]
        total = total + x.sum(dim=(0, 2, 3))
        squares = squares + x.square().sum(dim=(0, 2, 3))
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()


class MeanStd(Preprocess):
    """Each channel minus its mean, divided by its standard deviation, over the set."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))

    def fit(self, images):
        mean, std = channel_moments(in_parts(images))
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(1e-6))
        return self

    def forward(self, images):
        return (images - self.mean[:, None, None]) / self.std[:, None, None]


class YUV(Preprocess):
    """RGB -> YUV; Y by local contrast normalisation, U and V by mean and deviation.

    Local contrast: the Gaussian-weighted mean of each 7x7 neighbourhood is subtracted,
    then the result is divided by the neighbourhood's Gaussian-weighted deviation. At the
    border the weights of the pixels inside the image are rescaled to sum to one.
    """

    MATRIX = (
        (0.299, 0.587, 0.114),
        (-0.14713, -0.28886, 0.436),
        (0.615, -0.51499, -0.10001),
    )
    SMALLEST = 1e-4  # deviation below which a neighbourhood counts as flat

    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", torch.tensor(self.MATRIX), persistent=False)
        # The window of Torch7's image.gaussian1D(7): its sigma is a quarter of its size.
        taps = torch.exp(-0.5 * ((torch.arange(7) - 3) / (0.25 * 7)) ** 2)
        self.register_buffer("taps", taps / taps.sum(), persistent=False)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("std", torch.ones(2))

    def fit(self, images):
        matrix = self.matrix.double()
        uv = (torch.einsum("dc,bchw->bdhw", matrix, x)[:, 1:] for x in in_parts(images))
        mean, std = channel_moments(uv)
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(1e-6))
        return self

    def forward(self, images):
        yuv = torch.einsum("dc,bchw->bdhw", self.matrix, images)
        uv = (yuv[:, 1:] - self.mean[:, None, None]) / self.std[:, None, None]
        return torch.cat([self.local_contrast(yuv[:, :1]), uv], dim=1)

    def local_contrast(self, y: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        y = y - self.local_mean(y)
        return y / self.local_mean(y.square()).sqrt().clamp_min(self.SMALLEST)

    def local_mean(self, y: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        inside = self.blur(torch.ones_like(y[:1]))
        return self.blur(y) / inside

    def blur(self, y: Tensor) -> Tensor:
        y = F.conv2d(y, self.taps.view(1, 1, 1, 7), padding=(0, 3))
        return F.conv2d(y, self.taps.view(1, 1, 7, 1), padding=(3, 0))


PREPROCESSES = {"mean-std": MeanStd, "yuv": YUV}


def build_preprocess(name: str) -> Preprocess:
    """An unfitted preprocessing by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in PREPROCESSES:
        raise ValueError(
            f"unknown preprocessing {name!r}: choose one of {', '.join(PREPROCESSES)}"
        )
    return PREPROCESSES[name]()
