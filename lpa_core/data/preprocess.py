"""Normalisation of images, fitted on a training set (Jetley et al. 2018, A.1).

`mean-std` is the simple default. The authors' code used `yuv` for CIFAR and VGG, `zca` for
CIFAR and ResNets, and `scale` for SVHN and CUB. All work on float images (B, 3, H, W) in
[0, 1], on the device, one batch at a time.
"""

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpa_core.data.dataset import Arrays, data_folder, save_prepared
from lpa_core.shapes import Float, UInt8

__all__ = [
    "PREPROCESSES",
    "YUV",
    "ZCA",
    "MeanStd",
    "Preprocess",
    "Scale",
    "build_preprocess",
    "resize",
]


def resize(images: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c s s"]:
    """Images at `size` pixels per side, bilinear, antialiased; unchanged at that size."""
    if images.shape[2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


class Preprocess(nn.Module):
    """Fitted once with `fit`, then called on batches. Buffers hold the fitted numbers."""

    def fit(self, images: UInt8[Tensor, "n h w 3"]) -> "Preprocess":
        raise NotImplementedError

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        raise NotImplementedError


def in_batches(
    images: UInt8[Tensor, "n h w 3"], batch_size: int = 5000
) -> Iterator[Float[Tensor, "b 3 h w"]]:
    """Images in [0, 1], in double precision, in batches that save memory."""
    for batch in images.split(batch_size):
        yield batch.permute(0, 3, 1, 2).double().div_(255)


def channel_moments(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all images and positions."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for x in batches:
        count += x.shape[0] * x.shape[2] * x.shape[3]
        total = total + x.sum(dim=(0, 2, 3))
        squares = squares + x.square().sum(dim=(0, 2, 3))
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()


class Scale(Preprocess):
    """The identity: every image is already scaled to [0, 1]."""

    def fit(self, images):
        return self

    def forward(self, images):
        return images


class MeanStd(Preprocess):
    """Subtract each channel's mean over the set and divide by its standard deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))

    def fit(self, images):
        mean, std = channel_moments(in_batches(images))
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(1e-6))
        return self

    def forward(self, images):
        return (images - self.mean[:, None, None]) / self.std[:, None, None]


class YUV(Preprocess):
    """RGB -> YUV; local contrast normalisation of Y, mean and deviation of U and V.

    Local contrast: subtract the Gaussian-weighted mean of each 7x7 neighbourhood, then
    divide by its Gaussian-weighted standard deviation. At the border, only a fraction of
    the window lies inside the image. The mean is divided by that fraction, and so is the
    deviation, after the square root, as in Torch7's SpatialSubtractiveNormalization and
    SpatialDivisiveNormalization.
    """

    MATRIX = (
        (0.299, 0.587, 0.114),
        (-0.14713, -0.28886, 0.436),
        (0.615, -0.51499, -0.10001),
    )
    SMALLEST = 1e-4  # deviation below which a neighbourhood counts as flat

    matrix: Tensor
    taps: Tensor
    mean: Tensor
    std: Tensor

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
        uv = (torch.einsum("dc,bchw->bdhw", matrix, x)[:, 1:] for x in in_batches(images))
        mean, std = channel_moments(uv)
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(1e-6))
        return self

    def forward(self, images):
        yuv = torch.einsum("dc,bchw->bdhw", self.matrix, images)
        uv = (yuv[:, 1:] - self.mean[:, None, None]) / self.std[:, None, None]
        return torch.cat([self.local_contrast(yuv[:, :1]), uv], dim=1)

    def local_contrast(self, y: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        inside = self.blur(torch.ones_like(y[:1]))  # fraction of the window; < 1 at borders
        y = y - self.blur(y) / inside
        deviation = self.blur(y.square()).clamp_min(0).sqrt() / inside
        return y / deviation.clamp_min(self.SMALLEST)

    def blur(self, y: Tensor) -> Tensor:
        y = F.conv2d(y, self.taps.view(1, 1, 1, 7), padding=(0, 3))
        return F.conv2d(y, self.taps.view(1, 1, 7, 1), padding=(3, 0))


class ZCA(Preprocess):
    """Global contrast normalisation, then whitening that keeps images looking like images.

    Each image's mean is subtracted, and the image is scaled to norm 55. Then the training
    set's mean is subtracted, and the pixels are decorrelated: multiplied by
    (C + 0.1 I)^(-1/2), where C is their covariance over the training set (3HW x 3HW).
    These are the steps of `gcn` and `ZCA` in pylearn2, with which the
    wide-residual-networks project made its "whitened" CIFAR. That project whitens the set
    before cropping and mirroring; here each batch is whitened after them.

    Fitting full CIFAR takes minutes on a laptop, so the fitted numbers are cached in the
    data folder and reused for the same images, if that folder is writable.

    Args:
        folder: where the fitted numbers are cached; None for `data_folder()`.
    """

    NORM = 55.0
    BIAS = 0.1
    FLAT = 1e-3  # an image with a smaller norm is uniform; one grey level makes 0.004

    mean: Tensor
    matrix: Tensor

    def __init__(self, folder: str | Path | None = None):
        super().__init__()
        self.folder = folder
        self.register_buffer("mean", torch.zeros(3, 0, 0))
        self.register_buffer("matrix", torch.zeros(0, 0))

    def fit(self, images):
        path = data_folder(self.folder) / f"zca-{self.key(images)}.npz"
        numbers = read_fitted(path, images.shape[1], images.shape[2])
        if numbers is None:
            numbers = self.whitening(images)
            keep_fitted(path, numbers)
        for name in ("mean", "matrix"):
            fitted = torch.from_numpy(numbers[name])
            setattr(self, name, fitted.to(getattr(self, name).device))
        return self

    def key(self, images: UInt8[Tensor, "n h w 3"]) -> str:
        """What the fitted numbers depend on, as 16 hexadecimal digits."""
        digest = hashlib.sha256(f"{tuple(images.shape)} {self.NORM} {self.BIAS}".encode())
        for batch in images.split(5000):
            digest.update(batch.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def whitening(self, images: UInt8[Tensor, "n h w 3"]) -> Arrays:
        """The mean (3, H, W) and the matrix (3HW, 3HW), float32, of a training set.

        Only 1,000 images at a time are converted to double precision.
        """
        height, width = images.shape[1:3]
        pixels = 3 * height * width
        total = torch.zeros(pixels, dtype=torch.double, device=images.device)
        products = torch.zeros(pixels, pixels, dtype=torch.double, device=images.device)
        for x in in_batches(images, 1000):
            x = self.contrast(x).flatten(1)
            total += x.sum(dim=0)
            products.addmm_(x.T, x)
        mean = total / len(images)
        covariance = products.div_(len(images)).sub_(torch.outer(mean, mean))
        covariance.diagonal().add_(self.BIAS)
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp_min(self.BIAS)  # rounding may have taken it below its minimum
        matrix = (vectors * values.rsqrt()) @ vectors.T
        return {
            "mean": mean.float().view(3, height, width).cpu().numpy(),
            "matrix": matrix.float().cpu().numpy(),
        }

    def contrast(self, images: Tensor) -> Tensor:
        """Each image (3, H, W) minus its mean, scaled to norm 55; a uniform one gives 0."""
        centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
        norm = torch.linalg.vector_norm(centred, dim=(1, 2, 3), keepdim=True)
        factor = self.NORM / norm.clamp_min(self.FLAT)
        return centred * torch.where(norm > self.FLAT, factor, 0.0)

    def forward(self, images):
        if images.shape[1:] != self.mean.shape:
            has = "x".join(map(str, self.mean.shape[1:]))
            got = "x".join(map(str, images.shape[2:]))
            raise ValueError(
                f"zca whitens images of the size that it was fitted on, {has} pixels, but "
                f"got {got}: fit it on such images, or train at one size throughout"
                if self.matrix.numel()
                else "zca is not fitted yet: call fit with the training images first"
            )
        centred = (self.contrast(images) - self.mean).flatten(1)
        return (centred @ self.matrix).view_as(images)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest, **named):
        # An unfitted module has no size yet: it takes the size of the loaded buffers.
        for name in ("mean", "matrix"):
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)


def read_fitted(path: Path, height: int, width: int) -> Arrays | None:
    """The cached whitening at `path` for images of this size; None if there is none.

    A damaged file is reported and ignored, because its numbers can be computed again.
    """
    if not path.exists():
        return None
    pixels = 3 * height * width
    shapes = {"mean": (3, height, width), "matrix": (pixels, pixels)}
    try:
        with np.load(path, allow_pickle=False) as file:
            numbers = {name: file[name] for name in shapes}
        for name, shape in shapes.items():
            if numbers[name].dtype != np.float32 or numbers[name].shape != shape:
                raise ValueError(f"{name} is {numbers[name].dtype} {numbers[name].shape}")
    except Exception as error:  # a damaged archive may fail in any way
        warnings.warn(f"{path} is damaged ({error}): fitting again", stacklevel=3)
        return None
    return numbers


def keep_fitted(path: Path, numbers: Arrays) -> None:
    """Write the fitted numbers, all or nothing; on a full disk, do without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_prepared(path, numbers)
    except OSError:
        return


PREPROCESSES = {"mean-std": MeanStd, "yuv": YUV, "scale": Scale, "zca": ZCA}


def build_preprocess(name: str) -> Preprocess:
    """An unfitted preprocessing module by its name.

    Raises:
        ValueError: unknown name.
    """
    if name not in PREPROCESSES:
        raise ValueError(
            f"unknown preprocessing {name!r}: choose one of {', '.join(PREPROCESSES)}"
        )
    return PREPROCESSES[name]()
